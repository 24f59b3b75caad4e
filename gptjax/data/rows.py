"""Rows of T tokens out of shards: `read` is a pure function of row numbers.

A batch of rows is a dict of arrays of shape [n, T] ([n, 2, T] for preference pairs; for
labelled texts and translations see `example_rows`):
tokens, targets (the next token), segments (1, 2, ... within a row, 0 is padding) and
positions (from 0 in each segment), all int32, and weights (float32; 0 at padding and
where the target is not to be learned).
"""

import bisect
from collections.abc import Mapping, Sequence
import functools
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
        self._starts = self.bounds[:-1].tolist()
        # Plain arrays: a slice of a memmap takes 2 us, more than its copy.
        self._maps = [np.asarray(np.memmap(file, dtype, 'r')) for file in files]

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

    def window(self, start: int, width: int) -> np.ndarray:
        """Consecutive elements, a view if one file holds them; the end joins the start.

        0 <= start < len(self).
        """
        shard = bisect.bisect_right(self._starts, start) - 1
        begin = start - self._starts[shard]
        found = self._maps[shard][begin : begin + width]
        whole = len(found) == width
        return found if whole else self.at((start + np.arange(width)) % len(self))

    def windows(self, starts: Int64[np.ndarray, ' n'], width: int) -> np.ndarray:
        """[n, width]: the window from each start."""
        out = np.empty((len(starts), width), self.dtype)
        for row, start in enumerate(starts.tolist()):
            out[row] = self.window(start, width)
        return out


def margins(shard: Path, documents: int) -> Float32[np.ndarray, ' documents']:
    """The margin of each pair of a shard; 0 of one without any."""
    path = shard.with_suffix('.margins')
    return np.fromfile(path, '<f4') if path.exists() else np.zeros(documents, '<f4')


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
        n, T = len(indices), self._T
        ids = self._tokens.windows(indices * T, T + 1)
        begins = ids[:, :-1] == self._endoftext
        begins[:, 0] = True
        firsts = np.flatnonzero(begins)
        lengths = np.diff(firsts, append=n * T)
        above = np.flatnonzero(firsts % T == 0)[firsts // T]
        numbers = np.arange(1, len(firsts) + 1) - above
        # One block for all: what a batch gives back, the next one takes. Of a block for
        # each, the system takes them back, and clearing pages anew is half of the time.
        block = np.empty((5, n, T), np.int32)
        block[0], block[1] = ids[:, :-1], ids[:, 1:]
        block[2] = np.repeat(numbers.astype(np.int32), lengths).reshape(n, T)
        block[3] = np.arange(n * T, dtype=np.int32).reshape(n, T)
        block[3] -= np.repeat(firsts.astype(np.int32), lengths).reshape(n, T)
        tokens, targets, segments, positions, _ = block
        weights = block[4].view(np.float32)
        weights[:] = 1
        for row in np.flatnonzero(indices == len(self) - 1):
            end = len(self._tokens) - indices[row] * T
            for array in (tokens, targets, segments, positions, weights):
                array[row, end:] = 0
        arrays = (tokens, targets, segments, positions, weights)
        return dict(zip(DTYPES, arrays, strict=True))

    def rows_of(self, start: int, end: int) -> Int64[np.ndarray, ' rows']:
        """The rows that hold a token of the places start..end-1 of the stream."""
        # A token is an input of one row, and a target of it or of the row before.
        first, last = (start - 1) // self._T, (end - 1) // self._T
        return np.unique(np.arange(first, last + 1) % len(self))


class BestFitRows:
    """Documents, whole where they fit into a row, packed best-fit-decreasing.

    One longer than T is cut every T tokens, and what is left of it is packed like the
    others (Ding et al., "Fewer truncations improve language modeling", 2024). The
    targets are those of `TextRows`, each exactly once: only rows and segments differ.
    A piece is a segment of its own, with positions from 0; rows are padded at the end.
    """

    dtypes = DTYPES

    def __init__(self, tokens: Stream, starts: Int64[np.ndarray, ' bounds'], T: int):
        """starts: where each document begins in the stream, and the end of it."""
        pieces = -(-np.diff(starts) // T)
        rank = packing.ranges(np.zeros_like(pieces), pieces)
        begins = np.repeat(starts[:-1], pieces) + T * rank
        lengths = np.minimum(np.repeat(starts[1:], pieces) - begins, T)
        order, self._bounds = packing.best_fit_decreasing(lengths, T)
        self._starts, self._lengths = begins[order], lengths[order]
        self._tokens = tokens
        self._T = T

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def read(
        self,
        indices: Int64[np.ndarray, ' n'],
        epochs: Int64[np.ndarray, ' n'] | None = None,
    ) -> Arrays:
        """Rows [n, T] of documents side by side, the longest first."""
        n, T = len(indices), self._T
        block, along = np.zeros((5, n, T), np.int32), np.arange(T, dtype=np.int32)
        tokens, targets, segments, positions, _ = block
        weights = block[4].view(np.float32)
        for row, index in enumerate(indices.tolist()):
            pieces = slice(self._bounds[index], self._bounds[index + 1])
            starts, lengths = self._starts[pieces], self._lengths[pieces]
            begin = 0
            for number, (start, length) in enumerate(
                zip(starts.tolist(), lengths.tolist(), strict=True), 1
            ):
                end = begin + length
                ids = self._tokens.window(start, length + 1)
                tokens[row, begin:end], targets[row, begin:end] = ids[:-1], ids[1:]
                segments[row, begin:end] = number
                positions[row, begin:end] = along[:length]
                begin = end
            weights[row, :begin] = 1
        arrays = (tokens, targets, segments, positions, weights)
        return dict(zip(DTYPES, arrays, strict=True))

    def rows_of(self, start: int, end: int) -> Int64[np.ndarray, ' rows']:
        """The rows that hold a token of the places start..end-1 of the stream."""
        # The token after a piece is its last target; after the stream, it is the first.
        order, starts = self._in_stream
        first = np.searchsorted(starts, start) - 1
        pieces = order[max(first, 0) : np.searchsorted(starts, end)]
        pieces = pieces if start else np.append(pieces, order[-1])
        return np.unique(np.searchsorted(self._bounds, pieces, side='right') - 1)

    @functools.cached_property
    def _in_stream(self) -> tuple[np.ndarray, np.ndarray]:
        """The pieces in the order of the stream, and where each begins."""
        order = np.argsort(self._starts)
        return order, self._starts[order]


def over(
    starts: Int64[np.ndarray, ' bounds'], start: int, end: int
) -> Int64[np.ndarray, ' found']:
    """Which sequences hold any of the places start..end-1."""
    first = np.searchsorted(starts, start, side='right') - 1
    return np.arange(first, np.searchsorted(starts, end), dtype=np.int64)


def warn_of_cut(
    lengths: Int64[np.ndarray, ' n'],
    T: int,
    what: str,
    becomes: str = 'are cut there',
) -> None:
    """Says on standard error how many of `what` are longer than T tokens."""
    if cut := int((lengths > T).sum()):
        print(
            f'warning: {cut:,} of {len(lengths):,} {what} are longer than a row of '
            f'{T} tokens (the longest: {lengths.max():,}) and {becomes}',
            file=sys.stderr,
        )
