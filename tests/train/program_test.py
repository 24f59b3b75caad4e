"""What is read from programs, against arithmetic by hand and the compiler's own."""

import jax
import jax.numpy as jnp
import pytest

from gptjax.train import program


def operations(function, *shapes):
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(function).lower(*given).compile()
    return program.operations(compiled.as_text()), compiled


def test_products_are_counted_and_have_the_stage_of_their_scope():
    """Dropping the factor 2 or a dimension of the sum fails, and so does the stage of
    an outer scope."""

    def function(x, w, v):
        with jax.named_scope('layers'):
            with jax.named_scope('mlp'):
                y = jnp.einsum('btd,df->btf', x, w)
            with jax.named_scope('attention'):
                return jnp.einsum('btf,fd->btd', jnp.tanh(y), v)

    ops, compiled = operations(function, (3, 64, 32), (32, 128), (128, 16))
    flops = {}
    for one in ops.values():
        part = flops.get(one.stage.part, 0)
        flops[one.stage.part] = part + one.flops
    up, down = 2 * 3 * 64 * 32 * 128, 2 * 3 * 64 * 128 * 16
    assert flops['mlp'] == up
    assert flops['attention'] == down
    known = compiled.cost_analysis()['flops']
    assert up + down == pytest.approx(known, rel=0.1)  # which counts sums besides


def test_bytes_are_those_of_operands_and_results():
    ops, _ = operations(lambda x: jnp.sin(x) + 1, (64, 256))
    assert sum(one.bytes for one in ops.values() if one.kind == 'fusion') == (
        2 * 4 * 64 * 256
    )


def test_a_slice_of_a_large_array_reads_what_it_takes():
    """The stacked weights of a scan are not read whole by each layer."""

    def function(x, i):
        row = jax.lax.dynamic_index_in_dim(x, i.astype(jnp.int32)[0], keepdims=False)
        return jnp.sin(row)

    ops, _ = operations(function, (100, 1000), (1,))
    assert sum(one.bytes for one in ops.values() if one.kind == 'fusion') < 3 * 4 * 1000


TRANSPOSED = 'jit(train_step)/transpose(jvp(loss))/GPT.run/layers/while'


@pytest.mark.parametrize(
    ('path', 'part', 'when'),
    [
        ('jit(train_step)/jvp(loss)/GPT.run/layers/blocks/mlp/mul', 'mlp', 'forward'),
        (
            f'{TRANSPOSED}/blocks/attention/attention/dot',
            'attention',
            'backward',
        ),
        (f'{TRANSPOSED}/rematted_computation/blocks/mlp/dot', 'mlp', 'recomputed'),
        ('jit(train_step)/optimizer/mul', 'optimizer', ''),
        ('jit(train_step)/add', '', ''),
    ],
)
def test_stages_of_paths(path, part, when):
    assert program.stage(path) == (part, when)


GEMM = """
ENTRY %main (a: bf16[64,32], b: bf16[32,128]) -> bf16[64,128] {
  %a = bf16[64,32]{1,0} parameter(0)
  %b = bf16[32,128]{1,0} parameter(1)
  %gemm.1 = (bf16[64,128]{1,0}, s8[4194304]{0}) custom-call(%a, %b), \
custom_call_target="__cublas$gemm", metadata={op_name="jit(train_step)/jvp(loss)/mlp\
/dot_general"}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":\
{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  ROOT %out = bf16[64,128]{1,0} get-tuple-element(%gemm.1), index=0
}
"""


def test_a_product_of_a_library_on_a_gpu_is_counted():
    """Its dimensions stand in the configuration of the call."""
    one = program.operations(GEMM)['gemm.1']
    assert one.flops == 2 * 64 * 32 * 128
    assert one.stage == ('mlp', 'forward')
