"""Layers over devices against one device: losses, gradients, and the schedule."""

import dataclasses
import functools
import re

import agree
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_family

from gptjax import command, sharding
from gptjax.model import config, pipeline, transformer

ARCH = tiny_family.arch('llama', L=4)
BATCHES = [tiny.packed_batch(8, ARCH, seed) for seed in range(20)]
EXPERTS = config.Experts(E=4, k=2, balance=0.1, z=0.1)


def arch_of(family: str):
    if family == 'mixtral':  # windows and experts, of which there are fewer
        return tiny_family.arch('mixtral', L=4, experts=EXPERTS, windows=(0, 5))
    return ARCH


@functools.cache
def one_device(family: str = 'llama', accumulate: int = 1):
    model = transformer.make(arch_of(family), tiny.COMPUTE, tiny.sharding())
    return agree.train(model, BATCHES, accumulate)


def make(sizes, rules, stage, family='llama', **compute):
    place = sharding.make(*sizes, rules, stage=stage)
    compute = dataclasses.replace(tiny.COMPUTE, **compute)
    return transformer.make(arch_of(family), compute, place)


def trips(text: str) -> set[int]:
    """How often the loops of a compiled program run."""
    return {int(n) for n in re.findall(r'"known_trip_count":\{"n":"(\d+)"\}', text)}


def permutes(text: str) -> int:
    return len(re.findall(r' collective-permute(?:-start)?\(', text))


def test_two_rounds_around_two_stages_compute_what_one_device_does():
    """5 microbatches wait for 3 iterations between rounds; some rows are padding.

    Mutations: a queue that is one shorter; layers in the order of stages alone; the
    context of the first stage's microbatch.
    """
    batch = tiny.packed_batch(10, ARCH)
    batch['segments'] = batch['segments'].at[-3:].set(0)
    model = make((1, 1, 1), 'stage', 2, pipeline_microbatches=5, pipeline_rounds=2)
    found = agree.once(model, batch)
    one = transformer.make(ARCH, tiny.COMPUTE, tiny.sharding())
    agree.check(found, agree.once(one, batch))
    assert 11 in trips(found[2])


@pytest.mark.long
@pytest.mark.parametrize(
    ('sizes', 'rules', 'stage', 'compute', 'iterations'),
    [
        ((2, 1, 1), 'stage', 2, dict(pipeline_rounds=2, pipeline_microbatches=4), 9),
        ((1, 1, 1), 'stage', 4, dict(pipeline_microbatches=8), 11),
        ((1, 1, 2), 'stage_tensor', 4, dict(attention='blocked'), 7),
        ((1, 2, 1), 'stage_fsdp', 2, dict(remat='full'), 3),
        ((1, 1, 2), 'stage_tensor', 2, dict(pipeline_rounds=2, remat='dots'), 5),
        ((1, 1, 1), 'stage', 2, dict(accumulate=2, remat='dots'), 3),
    ],
    ids=str,
)
def test_stages_agree_with_one_device(sizes, rules, stage, compute, iterations):
    """20 losses and the first gradients, of packed rows with padding.

    One loop forward and one backward run rounds x microbatches + stages - 1 times, and
    hand streams on. Mutation: accumulation that cuts other rows.
    """
    model = make(sizes, rules, stage, **compute)
    accumulate = model.compute.accumulate
    found = agree.train(model, BATCHES, accumulate)
    agree.check(found, one_device(accumulate=accumulate))
    rows = 8 // accumulate
    assert pipeline.plan(model.compute, model.sharding, rows).iterations == iterations
    assert iterations in trips(found[2])
    assert permutes(found[2]) >= 2


@pytest.mark.long
@pytest.mark.parametrize(
    ('rules', 'sizes', 'compute'),
    [
        ('stage', {}, {}),
        ('stage_tensor', dict(tensor=2), {}),
        ('stage_expert', dict(expert=4), dict(remat='dots')),
        ('stage_expert_tensor', dict(expert=2, tensor=2), dict(remat='full')),
        ('stage_expert_fsdp', dict(expert=2, fsdp=2), dict(pipeline_rounds=2)),
    ],
    ids=str,
)
def test_windows_and_experts_go_along(rules, sizes, compute):
    """Their losses count what is real alone, and tokens travel within their stage.

    Mutations: losses of the bubble too; weights of experts without the axis of stages.
    """
    sizes = dict(data=1, fsdp=1, tensor=1) | sizes
    place = sharding.make(**sizes, rules=rules, stage=2)
    compute = dataclasses.replace(tiny.COMPUTE, **compute)
    model = transformer.make(arch_of('mixtral'), compute, place)
    agree.check(agree.train(model, BATCHES), one_device('mixtral'))


