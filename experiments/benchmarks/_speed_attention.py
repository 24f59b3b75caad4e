"""Attention by blocks beside the reference, forward and backward, on the CPU.

GPT-2 124M's heads on packed rows of two documents. Both first show equal outputs and
gradients, and both make their masks themselves.
"""

from collections.abc import Iterator
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from gptjax.model import blocked, kernels

ROUNDS = 5
HEADS, WIDTH, TOKENS = 12, 64, 4096
SIGHT = blocked.Sight(causal=True, window=0)


def rows() -> Iterator[dict[str, Any]]:
    for T in (1024, 2048):
        for dtype in ('float32', 'bfloat16'):
            ours, peer = _seconds(T, dtype)
            yield {
                'name': f'attention: blocks / reference, T = {T}, {dtype}',
                'value': peer / ours,
                'goal': 1.5,
                'direction': 'max',
                'unit': 'times as fast',
                'ours': ours,
                'peer': peer,
            }


def _seconds(T: int, dtype: str) -> tuple[float, float]:
    """Of blocks and of the reference, medians of rounds by turns."""
    shape = (T, HEADS, HEADS, WIDTH)
    apart = kernels._error(kernels.KERNELS['blocked'], SIGHT, shape, dtype)
    if not apart <= kernels.TOLERANCE[dtype]:
        raise ValueError(f'blocks are off by {apart} of the largest number')
    B = TOKENS // T
    arrays = [
        jax.random.normal(key, (B, T, HEADS, WIDTH)).astype(dtype)
        for key in jax.random.split(jax.random.key(0), 4)
    ]
    segments = jnp.broadcast_to(1 + (jnp.arange(T) > T // 3), (B, T)).astype(jnp.int32)
    programs = {
        name: jax.jit(kernels._both(kernels.KERNELS[name], SIGHT))
        for name in ('blocked', 'reference')
    }
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(ROUNDS + 1):  # the first compiles
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(segments, *arrays))
            if turn:
                times[name].append(time.perf_counter() - start)
    ours, peer = (statistics.median(times[name]) for name in programs)
    return ours, peer
