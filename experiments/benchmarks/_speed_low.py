"""Products of layers in 8 bits beside plain float32, in a training step on CPU.

The same weights and batches, by turns. The times have no goal: a CPU has no products in
8 bits that pay in a step. What they cost in quality on text,
experiments/2026_11_low_precision.py tells.
"""

from collections.abc import Iterator
import statistics
from typing import Any

import numpy as np

from experiments.benchmarks import _speed_train
from gptjax.model import config as config_lib
from gptjax.model import table as model_table

B, T, V = 12, 64, 384
ROUNDS, STEPS = 5, 12


def rows() -> Iterator[dict[str, Any]]:
    preset = model_table.preset('gpt2-micro', T=T, V=V, D=128, F=512)
    arch = config_lib.architecture(**preset)
    sides: dict[str, Any] = {}
    for kind in config_lib.PRODUCTS:
        sides[kind] = _speed_train.Ours(arch, B, 'float32', kind)
        sides[kind]._rng = _Rule()
    first = {kind: side.run(1)[0][0] for kind, side in sides.items()}
    apart = {kind: abs(loss - first['plain']) for kind, loss in first.items()}
    if not 0 < max(apart.values()) < 0.02:
        raise ValueError(f'losses of the first step differ by {apart}')
    times: dict[str, list[float]] = {kind: [] for kind in sides}
    losses: dict[str, list[float]] = {kind: [] for kind in sides}
    for _ in range(ROUNDS):
        for kind, side in sides.items():
            found, seconds = side.run(STEPS)
            times[kind].append(seconds / STEPS)
            losses[kind] = found
    step = {kind: statistics.median(found) for kind, found in times.items()}
    loss = {kind: statistics.mean(found) for kind, found in losses.items()}
    for kind in ('int8', 'fp8'):
        yield {
            'name': f'low: step of 4 x 128 in {kind} / float32, for the record',
            'value': step['plain'] / step[kind], 'goal': 0, 'direction': 'max',
            'unit': 'times as fast', 'ours': step[kind], 'peer': step['plain'],
        }  # fmt: skip
        yield {
            'name': f'low: loss after {ROUNDS * STEPS} steps, {kind} - float32',
            'value': loss[kind] - loss['plain'], 'goal': 0.05, 'direction': 'min',
            'unit': 'nats', 'ours': loss[kind], 'peer': loss['plain'],
        }  # fmt: skip


class _Rule:
    """Rows in which each token is the one before and a number of the row's own."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def integers(self, low: int, high: int, shape: tuple[int, int]) -> np.ndarray:
        rows, length = shape
        first, each = (
            self._rng.integers(low, high, (rows, 1)),
            self._rng.integers(1, 5, (rows, 1)),
        )
        return (first + each * np.arange(length)) % (high - low) + low
