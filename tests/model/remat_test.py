"""What backward computes again, by `compute.remat`; results are as of keeping all."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny
import tiny_family

from gptjax.model import transformer
from gptjax.objectives import next_token
from gptjax.train import program

ARCH = tiny_family.arch('llama', T=32)
BATCH = tiny.packed_batch(4, ARCH)


def loss_of(remat: str, unroll: int = 1, arch=ARCH):
    """(the loss as a function of parameters, parameters)."""
    compute = dataclasses.replace(
        tiny.COMPUTE, remat=remat, scan_unroll=unroll, attention='blocked'
    )
    model = transformer.make(arch, compute, tiny.sharding())
    loss_fn = next_token.make(model)
    return (
        lambda params: loss_fn(params, {}, BATCH, None).terms['loss'][0],
        tiny_family.params(model),
    )


@functools.cache
def gradients(remat: str, unroll: int = 1):
    """(loss and gradients, text as lowered for TPUs, compiled text) of the layers."""
    loss, params = loss_of(remat, unroll)
    traced = jax.jit(jax.value_and_grad(loss)).trace(params)
    compiled = traced.lower().compile()
    of_tpu = traced.lower(lowering_platforms=('tpu',)).as_text()
    return jax.tree.map(np.asarray, compiled(params)), of_tpu, compiled.as_text()


def products(remat: str, arch=ARCH, kind: str = 'dot_general') -> int:
    """Products in a traced gradient, those of a layer once, before XLA joins any."""

    def count(jaxpr) -> int:
        inner = [
            p for e in jaxpr.eqns for p in jax.tree.leaves(list(e.params.values()))
        ]
        inner = [getattr(one, 'jaxpr', one) for one in inner]
        inside = sum(count(one) for one in inner if hasattr(one, 'eqns'))
        return inside + sum(e.primitive.name == kind for e in jaxpr.eqns)

    loss, params = loss_of(remat, arch=arch)
    return count(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)


def again(remat: str) -> float:
    """Operations of products in what backward does again, of one layer."""
    operations = program.operations(gradients(remat)[2]).values()
    return sum(one.flops for one in operations if one.stage.when == 'recomputed')


@pytest.mark.long
@pytest.mark.parametrize('remat', ['minimal', 'dots', 'offload', 'full'])
def test_gradients_are_those_of_layers_that_keep_everything(remat):
    """Scanned, against unrolled float32: residuals of a scan have been read from wrong
    places by compilers (XLA issue 46231). Mutation: the roots of another layer.
    """
    ours, _, _ = gradients(remat)
    plain, _, _ = gradients('none', ARCH.L)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())


def test_minimal_computes_no_product_again():
    """Mutations: the result of attention without a name; its statistics without one."""
    assert products('minimal') == products('none') < products('dots')


def test_products_of_experts_are_kept_as_others_are():
    """Three forward, each with two backward. Mutation: a result without a name."""
    arch = tiny_family.arch('mixtral', T=32)
    made = {
        remat: products(remat, arch, 'ragged_dot_general')
        for remat in ('none', 'minimal', 'dots', 'offload', 'full')
    }
    # Nothing needs the last one's result, but for the shares of the experts.
    assert made == dict(none=9, minimal=9, dots=9, offload=9, full=12)


@pytest.mark.long
def test_each_policy_computes_again_what_it_says():
    """Of products: dots that with values (scores backward has anyway), full nearly all.

    Of a layer's products with weights, full leaves out the last: nothing needs its
    result. Mutation: a policy that keeps what it should not.
    """
    B, T, N, H, D, F, K = 4, ARCH.T, ARCH.N, ARCH.H, ARCH.D, ARCH.F, ARCH.K
    attention = 2 * B * N * T * T * H
    weights = 2 * B * T * D * (2 * N * H + 2 * K * H + 2 * F)
    assert again('minimal') == 0
    assert again('dots') == again('offload') == attention
    assert again('full') == 2 * attention + weights


@pytest.mark.long
def test_offload_keeps_the_results_of_products_on_the_host():
    """Mutation: save them where they are."""
    _, lowered, _ = gradients('offload')
    assert lowered.count('pinned_host') >= 6  # products of a layer, all but the last
    assert 'pinned_host' not in gradients('dots')[1]
