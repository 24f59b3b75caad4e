"""Sequences of different lengths in rows of one length."""

import bisect

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
    return _by_row(row_of, decreasing)


def best_fit_decreasing(
    lengths: Int[np.ndarray, ' n'], T: int
) -> tuple[Int[np.ndarray, ' n'], Int[np.ndarray, ' bounds']]:
    """Packs sequences of 1..T tokens into rows of T: longest first, tightest fit.

    Returns what `first_fit_decreasing` does; with the same bound on the rows. Of rows
    with equal room, the one that has had it longest takes the next sequence.

    As many sequences of one length as fit go into a row at once: while it has room for
    another one, no row is a tighter fit. A row is less than half as empty afterwards,
    so there are O(T log T) steps over arrays of rows, whatever the number of sequences
    (Ding et al., "Fewer truncations improve language modeling", 2024, need O(n log T)).
    """
    decreasing = np.argsort(-lengths, kind='stable')
    row_of = np.empty(len(lengths), np.int64)
    rows: dict[int, list[np.ndarray]] = {}  # those that have this room left
    rooms: list[int] = []  # its keys, ascending
    used = placed = 0
    sizes, counts = np.unique(lengths, return_counts=True)
    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        end = placed + count
        while placed < end:
            at = bisect.bisect_left(rooms, size)
            room = rooms.pop(at) if at < len(rooms) else T
            each = room // size
            wanted = -(-(end - placed) // each)
            if room in rows:
                found = np.concatenate(rows.pop(room))
            else:
                found = np.arange(used, used + wanted)
                used += wanted
            filled, spare = found[:wanted], found[wanted:]
            now = min(end - placed, each * len(filled))
            there = np.repeat(filled, each)[:now]
            row_of[decreasing[placed : placed + now]] = there
            placed += now
            last = room - size * (now - each * (len(filled) - 1))
            left = ((room % size, filled[:-1]), (last, filled[-1:]), (room, spare))
            for rest, some in left:
                if rest and len(some):
                    if rest not in rows:
                        bisect.insort(rooms, rest)
                    rows.setdefault(rest, []).append(some)
    return _by_row(row_of, decreasing)


def _by_row(
    row_of: Int[np.ndarray, ' n'], decreasing: Int[np.ndarray, ' n']
) -> tuple[Int[np.ndarray, ' n'], Int[np.ndarray, ' bounds']]:
    order = decreasing[np.argsort(row_of[decreasing], kind='stable')]
    counts = np.bincount(row_of) if len(row_of) else np.zeros(0, np.int64)
    return order, np.concatenate([[0], np.cumsum(counts)])


def ranges(
    starts: Int[np.ndarray, ' n'], counts: Int[np.ndarray, ' n']
) -> Int[np.ndarray, ' total']:
    """The numbers starts[0], starts[0] + 1, ... (counts[0] of them), starts[1], ..."""
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)
