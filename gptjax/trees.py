"""Pytrees of arrays: paths, counts and digests that no mesh changes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

_GOLDEN = np.uint32(0x9E3779B9)


def paths(
    tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> list[tuple[str, Any]]:
    """The leaves with their paths, as `blocks/attention/query`, in tree order."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf)
    return [('/'.join(_name(key) for key in path), leaf) for path, leaf in flat]


def map_with_path(
    function: Callable[[str, Any], Any],
    tree: Any,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """`jax.tree.map`, where the function also gets the path of the leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function('/'.join(_name(key) for key in path), leaf),
        tree,
        is_leaf=is_leaf,
    )


def count(tree: Any) -> int:
    """The number of elements in all leaves."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def digest(tree: Any) -> dict[str, str]:
    """One 64-bit digest for each leaf, in hex, the same on every mesh.

    Each element's bits are mixed with its linear index and the results are added
    modulo 2^32, twice with different salts. Integer sums do not depend on their order,
    so a sharded array is digested where it lies, without a gather.
    """
    return end_digest(begin_digest(tree))


def begin_digest(tree: Any) -> dict[str, jax.Array]:
    """Has the devices compute the digests, and does not wait for them."""
    return _digest_all(dict(paths(tree)))


def end_digest(begun: Mapping[str, jax.Array]) -> dict[str, str]:
    """The digests that were begun, in hex."""
    sums = jax.device_get(begun)
    return {name: f'{int(a):08x}{int(b):08x}' for name, (a, b) in sums.items()}


@jax.jit
def _digest_all(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: digest_pair(array) for name, array in arrays.items()}


def digest_pair(array: jax.Array) -> jax.Array:
    """uint32[2]: the digest of one array, inside jit."""
    return jnp.stack([_digest(array, np.uint32(1)), _digest(array, np.uint32(2))])


def _digest(array: jax.Array, salt: np.uint32) -> jax.Array:
    bits = _bits(array)
    index = jnp.zeros(bits.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(bits.ndim)):  # the linear index modulo 2^32
        step = np.uint32(stride % 2**32)
        index += lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * step
        stride *= bits.shape[axis]
    return jnp.sum(_mix(bits ^ _mix(index * _GOLDEN + salt)), dtype=jnp.uint32)


def _bits(array: jax.Array) -> jax.Array:
    """The elements as uint32; an 8-byte type has one more axis, of length 2."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
    size = array.dtype.itemsize
    return lax.bitcast_convert_type(array, unsigned[size]).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 that spreads every bit (murmur3's finaliser, Appleby)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _name(key: Any) -> str:
    for attribute in ('key', 'name', 'idx'):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    raise TypeError(f'a pytree key without a name: {key!r}')
