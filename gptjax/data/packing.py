"""Conversations of different lengths in rows of one length."""

from jaxtyping import Int
import numpy as np


def first_fit_decreasing(
    lengths: Int[np.ndarray, ' n'], T: int
) -> tuple[Int[np.ndarray, ' n'], Int[np.ndarray, ' bounds']]:
    """Packs sequences of 1..T tokens into rows of T: longest first, first fit.

    Returns (order, bounds): row r holds the sequences order[bounds[r]:bounds[r + 1]],
    side by side. It uses at most 11/9 of the best number of rows, plus 1 (Johnson,
    1973). O(n log n), by a tree over the rows that knows the most room below each node.
    """
    leaves = 1 << max(len(lengths) - 1, 0).bit_length()
    room = [T] * (2 * leaves)
    row_of = np.empty(len(lengths), np.int64)
    decreasing = np.argsort(-lengths, kind='stable')
    for sequence, length in zip(
        decreasing.tolist(), lengths[decreasing].tolist(), strict=True
    ):
        node = 1
        while node < leaves:
            node *= 2
            if room[node] < length:
                node += 1
        row_of[sequence] = node - leaves
        room[node] -= length
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    order = decreasing[np.argsort(row_of[decreasing], kind='stable')]
    counts = np.bincount(row_of) if len(lengths) else np.zeros(0, np.int64)
    return order, np.concatenate([[0], np.cumsum(counts)])


def ranges(
    starts: Int[np.ndarray, ' n'], counts: Int[np.ndarray, ' n']
) -> Int[np.ndarray, ' total']:
    """The numbers starts[0], starts[0] + 1, ... (counts[0] of them), starts[1], ..."""
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)
