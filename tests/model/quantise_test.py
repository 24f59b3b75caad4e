"""Weights in few bits: the codes, what they stand for, and products with them."""

from pathlib import Path
import statistics

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_family

from gptjax import command, sharding, trees
from gptjax.model import gpt, layers, leaves, lora, quantise, transformer
from gptjax.model.families import gpt2

quantised = jax.jit(quantise.quantise, static_argnums=(0, 2))
dense = jax.jit(leaves.dense)
GOLDEN = np.load(Path(__file__).parents[1] / 'golden' / 'nf4.npz')


def test_the_code_book_is_that_of_bitsandbytes_and_of_the_normal_distribution():
    np.testing.assert_array_equal(np.float32(leaves.NF4), GOLDEN['book'])
    quantile = statistics.NormalDist().inv_cdf
    last = (1 - 1 / 32 + 1 - 1 / 30) / 2
    above = [quantile(0.5 + (last - 0.5) * i / 8) for i in range(1, 9)]
    below = [-quantile(0.5 + (last - 0.5) * i / 7) for i in range(1, 8)]
    book = np.sort([*above, 0.0, *below]) / above[-1]
    # The paper's were made from float32 probabilities.
    np.testing.assert_allclose(leaves.NF4, book, atol=3e-7)


def test_nf4_is_that_of_bitsandbytes():
    """Its nearest codes are the same: no element lies between two of them."""
    made = quantised('mlp/up', jnp.asarray(GOLDEN['weights']), 'nf4')
    np.testing.assert_array_equal(made.absmax, GOLDEN['absmax'])
    np.testing.assert_array_equal(made.codes.reshape(6, 64), GOLDEN['codes'])
    np.testing.assert_allclose(made.dense(jnp.float32), GOLDEN['dense'], rtol=1e-6)


def test_codes_are_the_nearest():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, 3, 4)).astype(np.float32)  # 12 of a block of 64
    made = quantised('attention/query', jnp.asarray(weight), 'nf4')
    assert made.codes.shape == (5, 1, 32)
    assert made.shape == weight.shape
    absmax = np.abs(weight).max((1, 2), keepdims=True)
    levels = absmax[..., None] * np.float32(leaves.NF4)
    nearest = np.abs(weight[..., None] - levels).argmin(-1)
    wanted = absmax * np.float32(leaves.NF4)[nearest]
    np.testing.assert_allclose(made.dense(jnp.float32), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ('path', 'summed'), [('attention/query', 0), ('attention/out', (0, 1))]
)
def test_int8_has_a_step_for_each_output(path, summed):
    """At most half of it is lost."""
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(6, 4, 5)) * [1, 10, 100, 1, 0]).astype(np.float32)
    made = quantised(path, jnp.asarray(weight), 'int8')
    step = np.abs(weight).max(summed, keepdims=True) / 127
    assert made.absmax.shape == step.shape
    lost = np.abs(made.dense(jnp.float32) - weight)
    assert (lost <= step * 0.5001).all()
    assert lost.max() > 0.3 * step.max()


def test_a_model_computes_with_what_the_codes_stand_for():
    model = tiny_family.model('llama', L=2)
    params, batch = tiny_family.params(model), tiny.packed_batch(2, model.arch)
    boxed = quantise.abstract(transformer.abstract(model), 'nf4')
    few = quantise.tree(params, boxed, model.sharding)
    kept = {path for path, _ in trees.paths(few)}
    assert {'tokens', 'norm/scale', 'blocks/mlp_norm/scale'} <= kept
    assert 'blocks/mlp/gate/codes' in kept
    whole = jax.jit(lora.merge)(few)
    hidden = tiny_family.hidden(model)
    np.testing.assert_array_equal(hidden(few, batch), hidden(whole, batch))
    assert np.abs(hidden(few, batch) - hidden(params, batch)).max() > 0.01

    @jax.jit
    def second(few):
        layers = transformer.unstack(model, few)['blocks']
        return leaves.dense(layers[1]['attention']['query'])

    weight = np.asarray(whole['blocks']['attention']['query'])[1]
    np.testing.assert_array_equal(second(few), weight)


@pytest.mark.parametrize('kind', quantise.KINDS)
def test_the_gradient_of_the_input_is_that_of_the_dense_product(kind):
    rng = np.random.default_rng(0)
    x, dy, weight = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((2, 3, 8), (2, 3, 4, 5), (8, 4, 5))
    )
    few = quantised('attention/query', weight, kind)
    _, back = jax.vjp(lambda x: layers.einsum('BTD,DNH->BTNH', x, few), x)
    expected = np.einsum('btnh,dnh->btd', dy, few.dense(jnp.float32))
    np.testing.assert_allclose(back(dy)[0], expected, rtol=1e-5, atol=1e-5)


