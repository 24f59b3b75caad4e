"""Operations counted from a program's text, against closed forms."""

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import _speed_compile
from gptjax.model import cost
from gptjax.plan import hlo, step

# A product of 8 matrices (3 x 5) with 8 (5 x 7), as XLA writes it for TPUs: the batch
# is a dimension of space whose holes leave one meeting for each of its places.
BATCHED = """
ENTRY %main (a: bf16[8,3,5], b: bf16[8,5,7]) -> bf16[8,3,7] {
  %a = bf16[8,3,5]{2,1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[8,5,7]{2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[8,3,7]{2,1,0:T(8,128)(2,1)} convolution(%a, %b), \
window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf
}
"""
# A loop that counts to 8 by two, without a word on how often it runs.
BY_TWO = """
%condition (state: (u32[], f32[4,4])) -> pred[] {
  %state = (u32[], f32[4,4]{1,0}) parameter(0)
  %bound = u32[] constant(8)
  %counter = u32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%counter, %bound), direction=LT
}

%body (state.1: (u32[], f32[4,4])) -> (u32[], f32[4,4]) {
  %state.1 = (u32[], f32[4,4]{1,0}) parameter(0)
  %two = u32[] constant(2)
  %counter.1 = u32[] get-tuple-element(%state.1), index=0
  %next = u32[] add(%counter.1, %two)
  %x = f32[4,4]{1,0} get-tuple-element(%state.1), index=1
  %y = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %new = (u32[], f32[4,4]{1,0}) tuple(%next, /*index=1*/%y)
}

ENTRY %main (given: (u32[], f32[4,4])) -> (u32[], f32[4,4]) {
  %given = (u32[], f32[4,4]{1,0}) parameter(0)
  ROOT %while.1 = (u32[], f32[4,4]{1,0}) while(%given), condition=%condition, body=%body
}
"""


def test_an_operation_counts_as_often_as_its_loops_run():
    """Mutation: a loop that counts once gives 2 x 4 x 8 x 8 and no more."""

    def inner(x_BD, w_DD):
        return jnp.tanh(x_BD @ w_DD), None

    def outer(x_BD, w_3DD):
        return jax.lax.scan(inner, x_BD, w_3DD)[0], None

    def twice(x_BD, w_53DD):
        return jax.lax.scan(outer, x_BD, w_53DD)[0]

    shapes = jnp.ones((4, 8)), jnp.ones((5, 3, 8, 8))
    program = hlo.Program(jax.jit(twice).lower(*shapes).compile().as_text())
    assert program.flops() == 5 * 3 * 2 * 4 * 8 * 8


def test_a_convolution_that_is_a_batched_product():
    """Mutation: counting all places of the window gives 8 times as much."""
    assert hlo.Program(BATCHED).flops() == 2 * 8 * 3 * 5 * 7


def test_a_loop_that_counts_by_two_runs_half_as_often():
    """So XLA writes loops that gather weights beside products. Mutation: by one."""
    assert hlo.Program(BY_TWO).flops() == 4 * 2 * 4**3


def test_a_loop_without_a_count_is_refused():
    def endless(x):
        return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, x)

    program = jax.jit(endless).lower(jnp.ones((4, 4))).compile()
    with pytest.raises(ValueError, match='how often'):
        hlo.Program(program.as_text()).flops()
    assert hlo.Program(program.as_text(), unknown=3).flops() == 3 * 2 * 4**3


def _tiny(L: int, unroll: int, remat: str = 'none'):
    config = _speed_compile.config_of(L, unroll, 'float32')
    config.model.update(T=32, V=128, D=32, F=64, N=2, K=2, H=16)
    config.mesh.fsdp = 1
    config.compute.remat = remat
    config.compute.attention = 'reference'
    return step.of(config)


@pytest.mark.parametrize(
    'remat', ['none', 'dots', pytest.param('full', marks=pytest.mark.long)]
)
@pytest.mark.long
def test_a_train_step_computes_what_the_model_costs_and_remat_again(remat):
    """The text of the compiled step against the closed form of `cost`.

    'dots' keeps products with weights, so only scores and sums over values are done
    again; 'full' does the forward pass of a layer again, but for its last product, of
    which nothing needs the result. Mutation: a policy that looks for dots, which are
    inside a custom_vjp, does the products again as well.
    """
    program = _tiny(3, 1, remat)
    compiled = program.step.lower(*program.arguments).compile()
    arch = program.model.arch
    parts = cost.train_flops(arch)
    again = {'none': 0.0, 'dots': parts['scores'] / 3}
    again['full'] = again['dots'] + (parts['attention'] + parts['mlp'] / 2) / 3
    tokens = _speed_compile.ROWS * arch.T
    expected = tokens * (sum(parts.values()) + again[remat])
    assert hlo.Program(compiled.as_text()).flops() == pytest.approx(expected, rel=0.01)


