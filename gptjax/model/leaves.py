"""Weights that are more than one array; `layers.einsum` multiplies by them."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

# Quantiles of the normal distribution, scaled to -1 to 1 (Dettmers et al., 2023,
# appendix E): the code book of NF4.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
    0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapted:
    """base + scale down up, never added up: low-rank adaptation (Hu et al., 2022).

    Of a base (D, N, H) that contracts D, `down` is (D, R) and `up` (R, N, H). A stack
    of layers has L in front of each. With `index_B`, `down` and `up` are those of
    several adapters, (n, ...), and row b of a batch goes through adapter index_B[b].
    """

    base: Any  # an array, or a Quantised one
    down: Any
    up: Any
    scale: float = dataclasses.field(metadata=dict(static=True))
    index_B: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantised:
    """A weight in 8 or 4 bits an element, that is not trained.

    int8: `codes` are int8 of the weight's shape, and `absmax`, with 1 for each axis
    that a product sums over, is what 127 stands for. nf4: a row, which is all that has
    one index of the weight's first axis, is cut into blocks of 64 with an `absmax`
    each; `codes` (first axis, blocks, 32) are uint8, two elements each, the first of
    them in the high half. A stack of layers has L in front of each.
    """

    codes: Any
    absmax: Any
    dims: tuple[int, ...] = dataclasses.field(metadata=dict(static=True))  # without L
    kind: str = dataclasses.field(metadata=dict(static=True))

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's."""
        own = len(self.dims) if self.kind == 'int8' else 3
        return (*self.codes.shape[: self.codes.ndim - own], *self.dims)

    def dense(self, dtype: Any) -> Array:
        """The weight that this stands for."""
        if self.kind == 'int8':
            return (self.codes.astype(jnp.float32) * (self.absmax / 127)).astype(dtype)
        halves = jnp.stack([self.codes >> 4, self.codes & 15], axis=-1)
        blocks = jnp.array(NF4)[halves.reshape(*self.codes.shape[:-1], -1)]
        blocks *= self.absmax[..., None]
        rows = blocks.reshape(*blocks.shape[:-2], -1)[..., : math.prod(self.dims[1:])]
        return rows.reshape(self.shape).astype(dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cast:
    """A weight with itself in the type of activations, cast once for all its products.

    Gradients are those of `weight`.
    """

    weight: Any
    cast: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Low:
    """A trained weight whose products are computed in 8 bits: see `low`."""

    weight: Any
    kind: str = dataclasses.field(metadata=dict(static=True))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """A weight in 8 or 4 bits for serving, as rows that an output sums over.

    Padded to I inputs, a multiple of 32, and O outputs, of 4, which lie as `native`
    reads them: `codes` are (O / 4, I / 32, 4, 32) int8, with a `scale` (O,); or (O / 4,
    I / 32, 4, 16) uint8, two elements each, code + 8, the first 16 of 32 in the low
    halves, with a `scale` (O / 4, I / 32, 4). A weight is code x scale.
    """

    codes: Any
    scale: Any
    dims: tuple[int, ...] = dataclasses.field(metadata=dict(static=True))
    inner: int = dataclasses.field(metadata=dict(static=True))  # see `sides`

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's."""
        return self.dims

    @property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The axes that a product sums over, the first or (-1) the last; the others."""
        sides = self.dims[: self.inner], self.dims[self.inner :]
        return sides if self.inner > 0 else sides[::-1]

    def __getitem__(self, index: Array) -> Array:
        """Rows of a weight (V, D) that sums over D, in float32: an embedding's."""
        at = (index // 4, slice(None), index % 4)
        scale = self.scale[at] if self.scale.ndim == 3 else self.scale[index, None]
        return self._values(self.codes[at], scale)[..., : self.dims[-1]]

    def dense(self, dtype: Any) -> Array:
        """The weight that this stands for."""
        codes = jnp.swapaxes(self.codes, 1, 2)
        scale = self.scale.reshape(codes.shape[0], 4, -1)
        if self.scale.ndim == 3:
            scale = jnp.swapaxes(self.scale, 1, 2)
        values = self._values(codes, scale)
        inner, outer = (math.prod(side) for side in self.sides)
        rows = values.reshape(-1, values.shape[-1])[:outer, :inner]
        return (rows if self.inner < 0 else rows.T).reshape(self.dims).astype(dtype)

    def _values(self, codes: Array, scale: Array) -> Array:
        """Of blocks (..., I / 32, bytes), in float32."""
        if codes.dtype == jnp.uint8:
            codes = jnp.concatenate([codes & 15, codes >> 4], -1).astype(jnp.int8) - 8
        values = codes.astype(jnp.float32) * scale[..., None]
        return values.reshape(*values.shape[:-2], -1)


def dense(leaf: Any) -> Array:
    """A weight as a float32 array, quantised or not."""
    if isinstance(leaf, Quantised | Rows):
        return leaf.dense(jnp.float32)
    return jnp.asarray(leaf, jnp.float32)