def test_the_product_is_in_the_type_of_the_input():
    x_BD = jnp.ones((2, 6), jnp.bfloat16)
    made = quantised('mlp/up', jnp.ones((6, 4)), 'int8')
    assert layers.einsum('BD,DF->BF', x_BD, made).dtype == jnp.bfloat16


SIDES = [('BTD,DNH->BTNH', (40, 3, 7), 1), ('BTNH,NHD->BTD', (3, 7, 40), 2)]
SIDES += [('BTD,VD->BTV', (50, 33), -1)]


@pytest.mark.parametrize(('spec', 'dims', 'inner'), SIDES)
@pytest.mark.parametrize('kind', quantise.SERVED)
def test_served_weights_lose_half_a_step(kind, spec, dims, inner):
    """Catches scales over the wrong axis, halves of bytes exchanged, padding kept."""
    weight = np.random.default_rng(0).normal(size=dims).astype(np.float32)
    few = quantise.rows(jnp.asarray(weight), inner, kind)
    made = np.asarray(dense(few))
    flat = [
        x.reshape(-1, dims[-1]) if inner < 0 else x.reshape(np.prod(dims[:inner]), -1).T
        for x in (weight, made)
    ]
    for row, found in zip(*flat, strict=True):
        for begin in range(0, len(row), 32 if kind == 'int4' else len(row)):
            part = slice(begin, begin + (32 if kind == 'int4' else len(row)))
            step = np.float64(np.abs(row[part]).max()) / quantise.SERVED[kind]
            nearest = np.round(row[part] / step) * step
            # Two codes are as near where an element lies in the middle.
            assert np.abs(found[part] - row[part]).max() <= step * 0.50001
            assert np.mean(np.abs(found[part] - nearest) < 1e-5 * step) > 0.9
    if inner < 0:
        index = jnp.array([[3, 49], [0, 7]])
        np.testing.assert_array_equal(
            jax.jit(type(few).__getitem__)(few, index), made[index]
        )


def test_a_served_model_computes_with_what_its_codes_stand_for():
    """A tied embedding is looked up and multiplied as the same numbers."""
    model = tiny_family.model('gpt2', L=1)
    params = transformer.unstack(model, tiny_family.params(model))
    few = quantise.for_serving(params, 'int4')
    kept = [p for p, x in trees.paths(few) if x.dtype == jnp.float32]
    assert all(p.endswith(('scale', 'bias')) or p == 'positions' for p in kept)
    is_rows = lambda x: isinstance(x, leaves.Rows)  # noqa: E731
    whole = jax.jit(lambda few: jax.tree.map(leaves.dense, few, is_leaf=is_rows))(few)
    tokens = jnp.array([[5, 3, 9]])
    positions = jnp.arange(3)[None]

    @jax.jit
    def logits(params):
        cache = gpt.init_cache(model.arch, 1, 8, 'float32')
        return transformer.decode(model, params, tokens, positions, cache)[0]

    wanted = logits(whole)
    np.testing.assert_allclose(logits(few), wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(wanted - logits(params)).max() > 1e-4


@pytest.mark.parametrize(('kind', 'most'), [('int8', 0.27), ('int4', 0.17)])
def test_bytes_of_a_served_gpt2(kind, most):
    arch = gpt2.sized(L=2, N=12, D=768, T=1024, V=50257)
    model = transformer.make(arch, tiny.COMPUTE, sharding.single())
    params = nn.unbox(transformer.abstract(model))
    few = jax.eval_shape(
        lambda p: quantise.for_serving(transformer.unstack(model, p), kind), params
    )
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(few))
    assert size <= most * 4 * trees.count(params)


@pytest.mark.parametrize('kind', quantise.SERVED)
def test_gradients_go_through_served_weights(kind):
    rng = np.random.default_rng(0)
    x, dy, weight = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((2, 3, 8), (2, 3, 4, 5), (8, 4, 5))
    )
    few = quantise.rows(weight, 1, kind)
    _, back = jax.vjp(lambda x: layers.einsum('BTD,DNH->BTNH', x, few), x)
    expected = np.einsum('btnh,dnh->btd', dy, few.dense(jnp.float32))
    np.testing.assert_allclose(back(dy)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_kind_that_cannot_be_served_is_refused():
    with pytest.raises(command.UserError, match='int8'):
        quantise.for_serving({}, 'int5')
