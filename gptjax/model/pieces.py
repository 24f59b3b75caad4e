"""Which tokens of a row lie on which device of the mesh axis `context`.

Each of C devices has two of 2 C pieces. In causal attention the last queries see most,
so device i has number i and 2 C - 1 - i: then all see the same number of keys.
"""

import itertools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float
import numpy as np

from gptjax import sharding as sharding_lib
from gptjax.model import blocked

AXIS = 'context'


def order(T: int, C: int) -> np.ndarray:
    """Where each token of a row in balanced order stands in the natural one."""
    pieces = np.arange(T).reshape(2 * C, -1)
    return np.stack([pieces[:C], pieces[: C - 1 : -1]], 1).reshape(T)


def natural(
    sharding: sharding_lib.Sharding, x_BTD: Float[Array, 'B T D']
) -> Float[Array, 'B T D']:
    """A row in balanced order in the natural one, of which device j has two pieces.

    These are 2 j and 2 j + 1, and every device has an even and an odd piece to send.
    """
    C = sharding.mesh.shape[AXIS]
    even, odd = ([i if i % 2 == n else 2 * C - 1 - i for i in range(C)] for n in (0, 1))

    def one(x_BtD: Array) -> Array:
        low, high = jnp.split(x_BtD, 2, axis=1)
        swap = lax.axis_index(AXIS) % 2 == 1
        first, second = jnp.where(swap, high, low), jnp.where(swap, low, high)
        first = lax.ppermute(first, AXIS, [(i, n // 2) for i, n in enumerate(even)])
        second = lax.ppermute(second, AXIS, [(i, n // 2) for i, n in enumerate(odd)])
        return jnp.concatenate([first, second], axis=1)

    spec = P(sharding.spec(('batch',))[0], AXIS)
    return jax.shard_map(one, mesh=sharding.mesh, in_specs=spec, out_specs=spec)(x_BTD)


def on_device(causal: bool, device: Any, C: int) -> tuple[Any, Any]:
    """The numbers of the two pieces of a row that lie on a device."""
    return (device, 2 * C - 1 - device) if causal else (2 * device, 2 * device + 1)


def sees(sight: blocked.Sight, t: int, queries: Any, keys: Any) -> Any:
    """Whether any token of one piece of t tokens sees one of another, by number."""
    gap = queries - keys
    # The nearest of their tokens are this far apart.
    near = (abs(gap) - 1) * t + 1 < (sight.window or math.inf)
    return near & (gap >= 0) if sight.causal else near


def shifts(sight: blocked.Sight, t: int, C: int) -> list[int]:
    """How far keys come in each round, of those in which anything is seen."""
    pieces = [on_device(sight.causal, i, C) for i in range(C)]
    return [
        shift
        for shift in range(C)
        if any(
            sees(sight, t, a, b)
            for i in range(C)
            for a, b in itertools.product(pieces[i], pieces[i - shift])
        )
    ]
