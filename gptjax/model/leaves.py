"""Weights that are more than one array; `layers.einsum` multiplies by them."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapted:
    """base + scale down up, never added up: low-rank adaptation (Hu et al., 2022).

    Of a base (D, N, H) that contracts D, `down` is (D, R) and `up` (R, N, H). A stack
    of layers has L in front of each. With `index_B`, `down` and `up` are those of
    several adapters, (n, ...), and row b of a batch goes through adapter index_B[b].
    """

    base: Any  # an array, or a leaf of this file that is quantised
    down: Array
    up: Array
    scale: float = dataclasses.field(metadata=dict(static=True))
    index_B: Int[Array, 'B'] | None = None
