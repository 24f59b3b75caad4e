"""From the rows of a dataset to batches on the mesh, on one process or many."""

from collections.abc import Generator, Iterator, Mapping, Sequence
import contextlib
from typing import Any

import jax
import numpy as np

from gptjax import core
from gptjax import sharding as sharding_lib
from gptjax.data import pipeline
from gptjax.data import rows as rows_lib

Skips = Sequence[Sequence[int]]  # (first, end) of rows of a stream


def beyond(row: int, skips: Skips) -> int:
    """The first row from `row` on that is not to be skipped."""
    for first, end in sorted(map(tuple, skips)):
        if first <= row < end:
            row = end
    return row


class Feed:
    """Puts batches of `batch_size` rows on the mesh; reads only what lies here."""

    def __init__(self, sharding: sharding_lib.Sharding, batch_size: int):
        self.batch_size = batch_size
        self._place = sharding.named(('batch',))
        slices = self._place.addressable_devices_indices_map((batch_size,))
        starts = {rows[0].indices(batch_size)[:2] for rows in slices.values() if rows}
        self.owned = [row for a, b in sorted(starts) for row in range(a, b)]

    def put(self, local: Mapping[str, np.ndarray]) -> core.Batch:
        """Global arrays from the `owned` rows of a batch."""
        where = {row: i for i, row in enumerate(self.owned)}

        def place(array: np.ndarray) -> jax.Array:
            def part(index: Any) -> np.ndarray:
                start, stop, _ = index[0].indices(self.batch_size)
                return array[where[start] : where[start] + stop - start]

            shape = (self.batch_size, *array.shape[1:])
            return jax.make_array_from_callback(shape, self._place, part)

        return {name: place(array) for name, array in local.items()}

    def stream(
        self, rows: rows_lib.Rows, seed: int, start_row: int, loader: str
    ) -> Generator[core.Batch]:
        """Batches of the shuffled, endless stream of `rows`, from `start_row` on.

        Closing it ends the threads that read ahead.
        """
        local = pipeline.batches(
            rows,
            seed=seed,
            batch_size=self.batch_size,
            start_row=start_row,
            owned=self.owned,
            loader=loader,
        )
        with contextlib.closing(local):
            for batch in local:
                yield self.put(batch)

    def once(self, rows: rows_lib.Rows, limit: int) -> Iterator[core.Batch]:
        """Each row once, in order; rows of weight 0 fill the last batch.

        With `limit`, that many rows spread evenly over the whole; 0 is all of them.
        """
        total = len(rows)
        count = min(limit, total) if limit else total
        picked = np.arange(count, dtype=np.int64) * total // count
        for start in range(0, count, self.batch_size):
            wanted = start + np.array(self.owned)
            local = rows.read(picked[np.minimum(wanted, count - 1)])
            real = (wanted < count).astype(np.float32)
            weights = local['weights']
            shape = (-1, *[1] * (weights.ndim - 1))
            yield self.put({**local, 'weights': weights * real.reshape(shape)})