@pytest.mark.long
def test_an_encoder_and_a_decoder_have_stages_too():
    """The decoder's context, and what the encoder made, go with their rows."""
    arch = tiny_family.arch('bart', L=2, encoder_L=2)
    batch = tiny_family.batch(arch, 4)
    places = sharding.make(1, 1, 1, 'stage', stage=2), tiny.sharding()
    models = [transformer.make(arch, tiny.COMPUTE, place) for place in places]
    agree.check(*(agree.once(model, batch) for model in models))


def test_dropout_has_a_key_for_each_layer_and_microbatch():
    """Equal rows in two microbatches differ, and the same key repeats them."""
    arch = dataclasses.replace(tiny_family.arch('llama', L=2), dropout=0.5)
    place = sharding.make(1, 1, 1, 'stage', stage=2)
    model = transformer.make(arch, tiny.COMPUTE, place)
    row = tiny.packed_batch(1, arch)
    batch = {name: jnp.concatenate([x, x]) for name, x in row.items()}

    @jax.jit
    def run(seed):
        params = tiny_family.params(model)
        return transformer.hidden(model, params, batch, jax.random.key(seed))[0]

    first, again, other = run(0), run(0), run(1)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first[0], first[1])
    assert not np.allclose(first, other)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values())):
            inner = getattr(inner, 'jaxpr', inner)
            if hasattr(inner, 'eqns'):
                yield from equations(inner)


def backward(model, batch):
    """The equations of a gradient."""

    def number(params):
        x_BTD, _ = transformer.hidden(model, params, batch, jax.random.key(0))
        return jnp.sum(x_BTD.astype(jnp.float32))

    params = jax.eval_shape(lambda: tiny_family.params(model))
    return list(equations(jax.make_jaxpr(jax.grad(number))(params).jaxpr))


def test_grouped_products_of_a_stage_have_no_axis_of_stages():
    """XLA for TPUs refuses those that have one (libtpu 0.0.42, for v5e).

    Mutation: vmap alone, in `experts._apply` and in `layers._ragged`.
    """
    model = make((1, 1, 1), 'stage', 2, 'mixtral')
    found = [
        [operand.aval.ndim for operand in eqn.invars]
        for eqn in backward(model, tiny.packed_batch(8, model.arch))
        if eqn.primitive.name == 'ragged_dot_general'
    ]
    assert len(found) == 9  # up, gate and down, each forward and twice backward
    assert all(dims in ([2, 3, 1], [2, 2, 1]) for dims in found)


@pytest.mark.parametrize(
    ('remat', 'family'),
    [('none', 'llama'), ('none', 'mixtral'), ('dots', 'llama'), ('full', 'llama')],
)
def test_rounds_keep_no_weights_of_each_iteration(remat, family):
    """Backward picks them again, and what it keeps besides is as the policy says.

    Mutations: stages that are no checkpoint; one that keeps gathers; or transposes.
    """
    arch = dataclasses.replace(arch_of(family), T=20)  # no other width
    place = sharding.make(1, 1, 1, 'stage', stage=2)
    asked = dict(pipeline_rounds=2, pipeline_microbatches=4, dtype='bfloat16')
    compute = dataclasses.replace(tiny.COMPUTE, remat=remat, **asked)
    model, batch = transformer.make(arch, compute, place), tiny.packed_batch(8, arch)
    shapes = {out.aval.shape for eqn in backward(model, batch) for out in eqn.outvars}
    kept = [shape for shape in shapes if shape[:1] == (9,)]
    assert not [shape for shape in kept if {arch.D, arch.F} <= set(shape)]
    if family == 'llama':
        assert any(s[-2:] == (arch.T, arch.F) for s in kept) == (remat != 'full')


@pytest.mark.parametrize(
    ('stage', 'rows', 'compute', 'message'),
    [
        (1, 8, dict(pipeline_rounds=2), 'mesh.stage is 1'),
        (8, 8, {}, 'model.L is 4 .* 8 stages x 1 rounds do not divide'),
        (2, 8, dict(pipeline_rounds=4), '2 stages x 4 rounds'),
        (4, 8, dict(pipeline_rounds=1, pipeline_microbatches=3), '8 rows .* 3 microb'),
        (2, 8, dict(pipeline_rounds=2, pipeline_microbatches=1), 'at least the 2'),
    ],
    ids=str,
)
def test_what_does_not_divide_is_refused_with_the_numbers(
    stage, rows, compute, message
):
    place = sharding.make(1, 1, 1, 'stage', stage=stage)
    compute = dataclasses.replace(tiny.COMPUTE, **compute)
    with pytest.raises(command.UserError, match=message):
        pipeline.check(ARCH, compute, place, rows)
