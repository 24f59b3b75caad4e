"""Loading: tokens a second of CPU time, from packed shards to arrays of a batch."""

from collections.abc import Callable, Iterator
import itertools
from pathlib import Path
import statistics
import tempfile
import time
from typing import Any

import numpy as np

from gptjax.data import packing, pipeline
from gptjax.data import rows as rows_lib

TOKENS = 2**25
SHAPES = ((1024, 512), (2048, 256))  # T, rows of a batch
SECONDS, TIMES = 1.0, 5


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        file, starts = _shard(Path(folder))
        stream = rows_lib.Stream([file], [TOKENS], np.dtype('<u2'))
        for T, size in SHAPES:
            made = rows_lib.TextRows(stream, T)
            _check(made, T, size)
            place = itertools.count(0, size)

            def batch(
                made: rows_lib.TextRows = made,
                size: int = size,
                place: Iterator[int] = place,
            ) -> dict[str, Any]:
                return pipeline.batch(made, seed=0, batch_size=size, row=next(place))

            yield _row(f'NumPy, one thread, T {T}', _speed(batch), 100)
            for loader, goal in (('threads', 100), ('tfdata', 50)):
                found = pipeline.batches(
                    made, seed=0, batch_size=size, start_row=0, owned=None,
                    loader=loader,
                )  # fmt: skip
                speed = _speed(found.__next__)
                found.close()
                yield _row(f'{loader}, T {T}', speed, goal)
        yield from _packing(stream, starts)


def _packing(stream: rows_lib.Stream, starts: np.ndarray) -> Iterator[dict[str, Any]]:
    packed = rows_lib.BestFitRows(stream, starts, 2048)
    used = 100 * TOKENS / (2048 * len(packed))
    yield {
        'name': 'best-fit packing, T 2048: rows full', 'value': used, 'goal': 99.9,
        'direction': 'max', 'unit': '%',
    }  # fmt: skip
    order = np.random.default_rng(0).permutation(len(packed))
    place = itertools.cycle(range(0, len(order) - 256, 256))
    speed = _speed(lambda: packed.read(order[(i := next(place)) : i + 256]))
    yield _row('best-fit rows, T 2048', speed, 50)
    lengths = np.clip(np.random.default_rng(1).lognormal(6, 1.2, 10**6), 1, 2048)
    before = time.process_time()
    packing.best_fit_decreasing(lengths.astype(np.int64), 2048)
    yield {
        'name': 'best-fit packing of 1,000,000 documents',
        'value': time.process_time() - before, 'goal': 2, 'direction': 'min',
        'unit': 's',
    }  # fmt: skip


def _shard(folder: Path) -> tuple[Path, np.ndarray]:
    """Random tokens in documents as long as web pages are; where each begins."""
    draw = np.random.default_rng(0)
    ids = draw.integers(1, 50257, TOKENS, dtype=np.uint16)
    ends = np.cumsum(draw.lognormal(6, 1.2, TOKENS // 100).astype(np.int64) + 1)
    starts = np.concatenate([[0], ends[ends < TOKENS]])
    ids[starts] = 0
    (folder / 'tokens').write_bytes(ids.tobytes())
    return folder / 'tokens', np.append(starts, TOKENS)


def _check(made: rows_lib.TextRows, T: int, size: int) -> None:
    """Both loaders give the pure batch, whose targets are the tokens that follow."""
    expected = pipeline.batch(made, seed=0, batch_size=size, row=0)
    assert (expected['targets'][:, :-1] == expected['tokens'][:, 1:]).all()
    assert (expected['positions'][expected['tokens'] == 0] == 0).all()
    for loader in pipeline.LOADERS:
        found = pipeline.batches(
            made, seed=0, batch_size=size, start_row=0, owned=None, loader=loader
        )
        first = next(found)
        found.close()
        for key, array in expected.items():
            np.testing.assert_array_equal(first[key], array)


def _speed(batch: Callable[[], dict[str, Any]]) -> float:
    """Million tokens a second of this process's CPU time, all threads: the median."""
    for _ in range(5):
        batch()
    speeds = []
    for _ in range(TIMES):
        tokens, wall, before = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < SECONDS:
            tokens += batch()['tokens'].size
        speeds.append(tokens / (time.process_time() - before) / 1e6)
    return statistics.median(speeds)


def _row(name: str, value: float, goal: float) -> dict[str, Any]:
    return {
        'name': f'loader: {name}', 'value': value, 'goal': goal, 'direction': 'max',
        'unit': 'M tokens/s CPU',
    }  # fmt: skip
