"""What the guard of a step costs: the same steps with it and without it, by turns.

Both sides are first shown to do the same updates, bit for bit.
"""

from collections.abc import Callable, Iterator
import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import sharding as sharding_lib
from gptjax import trees
from gptjax.model import config as model_config
from gptjax.model import table as model_table
from gptjax.model import transformer
from gptjax.objectives import next_token
from gptjax.train import guard, optim, schedules
from gptjax.train import state as state_lib
from gptjax.train import step as step_lib

ROUNDS, STEPS = 15, 4
ARCH = dict(T=128, V=1024, D=256, F=1024, N=4, H=64, L=4)
ROWS = 8


def rows() -> Iterator[dict[str, Any]]:
    sides = {
        'with': _program(guard.Options(sigma=6.0)),
        'without': _program(None),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for name, (step, state) in sides.items():
        for _ in range(3):
            state = step(state)
        sides[name] = step, state
    found = [trees.digest((s.params, s.opt_state)) for _, s in sides.values()]
    if found[0] != found[1]:
        raise AssertionError('the guard changes the updates of good steps')
    for turn in range(ROUNDS):
        for name in sorted(sides, reverse=turn % 2 == 0):
            step, state = sides[name]
            start = time.perf_counter()
            for _ in range(STEPS):
                state = step(state)
            jax.block_until_ready(state)
            seconds[name].append((time.perf_counter() - start) / STEPS)
            sides[name] = step, state
    pairs = zip(seconds['with'], seconds['without'], strict=True)
    yield {
        'name': 'step with the guard / step without it',
        'value': statistics.median(a / b for a, b in pairs),
        'goal': 1.03,
        'direction': 'min',
        'unit': 'ratio of times',
        'ours': statistics.median(seconds['with']),
        'peer': statistics.median(seconds['without']),
    }


def _program(
    options: guard.Options | None,
) -> tuple[Callable[[state_lib.State], state_lib.State], state_lib.State]:
    """(a step from one state to the next, the state at the start)."""
    section = model_table.preset('gpt2-micro', **ARCH)
    compute = model_config.Compute('float32', remat='none', scan_unroll=1, accumulate=1)
    place = sharding_lib.single()
    model = transformer.make(
        model_config.architecture('model', **section), compute, place
    )
    optimizer = optim.adamw(
        schedules.cosine(1e-3, 10, 1e-4, steps=1000),
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.1,
        clip_norm=1.0,
    )
    extra = {'guard': guard.start(options)} if options else {}
    extra = jax.device_put(extra, place.replicated)
    boxed = transformer.abstract(model)
    _, places = state_lib.shardings_of(boxed, optimizer, place, extra=extra)
    params = transformer.init(model, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (ROWS, ARCH['T'] + 1), 0, ARCH['V'])
    positions = jnp.broadcast_to(jnp.arange(ARCH['T']), (ROWS, ARCH['T']))
    batch = {
        'tokens': tokens[:, :-1],
        'targets': tokens[:, 1:],
        'segments': jnp.ones_like(positions),
        'positions': positions,
        'weights': jnp.ones(positions.shape),
    }
    step = jax.jit(
        functools.partial(
            step_lib.train_step,
            loss_fn=next_token.make(model),
            optimizer=optimizer,
            accumulate=1,
            guard=options,
        ),
        out_shardings=(places, place.replicated),
        donate_argnums=0,
    )
    state = state_lib.create(params, optimizer, 0, places, extra=extra)
    return lambda state: step(state, {}, batch)[0], state