def test_a_scanned_program_does_not_grow_with_its_layers():
    """48 layers at most 1.3 x 12 in operations. Mutation: unroll the scan."""
    sizes = {}
    for L in (12, 48):
        program = _tiny(L, 1)
        sizes[L] = program.step.lower(*program.arguments).as_text().count(' = ')
    assert sizes[48] <= 1.3 * sizes[12]


GATHER = """
ENTRY %main (a: f32[4,6]) -> f32[32,6] {
  %a = f32[4,6]{1,0} parameter(0)
  ROOT %all-gather.1 = f32[32,6]{1,0} all-gather(%a), channel_id=1, GROUPS, \
dimensions={0}
}
"""


@pytest.mark.parametrize(
    ('groups', 'members'),
    [
        ('replica_groups={{0,1,2,3,4,5,6,7},{8,9,10,11,12,13,14,15}}', range(8)),
        ('replica_groups=[2,8]<=[16]', range(8)),
        ('replica_groups=[2,8]<=[8,2]T(1,0)', range(0, 16, 2)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=8] {'axis_1'}", range(8)),
        ("replica_groups=mesh['a'=4,'b'=4] {'a','b':(1)2}", range(0, 16, 2)),
        ("replica_groups=mesh['a'=8,'b'=2], device_ids=([2,8]T(1,0)) {'a'}", range(8)),
    ],
)
def test_a_gather_sends_its_part_to_the_others_of_its_group(groups, members):
    """8 devices in a group, in each way that XLA writes groups."""
    program = hlo.Program(GATHER.replace('GROUPS', groups))
    assert program.collectives() == {'all-gather': (1, 7 * 4 * 6 * 4)}
    (message,) = program.messages()
    assert message.group == tuple(members)
    assert message.arrays == [('f32', (4, 6))]


# What runs beside products, as XLA writes it for TPUs: once where it begins, and once
# where it ends. A sum of which a part is kept; a message to another slice of 2.
ON_TPU = """
%begin (p: f32[4,6]) -> f32[32,6] {
  %p = f32[4,6]{1,0} parameter(0)
  ROOT %all-gather.1 = f32[32,6]{1,0} all-gather(%p), channel_id=1, \
replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, frontend_attributes={chain_id="3"}
}

%end (q: f32[4,6]) -> f32[32,6] {
  %q = f32[4,6]{1,0} parameter(0)
  ROOT %all-gather.2 = f32[32,6]{1,0} all-gather(%q), channel_id=1, \
replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, frontend_attributes={chain_id="3"}
}

%all-reduce-scatter (r: f32[32,6]) -> f32[32,6] {
  %r = f32[32,6]{1,0} parameter(0)
  ROOT %all-reduce.1 = f32[32,6]{1,0} all-reduce(%r), channel_id=2, \
replica_groups={{0,1,2,3,4,5,6,7}}
}

ENTRY %main (a: f32[4,6]) -> f32[32,6] {
  %a = f32[4,6]{1,0} parameter(0)
  %fusion.1 = f32[32,6]{1,0} fusion(%a), kind=kCustom, calls=%begin
  %fusion.2 = f32[32,6]{1,0} fusion(%a), kind=kCustom, calls=%end
  %fusion.3 = f32[32,6]{1,0} fusion(%fusion.2), kind=kCustom, calls=%all-reduce-scatter
  %after = token[] after-all()
  %send.1 = (f32[4,6]{1,0}, u32[], token[]) send(%a, %after), channel_id=3, \
is_host_transfer=true, frontend_attributes={HANDLER}
  ROOT %copy.1 = f32[32,6]{1,0} copy(%fusion.3)
}
"""


@pytest.mark.parametrize(
    'handler', ['_xla_host_transfer_handler_name="xla_megascale_runtime"', 'x="other"']
)
def test_what_tpus_send_counts_once_and_by_what_it_is(handler):
    """Mutations: each product counts its collective; all sends go to other slices."""
    found = hlo.Program(ON_TPU.replace('HANDLER', handler)).collectives()
    assert found.pop('across slices', None) == (
        (1, 4 * 6 * 4) if 'megascale' in handler else None
    )
    assert found == {
        'all-gather': (1, 7 * 4 * 6 * 4),
        'reduce-scatter': (1, 7 / 8 * 32 * 6 * 4),
    }


def test_a_permutation_has_all_its_pairs():
    """Mutation: the first alone, which may be of a device with itself."""
    pairs = 'source_target_pairs={{0,0},{1,2},{2,1},{3,3}}'
    text = GATHER.replace('all-gather', 'collective-permute').replace('GROUPS', pairs)
    (message,) = hlo.Program(text).messages()
    assert message.pairs == ((0, 0), (1, 2), (2, 1), (3, 3))
    assert message.bytes == 4 * 6 * 4
