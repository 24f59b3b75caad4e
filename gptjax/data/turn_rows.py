"""Rows of conversations and of preference pairs, and what becomes of too long ones.

One of more than T tokens is cut there, or left out (`longer`). Either way it is counted
and told. What is cut so that none of its tokens is learned counts for nothing, and so
does a pair of which that is true of one answer, or whose answers are equal.
"""

from collections.abc import Mapping
import functools
import sys

from jaxtyping import Bool, Float32, Int64
import numpy as np

from gptjax import command
from gptjax.data import packing, rows

LONGER = {'cut': 'are cut there', 'drop': 'are left out'}


class Sequences:
    """The separate token sequences of a split, with the weights of what is learned.

    longer: what becomes of those of more than T tokens, one of LONGER.
    """

    def __init__(
        self,
        tokens: rows.Stream,
        weights: rows.Stream,
        starts: Int64[np.ndarray, ' bounds'],
        longer: str = 'cut',
    ):
        self.becomes = command.lookup(LONGER, longer, 'data.longer')
        self._drop = longer == 'drop'
        self._tokens = tokens
        self._weights = weights
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, ' sequences']:
        """Inputs of each: its tokens less one."""
        return np.diff(self._starts) - 1

    def inputs(
        self, chosen: Int64[np.ndarray, ' m'], T: int
    ) -> Int64[np.ndarray, ' m']:
        """Inputs of those chosen in a row of T tokens; 0 of one that is left out."""
        lengths = self._starts[chosen + 1] - self._starts[chosen] - 1
        return np.where(lengths > T, 0 if self._drop else T, lengths)

    def unlearned(self, T: int) -> Bool[np.ndarray, ' sequences']:
        """Which keep no token that is learned; others than too long ones have some."""
        found = self.lengths > T
        for number in np.flatnonzero(found).tolist() if not self._drop else ():
            start = int(self._starts[number]) + 1
            found[number] = not self._weights.window(start, T).any()
        return found

    def equal(self, T: int) -> Bool[np.ndarray, ' pairs']:
        """Of which pairs the two sequences are equal in a row of T tokens."""
        lengths = self.inputs(np.arange(len(self)), T).reshape(-1, 2)
        found = lengths[:, 0] == lengths[:, 1]
        for pair in np.flatnonzero(found).tolist():
            starts = self._starts[[2 * pair, 2 * pair + 1]].tolist()
            width = int(lengths[pair, 0]) + 1
            first, second = (self._tokens.window(start, width) for start in starts)
            found[pair] = np.array_equal(first, second)
        return found

    def over(self, start: int, end: int, T: int) -> Int64[np.ndarray, ' found']:
        """Sequences of which a token at start..end-1 is in a row of T."""
        found = rows.over(self._starts, start, end)
        inputs = self.inputs(found, T)
        kept = np.where(inputs > 0, inputs + 1, 0)
        return found[(kept > 0) & (start < self._starts[found] + kept)]

    def lay_out(
        self,
        chosen: Int64[np.ndarray, ' m'],
        row: Int64[np.ndarray, ' m'],
        n: int,
        T: int,
    ) -> rows.Arrays:
        """Arrays [n, T] with sequence chosen[j] in row row[j]; `row` ascends."""
        lengths = self.inputs(chosen, T)
        before = np.cumsum(lengths) - lengths
        first = np.searchsorted(row, row)  # the first sequence of the same row
        column = before - before[first]
        place = packing.ranges(self._starts[chosen], lengths)
        cell = packing.ranges(row * T + column, lengths)
        values = (
            self._tokens.at(place),
            self._tokens.at(place + 1),
            np.repeat(np.arange(len(row)) - first + 1, lengths),
            packing.ranges(np.zeros_like(lengths), lengths),
            self._weights.at(place + 1),
        )
        arrays = {}
        for (key, dtype), value in zip(rows.DTYPES.items(), values, strict=True):
            flat = np.zeros(n * T, dtype)
            flat[cell] = value
            arrays[key] = flat.reshape(n, T)
        return arrays


