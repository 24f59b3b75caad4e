"""Weights, the one product, layer norm and the MLP."""

from collections.abc import Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax import sharding as sharding_lib
from gptjax.model import config


def weight(
    module: nn.Module,
    name: str,
    shape: Sequence[int],
    axes: Sequence[str],
    init: nn.initializers.Initializer,
) -> Array:
    """Declares a float32 weight of `module` with its logical axes."""
    boxed = nn.with_logical_partitioning(init, tuple(axes))
    declared: Any = module.param(name, boxed, tuple(shape), jnp.float32)
    return declared


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def einsum(spec: str, x: Array, weight: Array) -> Array:
    """`jnp.einsum(spec, x, weight)`: the one place where a weight is multiplied.

    Computes in the type of `x` with float32 sums, and returns the type of `x`; the
    gradient of the weight is float32. Each letter stands in two of the three operands.
    """
    return _einsum(spec, x, weight.astype(x.dtype)).astype(x.dtype)


def _einsum_forward(
    spec: str, x: Array, weight: Array
) -> tuple[Array, tuple[Array, Array]]:
    return einsum(spec, x, weight), (x, weight)


def _einsum_backward(
    spec: str, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, weight = saved
    # On CPU, XLA fuses the elementwise backward into the transpose that feeds the
    # weight gradient, and that fusion runs on one core: 51 ms a step against 36 with
    # the barrier (4 layers, width 128, 2 cores). The numbers are equal bit for bit.
    x, dy = lax.platform_dependent(
        x, dy, cpu=lambda x, dy: lax.optimization_barrier((x, dy)), default=lambda *a: a
    )
    operands, result = spec.split('->')
    left, right = operands.split(',')
    dx = _einsum(f'{result},{right}->{left}', dy, weight.astype(dy.dtype))
    dw = _weight_gradient(left, right, result, x, dy)
    return dx.astype(x.dtype), dw.astype(weight.dtype)


einsum.defvjp(_einsum_forward, _einsum_backward)


def _weight_gradient(left: str, right: str, result: str, x: Array, dy: Array) -> Array:
    """x dy, with the smaller operand first: XLA on CPU copies that one transposed."""
    ordered = (left, x), (result, dy)
    (first, a), (second, b) = ordered if x.size <= dy.size else ordered[::-1]
    letters = ''.join(c for c in first + second if c in right)
    product = _einsum(f'{first},{second}->{letters}', a, b)
    return jnp.transpose(product, [letters.index(c) for c in right])


def _einsum(spec: str, left: Array, right: Array) -> Array:
    return jnp.einsum(spec, left, right, preferred_element_type=jnp.float32)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al., 2016), in float32."""

    arch: config.Architecture

    @nn.compact
    def __call__(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
        D = self.arch.D
        scale = weight(self, 'scale', (D,), ('embed',), nn.initializers.ones)
        bias = weight(self, 'bias', (D,), ('embed',), nn.initializers.zeros)
        wide = x_BTD.astype(jnp.float32)
        mean = jnp.mean(wide, -1, keepdims=True)
        centred = wide - mean
        variance = jnp.mean(jnp.square(centred), -1, keepdims=True)
        normal = centred * lax.rsqrt(variance + self.arch.norm_eps)
        return (normal * scale + bias).astype(x_BTD.dtype)


class MLP(nn.Module):
    """Two products with a tanh GELU between them (Hendrycks and Gimpel, 2016)."""

    arch: config.Architecture
    sharding: sharding_lib.Sharding

    @nn.compact
    def __call__(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
        arch = self.arch
        normal = nn.initializers.normal(arch.init_std)
        small = nn.initializers.normal(arch.init_std / (2 * arch.L) ** 0.5)
        zeros = nn.initializers.zeros
        up = weight(self, 'up', (arch.D, arch.F), ('embed', 'mlp'), normal)
        up_bias = weight(self, 'up_bias', (arch.F,), ('mlp',), zeros)
        down = weight(self, 'down', (arch.F, arch.D), ('mlp', 'embed'), small)
        down_bias = weight(self, 'down_bias', (arch.D,), ('embed',), zeros)
        x_BTF = einsum('BTD,DF->BTF', x_BTD, up) + up_bias.astype(x_BTD.dtype)
        x_BTF = self.sharding.constrain(x_BTF, 'batch', 'length', 'mlp')
        x_BTF = nn.gelu(x_BTF, approximate=True)
        return einsum('BTF,FD->BTD', x_BTF, down) + down_bias.astype(x_BTD.dtype)
