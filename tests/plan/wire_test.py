"""What the planner says is sent, against compiled steps on 8 simulated devices."""

from collections import Counter
import dataclasses

import jax
import messages
import numpy as np
import pytest

from configs import gpt2
from gptjax import sharding as sharding_lib
from gptjax.model import cost
from gptjax.model import table as model_table
from gptjax.plan import hlo, job, search, step, targets
from gptjax.train import settings as settings_lib

SIZES = dict(T=32, V=64, D=48, F=72, N=4, K=4, H=8, L=4)
ROWS = 16
ROW = 4 * SIZES['T'] * SIZES['D']  # bytes of the stream of a row of tokens
SMALL = 0.002  # of what is sent: statistics of the loss, numbers of tokens

# Rules, mesh, family, compute; and sums of the stream, in rows, that only CPUs have:
# their barriers keep those of queries, keys and values apart, and of gate and up.
CASES = {
    'data': ('data', dict(data=8), 'llama', {}, 0),
    'data, microbatches': ('data', dict(data=8), 'llama', dict(accumulate=2), 0),
    'fsdp': ('fsdp', dict(fsdp=8), 'llama', {}, 0),
    'fsdp, full': ('fsdp', dict(fsdp=8), 'llama', dict(remat='full'), 0),
    'slice': ('fsdp', dict(slice=2, fsdp=4), 'llama', {}, 0),
    'tensor': ('data_tensor', dict(data=2, tensor=4), 'llama', {}, 3 * 4 * 8),
    'tensor, full': (
        'data_tensor', dict(data=2, tensor=4), 'llama', dict(remat='full'), 3 * 4 * 8,
    ),
    'fsdp tensor': ('fsdp_tensor', dict(fsdp=4, tensor=2), 'llama', {}, 3 * 4 * 4),
    'context': ('fsdp_context', dict(fsdp=4, context=2), 'llama', {}, 0),
    'stage': ('stage_data', dict(stage=4, data=2), 'llama', {}, 0),
    'stage fsdp': (
        'stage_fsdp', dict(stage=2, data=2, fsdp=2), 'llama', {}, 0,
    ),
    'expert': ('data_expert', dict(data=2, expert=4), 'mixtral', {}, 0),
    'expert fsdp': ('expert_fsdp', dict(expert=4, fsdp=2), 'mixtral', {}, 0),
    'expert fsdp, full': (
        'expert_fsdp', dict(expert=4, fsdp=2), 'mixtral', dict(remat='full'), 0,
    ),
}  # fmt: skip
FAST = ('data, microbatches', 'slice')


def config_of(rules, sizes, family, **compute):
    config = gpt2.get_config('small')
    config.model = model_table.preset(f'{family}-nano', **SIZES)
    config.data.batch_size = ROWS
    config.mesh.update(dict(fsdp=1) | sizes | {'rules': rules})
    config.compute.update(
        dict(dtype='float32', remat='none', accumulate=1, scan_unroll=1) | compute
    )
    return config


def axes_of(group, sizes):
    """The mesh axes along which the devices of a group differ."""
    shape = [sizes.get(axis, 1) for axis in sharding_lib.MESH_AXES]
    places = zip(sharding_lib.MESH_AXES, np.unravel_index(group, shape), strict=True)
    return {axis for axis, numbers in places if len(set(numbers)) > 1}


def operations(made, sizes):
    """Of a token: the model's, those again, the room of experts, and the bubble's."""
    arch = dataclasses.replace(made.arch, T=made.T)
    parts = dict(cost.train_flops(arch))
    if made.compute.remat == 'full':
        parts['attention'] *= 4 / 3
        parts['scores'] *= 4 / 3
        # Of three products not the last, but where its result meets a router's share.
        parts['mlp'] *= 4 / 3 if 'expert' in sizes else 1 + 2 / 9
    parts['mlp'] *= 1.25 if 'expert' in sizes else 1
    layers = parts['attention'] + parts['scores'] + parts['mlp']
    stages = sizes.get('stage', 1)
    return sum(parts.values()) + (stages - 1) / stages * layers


@pytest.mark.parametrize(
    'name',
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.long)
        for name in CASES
    ],
)
def test_a_step_sends_what_is_planned_and_nothing_else(name, capfd):
    """Bytes of each kind of collective, along which axes, and operations.

    Mutations: gradients of copies in each microbatch; a roll that two permutes undo; an
    embedding whose tokens stay where their rows will be; `top_k` outside `shard_map`.
    """
    rules, sizes, family, compute, apart = CASES[name]
    config = config_of(rules, sizes, family, **compute)
    made = job.Job(settings_lib.of(config))
    expected, along = Counter(), {}
    for one in search.evaluate(made, targets.parse('v5e-8'), made.own(8)).sent:
        # XLA for CPUs sums and cuts in place of a scatter.
        scatter = one.by == 'reduce-scatter'
        by = 'all-reduce' if scatter else one.by
        expected[by] += one.bytes * (1 + scatter)
        along.setdefault(by, set()).add(one.axis)
    n = sizes.get('tensor', 1)
    expected['all-reduce'] += 2 * (n - 1) / n * apart * ROW
    small = SMALL * sum(expected.values())
    program = step.of(config)
    text = program.step.lower(*program.arguments).compile().as_text()
    # Rounds of experts after the first are for routers that are far from even.
    found = hlo.Program(text, unknown=0)
    sent = {kind: moved for kind, (_, moved) in found.collectives().items()}
    for kind in {*expected, *sent}:
        assert sent.get(kind, 0) == pytest.approx(expected[kind], 0.02, small), kind
    for one in found.messages():
        if one.times * one.bytes > small and one.kind != 'collective-permute':
            assert axes_of(one.group, sizes) <= along[one.kind], one
    done, tokens = found.flops() * 8, ROWS * SIZES['T']
    assert done <= 1.05 * tokens * operations(made, sizes)
    # No device has the rows of all, nor all of a weight that the rules split.
    assert not [s for s in messages.shapes(text) if s[:2] == (ROWS, SIZES['T'])]
    assert 'rematerialization' not in capfd.readouterr().err
    if rules not in ('data', 'data_expert'):
        for leaf in jax.tree.leaves(program.arguments[0]):
            assert leaf.size < 1000 or not leaf.sharding.is_fully_replicated, leaf
