"""Experts over devices against one; the mixture itself is held to `reference`."""

import dataclasses
import functools
import re

import agree
import pytest
import tiny
import tiny_family

from gptjax import command, sharding
from gptjax.model import config, transformer

ARCH = tiny_family.arch('mixtral', experts=config.Experts(E=8, k=2, balance=0.1, z=0.1))
BATCHES = [tiny.packed_batch(8, ARCH, seed) for seed in range(20)]


@functools.cache
def one_device(accumulate: int = 1, arch=ARCH):
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    return agree.train(model, BATCHES, accumulate)


def all_to_alls(text: str) -> int:
    """Those of the exchange: the partitioner may have some of its own."""
    return len(
        re.findall(r' all-to-all(?:-start)?\(.*op_name="[^"]*/all_to_all"', text)
    )


long = functools.partial(pytest.param, marks=pytest.mark.long)


@pytest.mark.long
@pytest.mark.parametrize(
    ('sizes', 'rules', 'expert', 'accumulate'),
    [
        ((1, 2, 2), 'expert_fsdp_tensor', 2, 1),
        ((1, 1, 1), 'expert', 8, 1),
        ((1, 2, 1), 'expert_fsdp', 4, 1),
        ((2, 1, 1), 'expert', 2, 2),
        ((1, 1, 2), 'expert_tensor_sequence', 4, 1),
    ],
    ids=str,
)
def test_experts_over_devices_agree_with_one(sizes, rules, expert, accumulate):
    """20 losses and the first gradients, of packed rows with padding.

    Rows travel there and back, forward and backward, in one round that always runs and
    a loop of more that may not; how many come from each expert, once. Mutation: the
    gradient of a weight not summed over `data`.
    """
    place = sharding.make(*sizes, rules, expert=expert)
    model = transformer.make(ARCH, tiny.COMPUTE, place)
    found = agree.train(model, BATCHES, accumulate)
    agree.check(found, one_device(accumulate))
    # Forward: counts, there, back, and these two in the loop; backward: there and back,
    # and in the loop forward's again.
    assert all_to_alls(found[2]) == 1 + 2 + 2 + 2 + 3


@pytest.mark.parametrize(('expert', 'stage'), [(2, 1), long(8, 1), long(4, 2)])
def test_no_token_is_dropped_where_all_choose_the_same_experts(expert, stage):
    """Several rounds. Mutations: one alone; rows of the next in another order."""
    arch = dataclasses.replace(ARCH, L=stage)

    def skew(params):  # of equal shares, top_k takes the first k
        params['blocks']['experts']['router'] *= 0
        return params

    one = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    place = sharding.make(1, 1, 1, 'expert_stage', expert=expert, stage=stage)
    several = transformer.make(arch, tiny.COMPUTE, place)
    agree.check(*(agree.once(model, BATCHES[0], skew) for model in (several, one)))


def test_experts_that_do_not_split_are_refused():
    place = sharding.make(1, 1, 1, 'expert', expert=3)
    model = transformer.make(ARCH, tiny.COMPUTE, place)
    with pytest.raises(command.UserError, match=r"'experts' .* 8, which 3 parts"):
        transformer.abstract(model)