class ChatRows:
    """Whole conversations, packed first-fit-decreasing.

    counts: of conversations, of those `longer` than a row, and of those `unlearned`.
    """

    dtypes = rows.DTYPES

    def __init__(self, sequences: Sequences, T: int):
        self._sequences = sequences
        self._T = T
        unlearned = sequences.unlearned(T)
        self.counts = counted('conversations', sequences, T, unlearned)
        lengths = sequences.inputs(np.arange(len(sequences)), T)
        self._order, self._bounds = packing.first_fit_decreasing(lengths, T)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def read(
        self,
        indices: Int64[np.ndarray, ' n'],
        epochs: Int64[np.ndarray, ' n'] | None = None,
    ) -> rows.Arrays:
        """Rows [n, T] of conversations side by side, padded at the end."""
        first = self._bounds[indices]
        counts = self._bounds[indices + 1] - first
        chosen = self._order[packing.ranges(first, counts)]
        row = np.repeat(np.arange(len(indices)), counts)
        return self._sequences.lay_out(chosen, row, len(indices), self._T)

    def rows_of(self, start: int, end: int) -> Int64[np.ndarray, ' rows']:
        """The rows that hold a token of the places start..end-1 of the split."""
        chosen = self._places[self._sequences.over(start, end, self._T)]
        return np.unique(np.searchsorted(self._bounds, chosen, side='right') - 1)

    @functools.cached_property
    def _places(self) -> np.ndarray:
        """Where in the order each conversation is."""
        return np.argsort(self._order)


class PairRows:
    """Preference pairs [n, 2, T]: index 0 is the chosen answer, 1 the rejected.

    Where they have margins, a batch has `margins`, float32 [n]. counts: of pairs, of
    those with an answer `longer` than a row, and of those that are `unlearned`: of an
    empty answer, or of two equal ones. The weights of these are 0.
    """

    def __init__(
        self,
        sequences: Sequences,
        T: int,
        margins: Float32[np.ndarray, ' pairs'] | None = None,
    ):
        self.dtypes = (
            rows.DTYPES if margins is None else {**rows.DTYPES, 'margins': np.float32}
        )
        self._sequences = sequences
        self._margins = margins
        self._T = T
        unlearned = sequences.unlearned(T).reshape(-1, 2).any(1) | sequences.equal(T)
        self.counts = counted('pairs', sequences, T, unlearned)
        self._kept = np.where(unlearned, 0, 1).astype(np.float32)

    def __len__(self) -> int:
        return len(self._sequences) // 2

    def read(
        self,
        indices: Int64[np.ndarray, ' n'],
        epochs: Int64[np.ndarray, ' n'] | None = None,
    ) -> rows.Arrays:
        """Rows [n, 2, T]; both answers of a pair begin with the same prompt."""
        both = (2 * indices[:, None] + np.arange(2)).ravel()
        places = np.arange(len(both))
        arrays = self._sequences.lay_out(both, places, len(both), self._T)
        pairs = {k: v.reshape(len(indices), 2, self._T) for k, v in arrays.items()}
        pairs['weights'] = pairs['weights'] * self._kept[indices, None, None]
        return pairs | (
            {} if self._margins is None else {'margins': self._margins[indices]}
        )

    def rows_of(self, start: int, end: int) -> Int64[np.ndarray, ' rows']:
        """The rows that hold a token of the places start..end-1 of the split."""
        return np.unique(self._sequences.over(start, end, self._T) // 2)


def counted(
    what: str, sequences: Sequences, T: int, unlearned: Bool[np.ndarray, ' n']
) -> Mapping[str, int]:
    """How many there are, are too long, and count for nothing; told, if any."""
    lengths = sequences.lengths.reshape(len(unlearned), -1).max(axis=1, initial=0)
    rows.warn_of_cut(lengths, T, what, sequences.becomes)
    counts = {what: len(lengths), 'longer': int((lengths > T).sum())}
    counts['unlearned'] = int(unlearned.sum())
    if counts['unlearned']:
        print(
            f'warning: {counts["unlearned"]:,} of {len(lengths):,} {what} have nothing '
            f'to learn in a row of {T} tokens and count for nothing; a larger data.T '
            'or model.T keeps more of long ones',
            file=sys.stderr,
        )
    return counts
