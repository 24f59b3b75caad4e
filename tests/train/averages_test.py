"""Averages of weights, `optimizer.ema`: kept, saved, evaluated, and what is loaded."""

import contextlib

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_config

from gptjax import command, trees
from gptjax.model import transformer
from gptjax.train import build, checkpoint, log, loop, optim


def test_an_average_is_its_formula():
    """Mutation: the average of weights before the update, or without a warm-up."""
    optimizer = optim.averaged(optax.sgd(0.5), 0.3)
    params = {'w': jnp.array([1.0, -2.0])}
    opt_state = optimizer.init(params)
    ema, weights = np.array([1.0, -2.0]), np.array([1.0, -2.0])
    for n, kept in enumerate((2 / 11, 3 / 12, 0.3, 0.3)):
        grads = {'w': jnp.array([0.1 * n, 1.0])}
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        weights = weights - 0.5 * np.array([0.1 * n, 1.0])
        ema = kept * ema + (1 - kept) * weights
        np.testing.assert_allclose(params['w'], weights, rtol=1e-6)
        np.testing.assert_allclose(opt_state.ema['w'], ema, rtol=1e-6)


def config(raw):
    made = tiny_config.get_config()
    made.data.path, made.steps = str(raw), 6
    made.optimizer.update(
        dict(name='normuon', momentum=0.9, nesterov=True, neuron_b2=0.95)
    )
    made.optimizer.update(dict(adam_ratio=1.0, ema=0.25, freeze=('blocks[0]',)))
    made.checkpoint = dict(every=1, keep=6)
    made.mesh = dict(data=1, fsdp=2, tensor=2, rules='fsdp_tensor')
    return made


def saved(workdir):
    with contextlib.closing(checkpoint.Checkpoints(workdir, keep=1)) as found:
        return {step: found.whole(step) for step in found.steps()}


@pytest.mark.long
def test_averages_are_saved_resumed_evaluated_and_loaded(tmp_path, monkeypatch):
    """Of a part of the layers, on 4 devices, beside an optimizer of two kinds.

    Mutations: averages restored as weights; load that takes the weights.
    """
    raw = tmp_path / 'text.txt'
    raw.write_text(tiny_config.text())
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    run = build.build(config(raw), whole)
    assert loop.train(run)
    monkeypatch.setattr(loop._Loop, '_agreed', lambda self, _: self.step == 4)
    assert not loop.train(build.build(config(raw), parts))
    monkeypatch.undo()
    assert loop.train(build.build(config(raw), parts))
    manifests = saved(whole)
    assert saved(parts)[6]['arrays'] == manifests[6]['arrays']
    assert log.read(parts)[-1]['eval_ema_loss'] == log.read(whole)[-1]['eval_ema_loss']

    shapes = nn.unbox(run.boxed)
    places = run.model.sharding.of_boxed(run.boxed)
    with contextlib.closing(checkpoint.Checkpoints(whole, keep=1)) as found:
        steps = [
            jax.device_get(found.restore_params(manifests[n], shapes, places))
            for n in sorted(manifests)
        ]
    ema = jax.device_get(transformer.init(run.model, jax.random.key(0)))
    for n, params in enumerate(steps, start=1):
        kept = min(0.25, (1 + n) / (10 + n))
        ema = jax.tree.map(lambda a, p, k=kept: k * a + (1 - k) * p, ema, params)
    loaded = build.load(whole)
    for (path, found), (_, wanted) in zip(
        trees.paths(loaded.params), trees.paths(ema), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-6, err_msg=path)
    last = jax.tree.leaves(steps[-1])
    assert (
        max(
            np.abs(a - b).max()
            for a, b in zip(jax.tree.leaves(loaded.params), last, strict=True)
        )
        > 1e-4
    )  # or nothing is shown

    other = config(raw)
    other.optimizer.ema = 0.0
    with pytest.raises(command.UserError, match=r'optimizer\.name, freeze and ema'):
        loop.train(build.build(other, parts, allow_config_change=True))


@pytest.mark.parametrize('ema', [1.0, -0.1, True])
def test_an_average_that_cannot_be_is_refused(ema):
    settings = tiny_config.get_config().to_dict()
    settings['optimizer']['ema'] = ema
    with pytest.raises(command.UserError, match=r'optimizer\.ema is'):
        build.optimizer_of(settings, 100)
