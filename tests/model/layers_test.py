"""Activations and biases in bfloat16: rounded once, with gradients in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.model import layers


@pytest.mark.parametrize('name', sorted(layers.ACTIVATIONS))
def test_activations_of_bfloat16_are_rounded_once(name):
    """Off by half a unit of the last of 8 bits; where each step is rounded, by more.

    Catches an activation that is computed in the type of x.
    """
    x = jnp.linspace(-4, 4, 1001).astype(jnp.bfloat16)
    dy = jnp.linspace(1, 2, 1001).astype(jnp.bfloat16)
    wide, dwide = (a.astype(jnp.float32) for a in (x, dy))

    @jax.jit
    def both(x, dy):
        y, pull = jax.vjp(lambda x: layers.activate(name, x), x)
        return y, *pull(dy)

    for found, wanted in zip(both(x, dy), both(wide, dwide), strict=True):
        assert found.dtype == jnp.bfloat16
        error = np.abs(np.float64(found) - np.float64(wanted))
        assert (error <= 2**-8 * np.abs(np.float64(wanted)) + 1e-6).all()


def test_the_gradient_of_a_bias_is_a_sum_in_float32():
    """Catches a bias that is cast first: its gradient then has 8 bits."""
    y_BTD = jnp.ones((3, 301, 5), jnp.bfloat16)

    def total(bias_D):
        biased_BTD = layers.biased(y_BTD, bias_D)
        assert biased_BTD.dtype == jnp.bfloat16
        return jnp.sum(biased_BTD, dtype=jnp.float32)

    np.testing.assert_array_equal(jax.grad(total)(jnp.ones(5)), np.full(5, 903.0))


def test_products_of_accelerators_are_rounded_sums(monkeypatch):
    """Forward and backward, of what is not for CPUs. Mutation: a sum in bfloat16."""
    only = layers.lax.platform_dependent

    def other(*given, default, **_):
        return only(*given, default=default)

    monkeypatch.setattr(layers.lax, 'platform_dependent', other)
    x, w = (
        jax.random.normal(jax.random.key(i), shape).astype(jnp.bfloat16)
        for i, shape in enumerate([(2, 3, 1024), (1024, 5)])
    )

    def run(x, w):
        return layers.einsum('BTD,DF->BTF', x, w)

    y, back = jax.vjp(run, x, w)
    dx, _ = back(jnp.ones_like(y))
    exact = (np.asarray(a, np.float64) for a in (x, w))
    wide_x, wide_w = exact
    assert y.dtype == dx.dtype == jnp.bfloat16
    # Half of a unit in the last of 8 places.
    np.testing.assert_allclose(y, wide_x @ wide_w, rtol=2**-8, atol=1e-3)
    np.testing.assert_allclose(
        dx, np.broadcast_to(wide_w.sum(1), x.shape), rtol=2**-8, atol=1e-3
    )
