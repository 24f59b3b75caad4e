"""What Muon costs and what it saves, beside AdamW.

The part of AdamW's tokens is the RESULT of experiments/2026_11_muon.py, which takes
half an hour. The cost is of whole steps by turns, in a batch whose products outweigh
those of Newton-Schulz as they do in large runs. For B tokens, a layer of GPT-2's, of
width m, has 72 m^2 B operations in products with weights and 300 m^3 in Newton-Schulz,
4.2 m / B of them: 39 % for width 384 and 4,096 tokens, 0.6 % for GPT-2 and 524,288.
"""

from collections.abc import Iterator
import functools
from importlib import import_module
import statistics
import time
from typing import Any

import jax
import numpy as np

from gptjax import sharding as sharding_lib
from gptjax.model import config as config_lib
from gptjax.model import cost, transformer
from gptjax.model import table as model_table
from gptjax.objectives import next_token
from gptjax.train import schedules, table
from gptjax.train import state as state_lib
from gptjax.train import step as step_lib

ROUNDS = 7
T, ROWS = 128, 128
ADAM = dict(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, clip_norm=1.0)
OPTIONS = {
    'adamw': ADAM,
    'muon': dict(momentum=0.95, nesterov=True, adam_ratio=1.0, **ADAM),
}


def rows() -> Iterator[dict[str, Any]]:
    muon = import_module('experiments.2026_11_muon')
    yield {
        'name': "Muon's tokens to the final loss of AdamW, python_docs, 3 seeds",
        'value': muon.part(),
        'goal': 0.7,
        'direction': 'min',
        'unit': "of AdamW's",
        'command': 'python -m experiments.2026_11_muon DATASET',
    }
    yield from _overhead()


def _overhead() -> Iterator[dict[str, Any]]:
    preset = model_table.preset('gpt2-micro', V=512, T=T)
    arch = config_lib.architecture(**preset)
    steps = {name: _step(arch, name) for name in OPTIONS}
    seconds: dict[str, list[float]] = {name: [] for name in OPTIONS}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    own, other = (statistics.median(seconds[name]) for name in ('muon', 'adamw'))
    newton = 300 * arch.D**3 * arch.L / (cost.flops_per_token(arch) * T * ROWS)
    print(f'Newton-Schulz is {newton:.1%} of the operations of the step')
    yield {
        'name': f"Muon's step beside AdamW's, 4 layers of width 128, {T * ROWS} tokens",
        'value': own / other - 1,
        'goal': 0.05,
        'direction': 'min',
        'unit': 'more time',
        'ours': own,
        'peer': other,
    }


def _step(arch: config_lib.Architecture, name: str) -> Any:
    """A function that makes one step of a run, and waits for it."""
    compute = config_lib.Compute('float32', 'none', scan_unroll=0, accumulate=1)
    model = transformer.make(arch, compute, sharding_lib.single())
    schedule = schedules.constant(1e-3, 0, steps=100)
    optimizer = table.OPTIMIZERS[name](schedule, **OPTIONS[name])
    boxed = transformer.abstract(model)
    _, places = state_lib.shardings_of(boxed, optimizer, model.sharding)
    params = transformer.init(model, jax.random.key(0))
    state = state_lib.create(params, optimizer, 0, places)
    options = dict(loss_fn=next_token.make(model), optimizer=optimizer, accumulate=1)
    run = jax.jit(functools.partial(step_lib.train_step, **options), donate_argnums=0)
    tokens = np.random.default_rng(0).integers(0, arch.V, (ROWS, T + 1), np.int32)
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (ROWS, T))
    batch = {
        'tokens': tokens[:, :-1],
        'targets': tokens[:, 1:],
        'segments': np.ones((ROWS, T), np.int32),
        'positions': positions,
        'weights': np.ones((ROWS, T), np.float32),
    }

    def step() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(run(state, {}, batch))

    step()
    return step
