"""Products with the weights of layers in 8 bits: int8 forward, or fp8.

An operand is scaled by the largest magnitude of what shares a scale, rounded to the
nearest code, and the sums are scaled back. int8: a scale for each row of activations
and each output of a weight, and whole sums. fp8: one scale for each operand, e4m3
forward; in backward the incoming gradient is e5m2, and what it meets e4m3 (Micikevicius
et al., 2022), with float32 sums. Scales are those of the values at hand, not of steps
before. Hardware without the type computes the same numbers from wider ones.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array

from gptjax import core, trees
from gptjax.model import leaves, lora

_TOP = {jnp.int8: 127.0, jnp.float8_e4m3fn: 448.0, jnp.float8_e5m2: 57344.0}
_LEAST = 1e-30  # magnitudes below it are 0


def tree(params: core.Params, kind: str, dtype: Any = jnp.float32) -> core.Params:
    """Parameters whose products in layers are computed as `kind` of config.PRODUCTS.

    The plain ones, where activations are not float32, from weights that are cast here
    and not in each iteration of the scan, forward and backward. The bases of adapters
    too; not adapters, quantised bases, routers, experts, embeddings and heads.
    """
    if kind == 'plain' and jnp.dtype(dtype) == jnp.float32:
        return params

    def leaf(path: str, weight: Any) -> Any:
        if isinstance(weight, leaves.Adapted):
            low = leaf(path, weight.base)
            return dataclasses.replace(weight, base=low)
        whole = not dataclasses.is_dataclass(weight)  # not in few bits
        layer = lora.stacked(path) and lora.adaptable(path)
        if not (whole and layer):
            return weight
        if kind != 'plain':
            return leaves.Low(weight, kind)
        return leaves.Cast(weight, lax.stop_gradient(weight).astype(dtype))

    return trees.map_with_path(leaf, params, is_leaf=lambda x: not isinstance(x, dict))


def emulated(kind: str) -> str:
    """A sentence for the log where the first device lacks the type of `kind`, or ''."""
    device = jax.devices()[0]
    if kind == 'plain' or _native(kind, device):
        return ''
    return (
        f'compute.products is {kind!r}, which {device.device_kind} computes from wider '
        'numbers: the same result, and not faster'
    )


def _native(kind: str, device: jax.Device) -> bool:
    if device.platform == 'gpu':  # Ada and Hopper have fp8, Turing has int8
        capability = float(device.compute_capability)
        return capability >= {'int8': 7.5, 'fp8': 8.9}[kind]
    if device.platform == 'tpu':
        chips = {'int8': ('v5', 'v6', '7'), 'fp8': ('7',)}[kind]
        return any(chip in device.device_kind for chip in chips)
    return kind == 'int8'


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3, 4))
def product(
    spec: str, x: Array, weight: Array, kind: str, plain: Callable[..., Array]
) -> Array:
    """`plain(spec, x, weight)`, the product of `layers`, in 8 bits; in the type of x.

    The gradients of int8 are those of `plain` itself, as if nothing were rounded
    (straight through: Bengio et al., 2013, section 4).
    """
    return _forward(spec, x, weight, kind, plain)[0]


def _forward(
    spec: str, x: Array, weight: Array, kind: str, plain: Callable[..., Array]
) -> tuple[Array, Any]:
    left, right, result = spec.replace('->', ',').split(',')
    if kind == 'int8':
        codes = _codes(x, _summed(left, result), jnp.int8)
        of_weight = _codes(weight, _summed(right, result), jnp.int8)
        return _scaled(spec, codes, of_weight).astype(x.dtype), (x, weight)
    codes = _codes(x, None, jnp.float8_e4m3fn)
    of_weight = _codes(weight, None, jnp.float8_e4m3fn)
    # Backward wants the codes, which are a half of x or a quarter of it.
    saved = codes, weight, jnp.zeros((), x.dtype)
    return _scaled(spec, codes, of_weight).astype(x.dtype), saved


def _backward(
    spec: str, kind: str, plain: Callable[..., Array], saved: Any, dy: Array
) -> tuple[Array, Array]:
    if kind == 'int8':
        _, gradients = jax.vjp(functools.partial(plain, spec), *saved)
        return gradients(dy)
    left, right, result = spec.replace('->', ',').split(',')
    codes, weight, like = saved
    of_weight = _codes(weight, None, jnp.float8_e4m3fn)
    of_dy = _codes(dy, None, jnp.float8_e5m2)
    dx = _scaled(f'{result},{right}->{left}', of_dy, of_weight)
    dw = _scaled(f'{left},{result}->{right}', codes, of_dy)
    return dx.astype(like.dtype), dw.astype(weight.dtype)


product.defvjp(_forward, _backward)


def _summed(letters: str, result: str) -> tuple[int, ...]:
    return tuple(i for i, letter in enumerate(letters) if letter not in result)


def _codes(x: Array, axes: Sequence[int] | None, dtype: Any) -> tuple[Array, Array]:
    """(the nearest codes, what 1 stands for), a scale for all along `axes`.

    What is not finite makes its scale so, and with it the product.
    """
    wide = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axes, keepdims=True)
    # A maximum on CPU may pass over what is no number; a sum does not.
    largest = jnp.maximum(largest, _LEAST) + 0 * jnp.sum(wide, axes, keepdims=True)
    scaled = wide * (_TOP[dtype] / largest)
    if dtype == jnp.int8:
        scaled = jnp.round(scaled)
    return scaled.astype(dtype), largest / _TOP[dtype]


def _scaled(spec: str, one: tuple[Array, Array], other: tuple[Array, Array]) -> Array:
    """The product of codes in float32, times what they stand for."""
    left, right, result = spec.replace('->', ',').split(',')
    (a, scale_a), (b, scale_b) = one, other
    both = [(left.index(c), right.index(c)) for c in left if c in right]
    sums = lax.dot_general(
        a,
        b,
        (([i for i, _ in both], [j for _, j in both]), ((), ())),
        preferred_element_type=jnp.int32 if a.dtype == jnp.int8 else jnp.float32,
    )
    order = [c for c in left + right if c in result]
    sums = jnp.transpose(sums, [order.index(c) for c in result])
    scales = _placed(scale_a, left, result) * _placed(scale_b, right, result)
    return sums.astype(jnp.float32) * scales


def _placed(scale: Array, letters: str, result: str) -> Array:
    """A scale by the axes `letters`, of which it has 1 where it sums, by `result`."""
    kept = ''.join(letter for letter in result if letter in letters)
    placed = jnp.einsum(f'{letters}->{kept}', scale)
    return jnp.expand_dims(placed, _summed(result, letters))
