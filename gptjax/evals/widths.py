"""The coordinate check of muP: do activations move alike in models of all widths?

A model is trained for some steps at several widths, and what each layer says of one
batch is compared with what it said at the start. Where learning rates carry over from
width to width, the mean size of that change does not depend on the width (Yang et al.,
2021, appendix D.1).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import command, core
from gptjax.evals import charts, page
from gptjax.model import attention, gpt, stack, transformer
from gptjax.model import config as model_config
from gptjax.objectives import next_token
from gptjax.train import build
from gptjax.train import settings as settings_lib
from gptjax.train import step as step_lib

# {activation: {width: its mean change after each step}}
Changes = dict[str, dict[int, list[float]]]

ROWS = 4
LONGEST = 64  # tokens in a row
_COMPUTE = model_config.Compute('float32', 'none', 1, 1, attention='reference')


def run(
    config: Any, widths: str, steps: int, seeds: int, html: Path | None = None
) -> str:
    """The check as text, with a page of it in the file `html`; widths: D,D,..."""
    try:
        numbers = [int(part) for part in widths.split(',')]
    except ValueError:
        numbers = []
    if len(set(numbers)) < 2 or min(numbers) < 1 or steps < 1 or seeds < 1:
        raise command.UserError(
            f'--widths={widths} --steps={steps} --seeds={seeds}: the check needs two '
            'widths or more, whole numbers such as 128,256, and a step and a seed at '
            'least.'
        )
    found, losses = changes(config, sorted(set(numbers)), steps, seeds)
    told = text(found, losses)
    if html:
        try:
            html.write_text(page_of(found, told))
        except OSError as error:
            raise command.UserError(f'--html={html}: {error.strerror}.') from error
    return told


def scaled(arch: model_config.Architecture, D: int) -> model_config.Architecture:
    """The model at another width: more or fewer heads, each as wide as before."""
    group = arch.D // arch.K
    if D % group:
        raise command.UserError(
            f'--widths has {D}; this model has widths that are multiples of {group}, '
            'as its heads stay as wide as they are.'
        )
    times = D / arch.D
    sizes = {name: round(getattr(arch, name) * times) for name in 'FNK'}
    return dataclasses.replace(arch, D=D, **sizes)


def changes(
    config: Any, widths: Sequence[int], steps: int, seeds: int = 1
) -> tuple[Changes, dict[int, float]]:
    """The mean absolute change of activations since the start, and the last losses.

    Of the decoder of a config, in float32 without dropout, on one batch of random
    tokens that are distributed as words are (Zipf, 1949), means over `seeds`. Logits
    are those of the right tokens: those of all others are noise that falls with the
    width. Raises UserError for a width that does not fit, epochs, or another model.
    """
    settings = settings_lib.of(config)
    if 'init_from' in settings['model']:
        raise command.UserError(
            'the check trains models from their start; model.init_from has one width.'
        )
    if 'steps' not in settings:
        raise command.UserError(
            'the check follows the learning rate of a config with steps, and this one '
            'has epochs; set steps in its file.'
        )
    _, model = build.begin_of(settings)
    arch = model.arch
    if not arch.causal or arch.encoder_L or arch.head.kind != 'tokens':
        raise command.UserError('the check is for decoders with a head over tokens.')
    T = min(arch.T, LONGEST)
    arch = dataclasses.replace(arch, T=T, dropout=0.0)
    found: Changes = {}
    losses = {}
    for D in widths:
        other = model.clone(arch=scaled(arch, D), compute=_COMPUTE)
        runs = [_run(settings, other, steps, seed) for seed in range(seeds)]
        losses[D] = float(np.mean([loss for _, loss in runs]))
        layers = [f'layer {i}' for i in range(arch.L)]
        for name in ('embedding', *layers, 'last norm', 'logit'):
            sizes = [[at[name] for at in history] for history, _ in runs]
            found.setdefault(name, {})[D] = np.mean(sizes, 0).tolist()
    return found, losses


def slopes(found: Changes) -> dict[str, list[float]]:
    """By activation and step: the power of the width by which the change grows."""
    return {
        name: np.polyfit(np.log(list(by)), np.log(list(by.values())), 1)[0].tolist()
        for name, by in found.items()
    }


def text(found: Changes, losses: Mapping[int, float]) -> str:
    """A line for each activation: its change at the last step, and the worst slope."""
    widths = list(losses)
    lines = ['activation  ' + ''.join(f'{D:>10}' for D in widths) + '  worst slope']
    for name, per_step in slopes(found).items():
        last = ''.join(f'{found[name][D][-1]:>10.4g}' for D in widths)
        lines.append(f'{name:<12}{last}{max(per_step, key=abs):>13.3f}')
    last = ''.join(f'{losses[D]:>10.4g}' for D in widths)
    return '\n'.join([*lines, f'{"loss":<12}{last}'])


def page_of(found: Changes, told: str) -> str:
    """A page: the text, and of each activation the narrowest and widest model."""
    figures = []
    for name, by in found.items():
        lines = [
            charts.Series(f'{D}', list(enumerate(by[D], 1)), colour)
            for D, colour in ((min(by), 'one'), (max(by), 'two'))
        ]
        figures.append(charts.figure(name, lines, 420, 240, True, 'mean change'))
    title = 'Activations of models of several widths'
    heading, table = page.element('h1', title), page.element('pre', told)
    return page.document(title, heading, table, *figures)


def _run(
    settings: Mapping[str, Any], model: transformer.Model, steps: int, seed: int
) -> tuple[list[dict[str, float]], float]:
    params = transformer.init(model, jax.random.key(seed))
    _, optimizer = build.optimizer_of(settings, settings['steps'], model.arch)
    batch, opt_state = _batch(model.arch), optimizer.init(params)
    loss_fn = next_token.make(model)
    say = jax.jit(functools.partial(_activations, model, batch))

    @jax.jit
    def step(params: core.Params, opt_state: Any) -> Any:
        def objective(params: core.Params) -> jax.Array:
            return step_lib.means(loss_fn(params, {}, batch, None))['loss']

        loss, grads = jax.value_and_grad(objective)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return jax.tree.map(jnp.add, params, updates), opt_state, loss

    start, history, loss = say(params), [], jnp.nan
    for _ in range(steps):
        params, opt_state, loss = step(params, opt_state)
        now = say(params)
        history.append(
            {name: float(jnp.mean(jnp.abs(now[name] - start[name]))) for name in now}
        )
    return history, float(loss)


def _batch(arch: model_config.Architecture) -> core.Batch:
    often = 1 / np.arange(1, arch.V + 1)
    tokens = np.random.default_rng(0).choice(
        arch.V, (ROWS, arch.T + 1), p=often / often.sum()
    )
    ones = np.ones((ROWS, arch.T))
    found = {
        'tokens': tokens[:, :-1], 'targets': tokens[:, 1:], 'segments': ones,
        'positions': np.cumsum(ones, 1) - 1,
    }  # fmt: skip
    batch = {name: jnp.array(x, jnp.int32) for name, x in found.items()}
    return {**batch, 'weights': jnp.ones((ROWS, arch.T))}


def _activations(
    model: Any, batch: core.Batch, params: core.Params
) -> dict[str, jax.Array]:
    """The stream after the embedding, each layer and the last norm; right logits."""
    variables = {'params': params}
    positions, segments = batch['positions'], batch['segments']
    context = attention.packed(model.arch, positions, segments)
    block = stack.Block(model.arch, model.sharding)
    x: Any = model.apply(variables, batch['tokens'], positions, method='embed')
    found = {'embedding': x}
    for i, weights in enumerate(gpt.unstack(params)['blocks']):
        window = model.arch.window(i)
        x = block.apply({'params': weights}, x, window, context, None, None)[0]
        found[f'layer {i}'] = x
    x = model.apply(variables, x, method='leave')
    logits: Any = model.apply(variables, x, method='logits')
    right = jnp.take_along_axis(logits, batch['targets'][..., None], -1)
    return {**found, 'last norm': x, 'logit': right}
