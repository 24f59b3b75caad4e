"""What a device does at most, measured where it runs (Williams et al., 2009).

Products of square matrices and a copy, of random numbers: zeros are faster (an H200
does 894 TFLOP/s on zeros and 780 on normal numbers, 8,192 wide in bfloat16).
"""

from collections.abc import Callable
import dataclasses
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

_ROUNDS = 5
# Widths of products, and megabytes of a copy that no cache holds.
_SIZES = {'cpu': ((1024, 2048), 256)}
_LARGE = ((4096, 8192), 2048)


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Of one device."""

    flops: dict[str, float]  # FLOP/s by type of number
    bytes: float  # bytes/s, read and written together

    def least(self, flops: float, moved: float, dtype: str) -> float:
        """Seconds that so many operations and bytes take at least."""
        return max(flops / self.flops[dtype], moved / self.bytes)


def measure(device: jax.Device) -> Roofline:
    """The medians of rounds of products, the best of the sizes, and of a copy.

    Simulated devices share a machine, and each has its part of that.
    """
    share = jax.local_device_count() if device.platform == 'cpu' else 1
    widths, megabytes = _SIZES.get(device.platform, _LARGE)
    flops = {
        dtype: max(_product(device, width, dtype) for width in widths) / share
        for dtype in ('float32', 'bfloat16')
    }
    x = _random(device, (megabytes, 1 << 18), 'float32')
    copy = jax.jit(lambda x: -x)
    return Roofline(flops, 2 * x.nbytes / _seconds(lambda: copy(x)) / share)


def _product(device: jax.Device, width: int, dtype: str) -> float:
    x, y = (_random(device, (width, width), dtype, seed) for seed in (0, 1))
    # With the sums and the precision of the products of a model.
    product = jax.jit(lambda x, y: jnp.dot(x, y, preferred_element_type=jnp.float32))
    return 2 * width**3 / _seconds(lambda: product(x, y))


def _random(
    device: jax.Device, shape: tuple[int, ...], dtype: str, seed: int = 0
) -> jax.Array:
    made = jax.random.normal(jax.random.key(seed), shape, dtype)
    return jax.device_put(made, device)


def _seconds(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(_ROUNDS + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
