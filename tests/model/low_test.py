"""Products in 8 bits: their numbers and gradients, and models that train by them."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tiny
import tiny_family

from gptjax import command, trees
from gptjax.model import config, layers, leaves, low, quantise, transformer
from gptjax.objectives import next_token

SPECS = {
    'BTD,DNH->BTNH': ((2, 5, 24), (24, 3, 4)),
    'BTNH,NHD->BTD': ((2, 5, 3, 8), (3, 8, 16)),
    'BTD,VD->BTV': ((2, 5, 16), (8, 16)),
}


def operands(spec, dtype=jnp.float32):
    """Rows and outputs of very different sizes; one row and one output are zeros."""
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=shape).astype(np.float32) for shape in SPECS[spec])
    x *= np.array([1e-3, 1, 50, 0, 1]).reshape(1, 5, *[1] * (x.ndim - 2))
    weight[..., 0] = 0
    return jnp.asarray(x, dtype), jnp.asarray(weight)


def einsum(spec, kind):
    def product(x, weight):
        whole = kind == 'plain'
        return layers.einsum(spec, x, weight if whole else leaves.Low(weight, kind))

    return product


def codes(x, axes, kind):
    """By hand, in float64: (what the codes stand for, half of the step around each)."""
    x = np.float64(np.float32(x))
    largest = np.maximum(np.abs(x).max(axes, keepdims=True), 1e-30)
    if kind == 'int8':
        step = largest / 127
        return np.round(x / step) * step, step / 2 * np.ones_like(x)
    top = float(ml_dtypes.finfo(kind).max)
    rounded = np.float64((x / largest * top).astype(kind)) * largest / top
    # Half of the last bit, or of the smallest step around zero.
    bits = ml_dtypes.finfo(kind).nmant
    least = float(ml_dtypes.finfo(kind).smallest_subnormal) * largest / top
    return rounded, np.maximum(np.abs(x) * 2.0 ** -(bits + 1), least / 2)


@pytest.mark.parametrize('kind', ['int8', 'fp8'])
@pytest.mark.parametrize('spec', SPECS)
def test_a_product_is_that_of_the_nearest_codes(spec, kind):
    """As by hand, and no further from the plain one than the rounding of both allows.

    Fails with one scale for all rows of int8, and with codes that are cut, not rounded.
    """
    x, weight = operands(spec)
    left, right, result = spec.replace('->', ',').split(',')
    summed = [
        tuple(i for i, letter in enumerate(letters) if letter not in result)
        for letters in (left, right)
    ]
    dtype = 'int8' if kind == 'int8' else ml_dtypes.float8_e4m3fn
    axes = summed if kind == 'int8' else [None, None]
    (a, near_a), (b, near_b) = (
        codes(one, axis, dtype) for one, axis in zip((x, weight), axes, strict=True)
    )
    found = jax.jit(einsum(spec, kind))(x, weight)
    # A code may be the neighbour, where float32 falls on the other side of a half.
    np.testing.assert_allclose(found, np.einsum(spec, a, b), rtol=1e-2, atol=2e-3)
    exact = np.einsum(spec, np.float64(x), np.float64(weight))
    bound = (
        np.einsum(spec, near_a, np.abs(np.float64(weight)))
        + np.einsum(spec, np.abs(np.float64(x)), near_b)
        + np.einsum(spec, near_a, near_b)
    )
    apart = np.abs(np.float64(found) - exact)
    assert (apart <= bound * 1.0001 + 1e-6).all()
    assert apart.max() > 0.05 * bound.max()  # it is no plain product


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_gradients_of_int8_are_those_of_the_plain_product(dtype):
    """Bit for bit: straight through."""
    spec = 'BTD,DNH->BTNH'
    x, weight = operands(spec, dtype)
    y, back = jax.vjp(einsum(spec, 'plain'), x, weight)
    low_y, low_back = jax.vjp(einsum(spec, 'int8'), x, weight)
    assert low_y.dtype == y.dtype == dtype
    assert (low_y != y).any()
    dy = jax.random.normal(jax.random.key(0), y.shape, dtype)
    for one, other in zip(low_back(dy), back(dy), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('spec', SPECS)
def test_gradients_of_fp8_are_products_of_codes(spec):
    """e5m2 of what comes in, e4m3 of what it meets: by hand."""
    x, weight = operands(spec)
    y, back = jax.vjp(einsum(spec, 'fp8'), x, weight)
    dy = jax.random.normal(jax.random.key(0), y.shape) * 1e-4
    left, right, result = spec.replace('->', ',').split(',')
    (a, _), (b, _) = (codes(one, None, ml_dtypes.float8_e4m3fn) for one in (x, weight))
    c, _ = codes(dy, None, ml_dtypes.float8_e5m2)
    dx, dw = back(dy)
    wanted = np.einsum(f'{result},{right}->{left}', c, b)
    np.testing.assert_allclose(dx, wanted, rtol=1e-2, atol=1e-6)
    wanted = np.einsum(f'{left},{result}->{right}', a, c)
    np.testing.assert_allclose(dw, wanted, rtol=1e-2, atol=2e-5)


@pytest.mark.parametrize('kind', ['int8', 'fp8'])
def test_what_is_not_finite_stays_so(kind):
    x, weight = operands('BTD,DNH->BTNH')
    for bad in (np.nan, np.inf):
        y = einsum('BTD,DNH->BTNH', kind)(x.at[0, 1, 2].set(bad), weight)
        assert not np.isfinite(y[0, 1]).any()


def test_only_weights_of_products_in_layers_are_low():
    model = tiny_family.model('mixtral')
    made = low.tree(tiny_family.params(model), 'fp8')
    flat = trees.paths(made, is_leaf=lambda x: isinstance(x, leaves.Low))
    found = {path for path, leaf in flat if isinstance(leaf, leaves.Low)}
    names = ('query', 'key', 'value', 'out')
    assert found == {f'blocks/attention/{name}' for name in names}
    params = tiny_family.params(tiny_family.model('gpt2'))
    assert low.tree(params, 'plain') is params


def compute(products, **changes):
    return dataclasses.replace(tiny.COMPUTE, products=products, **changes)


def gradient(model):
    def loss(params, batch):
        total, weight = next_token.make(model)(params, {}, batch, None).terms['loss']
        return total / weight

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.long
@pytest.mark.parametrize('kind', ['int8', 'fp8'])
def test_layouts_and_recomputation_change_nothing(kind):
    """Meshes, the scan's unrolling and remat: sums in another order, no more.

    A code next to a half may be another one then, and later layers with it: the bound
    is a tenth of what rounding itself changes.
    """
    arch = dataclasses.replace(tiny.ARCH, D=32, F=64)
    batch = tiny.packed_batch(8, arch)
    plain = tiny.model(arch)
    params = transformer.init(plain, jax.random.key(0))
    model = tiny.model(arch, compute(kind))
    loss, grads = gradient(model)(params, batch)
    true_loss, true_grads = gradient(plain)(params, batch)

    def apart(tree, other):
        squares = [
            float(jnp.sum((a - b) ** 2))
            for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
        ]
        return sum(squares) ** 0.5

    rounding = apart(grads, true_grads)
    assert rounding > 0
    assert abs(loss - true_loss) < 0.05
    others = [
        (compute(kind, scan_unroll=2, remat='dots'), tiny.sharding()),
        (compute(kind), tiny.sharding(2, 2, 2, 'fsdp_tensor')),
    ]
    for how, place in others:
        other = tiny.model(arch, how, place)
        own = jax.device_put(params, place.of_boxed(transformer.abstract(other)))
        found, other_grads = gradient(other)(
            own, jax.device_put(batch, place.named(('batch',)))
        )
        assert abs(float(found) - float(loss)) < 1e-3
        assert apart(jax.device_get(other_grads), jax.device_get(grads)) < rounding / 10


@pytest.mark.long
@pytest.mark.parametrize('kind', ['int8', 'fp8'])
def test_a_model_trains(kind):
    model = tiny.model(compute=compute(kind))
    params = transformer.init(model, jax.random.key(0))
    batch = tiny.packed_batch(4)
    step = gradient(model)
    first, _ = step(params, batch)
    for _ in range(30):
        loss, grads = step(params, batch)
        params = jax.tree.map(lambda weight, g: weight - 0.3 * g, params, grads)
    assert loss < 0.7 * first


def test_the_base_of_an_adapter_is_low_and_the_adapter_is_not():
    spec = 'BTD,DNH->BTNH'
    x, weight = operands(spec)
    down, up = jnp.ones((24, 2)), jnp.ones((2, 3, 4))
    adapted = leaves.Adapted(weight, down, up, scale=0.5)
    few = quantise.quantise('attention/key', weight, 'int8')
    given = {'blocks': {'attention': {'query': adapted, 'key': few}}}
    made = low.tree(given, 'int8')['blocks']['attention']
    assert made['key'] is few
    assert isinstance(made['query'].base, leaves.Low)
    found = layers.einsum(spec, x, made['query'])
    added = layers.einsum(spec, x, leaves.Adapted(0 * weight, down, up, scale=0.5))
    wanted = einsum(spec, 'int8')(x, weight) + added
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_an_unknown_kind_is_a_mistake_and_what_is_emulated_is_said():
    with pytest.raises(command.UserError, match="did you mean 'int8'"):
        config.Compute('float32', 'none', 1, 1, products='int4')
    assert low.emulated('plain') == low.emulated('int8') == ''
    assert 'not faster' in low.emulated('fp8')  # on CPU


@pytest.mark.parametrize('kind', ['int8', 'fp8'])
def test_what_is_no_number_stays_none(kind):
    """Fails if the scale is a maximum alone, which on CPU passes over it."""
    x = jnp.ones((4, 64)).at[1, 0].set(jnp.nan)
    y = low.product('bd,df->bf', x, jnp.ones((64, 8)), kind, layers._plain)
    assert np.isnan(y[1]).all()
