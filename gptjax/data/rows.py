"""Rows of T tokens out of shards: `read` is a pure function of row numbers.

A batch of rows is a dict of arrays of shape [n, T] ([n, 2, T] for preference pairs; for
labelled texts and translations see `example_rows`):
tokens, targets (the next token), segments (1, 2, ... within a row, 0 is padding) and
positions (from 0 in each segment), all int32, and weights (float32; 0 at padding and
where the target is not to be learned).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
import sys
from typing import Protocol, runtime_checkable

from jaxtyping import Float32, Int32, Int64
import numpy as np

from gptjax.data import packing

Dtypes = Mapping[str, type[np.generic]]
DTYPES: Dtypes = {
    'tokens': np.int32,
    'targets': np.int32,
    'segments': np.int32,
    'positions': np.int32,
    'weights': np.float32,
}
Arrays = dict[str, Int32[np.ndarray, 'n *row'] | Float32[np.ndarray, 'n *row']]


@runtime_checkable
class Rows(Protocol):
    """The rows of a split: what `pipeline` draws batches from.

    dtypes: the names of the arrays of a batch, in order, and their types.
    """

    dtypes: Dtypes

    def __len__(self) -> int:
        """The number of rows."""

    def read(
        self,
        indices: Int64[np.ndarray, ' n'],
        epochs: Int64[np.ndarray, ' n'] | None = None,
    ) -> Arrays:
        """The rows with these numbers, in this order.

        epochs: how often the stream has been through all rows before it came to each;
        rows that draw at random draw anew. None is evaluation: always the same.
        """


class Stream:
    """The concatenation of flat files of one integer type, read as needed."""

    def __init__(self, files: Sequence[Path], lengths: Sequence[int], dtype: np.dtype):
        self.dtype = dtype
        self.bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._maps = [np.memmap(file, dtype, 'r') for file in files]

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def at(self, places: Int64[np.ndarray, ' n']) -> np.ndarray:
        """The elements at these places of the concatenation."""
        out = np.empty(len(places), self.dtype)
        shards = np.searchsorted(self.bounds, places, side='right') - 1
        for shard in np.unique(shards):
            chosen = np.flatnonzero(shards == shard)
            out[chosen] = self._maps[shard][places[chosen] - self.bounds[shard]]
        return out

    def windows(self, starts: Int64[np.ndarray, ' n'], width: int) -> np.ndarray:
        """[n, width]: consecutive elements from each start; the end joins the start."""
        out = np.empty((len(starts), width), self.dtype)
        shards = np.searchsorted(self.bounds, starts, side='right') - 1
        inside = starts + width <= self.bounds[shards + 1]
        for shard in np.unique(shards[inside]):
            chosen = np.flatnonzero(inside & (shards == shard))
            # A view that overlaps itself: indexing it copies whole windows at a time.
            view = np.lib.stride_tricks.sliding_window_view(self._maps[shard], width)
            out[chosen] = view[starts[chosen] - self.bounds[shard]]
        for row in np.flatnonzero(~inside):
            out[row] = self.at((starts[row] + np.arange(width)) % len(self))
        return out


class TextRows:
    """The stream of documents, cut every T tokens: each token is a target exactly once.

    Every document begins with <|endoftext|>, which is the target that ends the one
    before it. The last document ends with the <|endoftext|> that the stream begins
    with.
    """

    dtypes = DTYPES

    def __init__(self, tokens: Stream, T: int):
        self._tokens = tokens
        self._T = T
        self._endoftext = tokens.at(np.zeros(1, np.int64))[0]

    def __len__(self) -> int:
        return -(-len(self._tokens) // self._T)

    def read(
        self,
        indices: Int64[np.ndarray, ' n'],
        epochs: Int64[np.ndarray, ' n'] | None = None,
    ) -> Arrays:
        """Rows [n, T] of consecutive tokens; only the last row has padding."""
        T = self._T
        ids = self._tokens.windows(indices * T, T + 1)
        tokens, targets = ids[:, :-1].astype(np.int32), ids[:, 1:].astype(np.int32)
        segments, positions = np.ones_like(tokens), np.empty_like(tokens)
        positions[:] = np.arange(T)
        begins = ids[:, :-1] == self._endoftext
        begins[:, 0] = False
        several = np.flatnonzero(begins.any(axis=1))
        if len(several):
            some = begins[several]
            segments[several] += np.cumsum(some, axis=1, dtype=np.int32)
            firsts = np.where(some, positions[several], 0)
            positions[several] -= np.maximum.accumulate(firsts, axis=1)
        weights = np.ones(tokens.shape, np.float32)
        for row in np.flatnonzero(indices == len(self) - 1):
            end = len(self._tokens) - indices[row] * T
            for array in (tokens, targets, segments, positions, weights):
                array[row, end:] = 0
        arrays = (tokens, targets, segments, positions, weights)
        return dict(zip(DTYPES, arrays, strict=True))


class ChatRows:
    """Whole conversations, packed first-fit-decreasing; too long ones are cut."""

    dtypes = DTYPES

    def __init__(self, sequences: 'Sequences', T: int):
        self._sequences = sequences
        self._T = T
        self._lengths = sequences.inputs(T)
        self._order, self._bounds = packing.first_fit_decreasing(self._lengths, T)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def read(
        self,
        indices: Int64[np.ndarray, ' n'],
        epochs: Int64[np.ndarray, ' n'] | None = None,
    ) -> Arrays:
        """Rows [n, T] of conversations side by side, padded at the end."""
        first = self._bounds[indices]
        counts = self._bounds[indices + 1] - first
        chosen = self._order[packing.ranges(first, counts)]
        row = np.repeat(np.arange(len(indices)), counts)
        return self._sequences.lay_out(chosen, row, len(indices), self._T)


class PairRows:
    """Preference pairs [n, 2, T]: index 0 is the chosen answer, 1 the rejected."""

    dtypes = DTYPES

    def __init__(self, sequences: 'Sequences', T: int):
        self._sequences = sequences
        self._T = T
        sequences.inputs(T)  # warns of the cut ones

    def __len__(self) -> int:
        return len(self._sequences) // 2

    def read(
        self,
        indices: Int64[np.ndarray, ' n'],
        epochs: Int64[np.ndarray, ' n'] | None = None,
    ) -> Arrays:
        """Rows [n, 2, T]; both answers of a pair begin with the same prompt."""
        both = (2 * indices[:, None] + np.arange(2)).ravel()
        rows = np.arange(len(both))
        arrays = self._sequences.lay_out(both, rows, len(both), self._T)
        return {k: v.reshape(len(indices), 2, self._T) for k, v in arrays.items()}


class Sequences:
    """The separate token sequences of a split, with the mask of what is learned."""

    def __init__(
        self, tokens: Stream, mask: Stream, starts: Int64[np.ndarray, ' bounds']
    ):
        self._tokens = tokens
        self._mask = mask
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def inputs(self, T: int) -> Int64[np.ndarray, ' sequences']:
        """Inputs of each: its tokens less one, at most T; warns of the cut."""
        lengths = np.diff(self._starts) - 1
        if cut := int((lengths > T).sum()):
            print(
                f'warning: {cut:,} of {len(self):,} conversations are longer than a '
                f'row of {T} tokens (the longest: {lengths.max():,}) and are cut there',
                file=sys.stderr,
            )
        return np.minimum(lengths, T)

    def lay_out(
        self,
        chosen: Int64[np.ndarray, ' m'],
        row: Int64[np.ndarray, ' m'],
        n: int,
        T: int,
    ) -> Arrays:
        """Arrays [n, T] with sequence chosen[j] in row row[j]; `row` ascends."""
        lengths = np.minimum(self._starts[chosen + 1] - self._starts[chosen] - 1, T)
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
            self._mask.at(place + 1),
        )
        arrays = {}
        for (key, dtype), value in zip(DTYPES.items(), values, strict=True):
            flat = np.zeros(n * T, dtype)
            flat[cell] = value
            arrays[key] = flat.reshape(n, T)
        return arrays
