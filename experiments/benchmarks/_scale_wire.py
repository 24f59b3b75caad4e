"""What compiled steps send and compute, beside what the planner says of them.

The train step of every run, for 8 simulated devices, in float32. Bytes are those that
rings send, of one device, by kind of collective.
"""

import collections
from collections.abc import Iterator
import dataclasses
import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

from configs import gpt2
from gptjax.model import cost
from gptjax.model import table as model_table
from gptjax.plan import hlo, job, search, targets
from gptjax.plan import step as step_lib
from gptjax.train import settings as settings_lib

DEVICES, ROWS, ROOM = 8, 16, 1.25
SIZES = dict(T=32, V=64, D=48, F=72, N=4, K=4, H=8, L=4)
STREAM = 4 * SIZES['T'] * SIZES['D']  # bytes of a row of tokens
FULL = dict(remat='full')

# Rules, mesh, family, compute; and sums of the stream, in rows, that only CPUs have:
# their barriers keep those of queries, keys and values apart, and of gate and up.
CASES: dict[str, tuple[str, dict[str, int], str, dict[str, Any], int]] = {
    'data': ('data', dict(data=8), 'llama', {}, 0),
    'data, microbatches': ('data', dict(data=8), 'llama', dict(accumulate=2), 0),
    'fsdp': ('fsdp', dict(fsdp=8), 'llama', {}, 0),
    'fsdp, full': ('fsdp', dict(fsdp=8), 'llama', FULL, 0),
    'slice': ('fsdp', dict(slice=2, fsdp=4), 'llama', {}, 0),
    'tensor': ('data_tensor', dict(data=2, tensor=4), 'llama', {}, 3 * 4 * 8),
    'tensor, full': ('data_tensor', dict(data=2, tensor=4), 'llama', FULL, 3 * 4 * 8),
    'fsdp tensor': ('fsdp_tensor', dict(fsdp=4, tensor=2), 'llama', {}, 3 * 4 * 4),
    'context': ('fsdp_context', dict(fsdp=4, context=2), 'llama', {}, 0),
    'stage': ('stage_data', dict(stage=4, data=2), 'llama', {}, 0),
    'stage fsdp': ('stage_fsdp', dict(stage=2, data=2, fsdp=2), 'llama', {}, 0),
    'expert': ('data_expert', dict(data=2, expert=4), 'mixtral', {}, 0),
    'expert fsdp': ('expert_fsdp', dict(expert=4, fsdp=2), 'mixtral', {}, 0),
    'expert fsdp, full': ('expert_fsdp', dict(expert=4, fsdp=2), 'mixtral', FULL, 0),
}  # fmt: skip


class Compared(NamedTuple):
    """A compiled step and its plan."""

    sent: dict[str, float]  # bytes by kind of collective
    planned: dict[str, float]
    along: dict[str, set[str]]  # mesh axes by kind, as planned
    operations: float  # of products, over those of the model
    text: str
    program: step_lib.Program


def compared(name: str) -> Compared:
    rules, sizes, family, compute, apart = CASES[name]
    config = gpt2.get_config('small')
    config.model = model_table.preset(f'{family}-nano', **SIZES)
    config.data.batch_size = ROWS
    config.mesh.update(dict(fsdp=1) | sizes | {'rules': rules})
    config.compute.update(
        dict(dtype='float32', remat='none', accumulate=1, scan_unroll=1) | compute
    )
    made = job.Job(settings_lib.of(config))
    planned: dict[str, float] = collections.defaultdict(float)
    along: dict[str, set[str]] = {}
    for one in search.evaluate(made, targets.parse('v5e-8'), made.own(DEVICES)).sent:
        # XLA for CPUs sums and cuts in place of a scatter.
        scatter = one.by == 'reduce-scatter'
        by = 'all-reduce' if scatter else one.by
        planned[by] += one.bytes * (1 + scatter)
        along.setdefault(by, set()).add(one.axis)
    n = sizes.get('tensor', 1)
    planned['all-reduce'] += 2 * (n - 1) / n * apart * STREAM
    program = step_lib.of(config)
    text = program.step.lower(*program.arguments).compile().as_text() or ''
    # Rounds of experts after the first are for routers that are far from even.
    found = hlo.Program(text, unknown=0)
    sent = {kind: moved for kind, (_, moved) in found.collectives().items()}
    done = found.flops() * DEVICES / (ROWS * SIZES['T'] * _operations(made, sizes))
    return Compared(sent, planned, along, done, text, program)


def _operations(made: job.Job, sizes: dict[str, int]) -> float:
    """Of a token: the model's, those again, the room of experts, and the bubble's."""
    parts = cost.train_flops(dataclasses.replace(made.arch, T=made.T))
    if made.compute.remat == 'full':
        parts['attention'] *= 4 / 3
        parts['scores'] *= 4 / 3
        # Of three products not the last, but where its result meets a router's share.
        parts['mlp'] *= 4 / 3 if 'expert' in sizes else 1 + 2 / 9
    parts['mlp'] *= ROOM if 'expert' in sizes else 1
    layers = parts['attention'] + parts['scores'] + parts['mlp']
    stages = sizes.get('stage', 1)
    return sum(parts.values()) + (stages - 1) / stages * layers


def rows() -> Iterator[dict[str, Any]]:
    flags = f'--xla_force_host_platform_device_count={DEVICES}'
    done = subprocess.run(
        [sys.executable, '-m', 'experiments.benchmarks._scale_wire'],
        env={**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
        stdout=subprocess.PIPE,
        check=True,
    )
    for line in done.stdout.splitlines():
        name, apart, operations, sent, planned = json.loads(line)
        yield {
            'name': f'wire: {name}, bytes by kind of collective, compiled / planned',
            'value': apart, 'goal': 0.02, 'direction': 'min', 'unit': 'off',
            'ours': sent, 'peer': planned,
        }  # fmt: skip
        yield {
            'name': f'operations: {name}, compiled / those of the model and of remat',
            'value': operations, 'goal': 1.05, 'direction': 'min', 'unit': 'times',
        }  # fmt: skip


def main() -> None:
    for name in CASES:
        found = compared(name)
        total = sum(found.planned.values())
        kinds = dict.fromkeys(found.sent, 0.0) | found.planned
        apart = max(
            abs(found.sent.get(kind, 0) - planned) / max(planned, total / 10)
            for kind, planned in kinds.items()
        )
        both = sum(found.sent.values()), total
        print(json.dumps([name, apart, found.operations, *both]), flush=True)


if __name__ == '__main__':
    main()
