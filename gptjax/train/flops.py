"""Peak speed of devices, for MFU (Chowdhery et al., 2022, appendix B)."""

import time

import jax
import jax.numpy as jnp

# Dense bfloat16 FLOP/s of a device, from the vendors' data sheets.
_PEAK = {
    'TPU v3': 123e12 / 2,  # a JAX device is one of two cores
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5p': 459e12,
    'TPU v5': 459e12,
    'TPU v6 lite': 918e12,
    'TPU7x': 2307e12 / 2,
    'A100': 312e12,
    'H100': 989.4e12,
    'H200': 989.4e12,
}


def peak(device: jax.Device) -> float | None:
    """FLOP/s of one device at most; None where it is not known.

    For CPUs it is measured: the fastest of five float32 products of 1024 x 1024,
    divided by the simulated devices that share the machine.
    """
    if device.platform == 'cpu':
        return _measured() / jax.local_device_count()
    matches = [name for name in _PEAK if name in device.device_kind]
    return _PEAK[max(matches, key=len)] if matches else None


def _measured() -> float:
    size = 1024
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
    product = jax.jit(jnp.dot)
    jax.block_until_ready(product(x, x))
    best = float('inf')
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(product(x, x))
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
