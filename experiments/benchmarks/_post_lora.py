"""LoRA: the memory of a step over a float32 base and quantised ones, and its speed."""

from collections.abc import Iterator
import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gptjax import sharding as sharding_lib
from gptjax.model import config, transformer
from gptjax.model.families import gpt2
from gptjax.objectives import next_token
from gptjax.train import adapter, state, step

ROWS = 8
TURNS = 5
TARGETS = ('blocks/attention', 'blocks/mlp')


def rows() -> Iterator[dict[str, Any]]:
    arch = gpt2.sized(L=4, N=4, D=256, T=256, V=4096)
    compute = config.Compute('float32', remat='none', scan_unroll=1, accumulate=1)
    model = transformer.make(arch, compute, sharding_lib.single())
    params = transformer.init(model, jax.random.key(0))
    # Donated, so each step needs parameters of its own.
    plain = _compiled(model, jax.tree.map(jnp.copy, params), None)
    over = {
        base: _compiled(
            model, params, adapter.Adapter(8, 16.0, False, TARGETS, (), base)
        )
        for base in ('float32', 'int8', 'nf4')
    }
    assert over['float32'].loss() == plain.loss(), 'fresh adapters change no bit'
    peak = plain.temporaries
    for base, made in over.items():
        yield {
            'name': f'peak temporaries of a LoRA step over {base} / of a step of all',
            'value': made.temporaries / peak, 'goal': 1.1, 'direction': 'min',
            'unit': 'ratio', 'ours': made.temporaries, 'peer': peak,
        }  # fmt: skip
    for base, goal in (('int8', 0.5), ('nf4', 0.4)):
        ours, peer = over[base].held, over['float32'].held
        yield {
            'name': f'bytes of a {base} base / of the float32 one, embeddings included',
            'value': ours / peer, 'goal': goal, 'direction': 'min', 'unit': 'ratio',
            'ours': ours, 'peer': peer,
        }  # fmt: skip
    everything = {'all': plain, **over}
    seconds: dict[str, list[float]] = {name: [] for name in everything}
    for _ in range(TURNS):
        for name, made in everything.items():
            seconds[name].append(made.seconds())
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for base, goal in (('float32', 1.0), ('int8', 1.1), ('nf4', 1.1)):
        yield {
            'name': f'seconds of a LoRA step over {base} / of a step of all weights',
            'value': medians[base] / medians['all'], 'goal': goal,
            'direction': 'min', 'unit': 'ratio', 'ours': medians[base],
            'peer': medians['all'],
        }  # fmt: skip


class _Step:
    """A compiled train step with its state, one batch and what it reads."""

    def __init__(self, run: Any, now: Any, frozen: Any, batch: Any):
        self._now, self._frozen, self._batch = now, frozen, batch
        self._run = run.lower(now, frozen, batch).compile()
        self.held = sum(leaf.nbytes for leaf in jax.tree.leaves(frozen))

    @property
    def temporaries(self) -> int:
        return int(self._run.memory_analysis().temp_size_in_bytes)

    def loss(self) -> float:
        """Of the batch, before a step that this makes."""
        self._now, metrics = self._run(self._now, self._frozen, self._batch)
        return float(metrics['loss'])

    def seconds(self) -> float:
        before = time.perf_counter()
        self.loss()
        return time.perf_counter() - before


def _compiled(
    model: transformer.Model, params: Any, section: adapter.Adapter | None
) -> _Step:
    boxed, place, optimizer = (
        transformer.abstract(model),
        model.sharding,
        optax.adam(1e-4),
    )
    loss_fn, frozen, trained = next_token.make(model), {}, boxed
    if section:
        loss_fn, trained = section.loss(loss_fn), section.trained(boxed)
        frozen = {'base': section.over(boxed, place, params)}
        params = section.start(boxed, place, 0, lambda: params)
    _, places = state.shardings_of(trained, optimizer, place)
    now = state.create(params, optimizer, 0, places)
    run = jax.jit(
        functools.partial(
            step.train_step, loss_fn=loss_fn, optimizer=optimizer, accumulate=1
        ),
        donate_argnums=0,
    )
    tokens = np.random.default_rng(0).integers(
        0, model.arch.V, (ROWS, model.arch.T + 1)
    )
    ones = np.ones((ROWS, model.arch.T), np.int32)
    batch = {
        'tokens': tokens[:, :-1],
        'targets': tokens[:, 1:],
        'segments': ones,
        'positions': np.cumsum(ones, axis=1) - 1,
        'weights': ones,
    }
    given = {
        name: jnp.asarray(x, jnp.float32 if name == 'weights' else jnp.int32)
        for name, x in batch.items()
    }
    return _Step(run, now, frozen, given)
