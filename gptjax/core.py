"""The vocabulary that every package speaks.

Shapes in names: `B` batch, `T` query length, `S` key length, `D` model width, `F` MLP
width, `N` query heads, `K` key/value heads, `G = N/K`, `H` head width, `L` layers, `V`
vocabulary, `E` experts, `C` choices. An array ends in its shape: `q_BTNH`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Params = Any  # a pytree of arrays, unboxed
Batch = Mapping[str, jax.Array]  # every array has the rows of the batch in front
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, weight), never a mean


class Loss(NamedTuple):
    """What a loss function returns: sums and weights, so that parts of a batch add.

    The loss is the sum over `terms` of sum / weight, each totalled over the whole batch
    first; `metrics` are reported and not trained on. Weights depend on the batch alone.
    """

    terms: Metrics
    metrics: Metrics


LossFn = Callable[[Params, Mapping[str, Any], Batch, jax.Array | None], Loss]
"""(trained params, frozen, batch, key) -> Loss; without a key it evaluates.

`frozen` is what the loss reads and does not train: {'reference': the params that
training started from, 'teacher': those of another model, 'running': statistics}.
"""
