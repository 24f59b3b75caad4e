"""MinHash under jax.jit on one GPU against NumPy on one core, bits first shown equal.

    JAX_PLATFORMS=cuda make benchmark AREA=data.minhash_gpu

Hashes come from host memory, and signatures go back there, within what is timed.
"""

from collections.abc import Callable, Iterator
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.data.dedup import minhash

COUNT, SHINGLES, BATCH, BATCHES, ROUNDS = 112, 496, 8192, 8, 5
ON_HOST = 2000  # texts that NumPy is timed on


def rows() -> Iterator[dict[str, Any]]:
    if jax.default_backend() != 'gpu':
        print(
            'minhash_gpu: no GPU (JAX_PLATFORMS=cuda selects it); its row is left out'
        )
        return
    yield compared()


def compared() -> dict[str, Any]:
    """The row, on whatever device jax has."""
    random = np.random.default_rng(0)
    shape = (BATCHES, BATCH, SHINGLES)
    hashes = random.integers(0, 1 << 32, shape, np.uint32)
    a, b = minhash.permutations(COUNT, 1)
    signer = minhash.Signer(a, b)
    signatures = jax.jit(jax.vmap(lambda h: minhash.signature(h, a, b, jnp)))

    def on_host() -> np.ndarray:
        return np.stack([signer(one) for one in hashes[0, :ON_HOST]])

    def on_device() -> np.ndarray:
        sent = [signatures(batch) for batch in hashes]  # all under way before the first
        return np.concatenate([np.asarray(found) for found in sent])

    if not np.array_equal(on_host(), on_device()[:ON_HOST]):
        raise AssertionError('signatures differ')
    host = ON_HOST / statistics.median(_timed(on_host) for _ in range(ROUNDS))
    device = statistics.median(_timed(on_device) for _ in range(ROUNDS))
    return {
        'name': 'MinHash under jit on a GPU / NumPy on a core',
        'value': BATCHES * BATCH / device / host,
        'goal': 5,
        'direction': 'max',
        'unit': 'times as fast',
        'ours': BATCHES * BATCH / device,
        'peer': host,
    }


def _timed(task: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    task()
    return time.perf_counter() - begun
