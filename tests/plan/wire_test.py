"""What the planner says is sent, against compiled steps on 8 simulated devices."""

import jax
import messages
import numpy as np
import pytest

from experiments.benchmarks import _scale_wire
from gptjax import sharding as sharding_lib
from gptjax.plan import hlo

SMALL = 0.002  # of what is sent: statistics of the loss, numbers of tokens
FAST = ('data, microbatches', 'slice')


def axes_of(group, sizes):
    """The mesh axes along which the devices of a group differ."""
    shape = [sizes.get(axis, 1) for axis in sharding_lib.MESH_AXES]
    places = zip(sharding_lib.MESH_AXES, np.unravel_index(group, shape), strict=True)
    return {axis for axis, numbers in places if len(set(numbers)) > 1}


@pytest.mark.parametrize(
    'name',
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.long)
        for name in _scale_wire.CASES
    ],
)
def test_a_step_sends_and_computes_what_is_planned_and_nothing_else(name, capfd):
    """Bytes of each kind of collective, along which axes, and operations.

    Of permutations each pair counts, as the first may be of a device with itself.
    Mutations: gradients of copies in each microbatch; a roll that two permutes undo; an
    embedding whose tokens stay where their rows will be; `top_k` outside `shard_map`.
    """
    rules, sizes, *_ = _scale_wire.CASES[name]
    step = _scale_wire.compared(name)
    small = SMALL * sum(step.planned.values())
    for kind in {*step.planned, *step.sent}:
        planned = pytest.approx(step.planned.get(kind, 0), 0.02, small)
        assert step.sent.get(kind, 0) == planned, kind
    for one in hlo.Program(step.text, unknown=0).messages():
        if one.times * one.bytes > small:
            along = step.along[one.kind]
            # Rows of an embedding lie in another order, over all of the batch.
            along = along | {'fsdp'} if one.pairs and 'expert' in along else along
            for group in one.pairs or (one.group,):
                assert axes_of(group, sizes) <= along, one
    assert step.operations <= 1.05
    # No device has the rows of all, nor all of a weight that the rules split.
    rows = _scale_wire.ROWS, _scale_wire.SIZES['T']
    assert not [shape for shape in messages.shapes(step.text) if shape[:2] == rows]
    assert 'rematerialization' not in capfd.readouterr().err
    if rules not in ('data', 'data_expert'):
        for leaf in jax.tree.leaves(step.program.arguments[0]):
            assert leaf.size < 1000 or not leaf.sharding.is_fully_replicated, leaf
