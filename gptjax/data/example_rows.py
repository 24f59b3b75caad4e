"""Rows that are one example each: labelled texts, and sources with their targets."""

from jaxtyping import Int32, Int64
import numpy as np

from gptjax.data import packing
from gptjax.data import rows as rows_lib

LABELLED: rows_lib.Dtypes = {
    'tokens': np.int32,
    'positions': np.int32,
    'segments': np.int32,
    'types': np.int32,
    'labels': np.int32,
    'weights': np.float32,
}
TRANSLATION: rows_lib.Dtypes = {
    'source': np.int32,
    'source_positions': np.int32,
    'source_segments': np.int32,
    **rows_lib.DTYPES,
}


class LabelledRows:
    """Texts, alone or in pairs, with the id of their class.

    tokens, positions, segments and types (1 in the second text) are int32 [n, T],
    labels int32 [n] and weights float32 [n]. Of an example that is too long for a row,
    the ends of its texts are left out, of the longer one first; the control tokens
    around them stay.
    """

    dtypes = LABELLED

    def __init__(
        self,
        tokens: rows_lib.Stream,
        types: rows_lib.Stream,
        starts: Int64[np.ndarray, ' bounds'],
        labels: Int32[np.ndarray, ' examples'],
        T: int,
    ):
        self._tokens = tokens
        self._types = types
        self._starts = starts
        self._labels = labels
        self._T = T
        rows_lib.warn_of_cut(np.diff(starts), T, 'examples')

    def __len__(self) -> int:
        return len(self._labels)

    def read(
        self,
        indices: Int64[np.ndarray, ' n'],
        epochs: Int64[np.ndarray, ' n'] | None = None,
    ) -> rows_lib.Arrays:
        """Rows [n, T] of one example each, padded at the end."""
        starts = self._starts[indices]
        lengths = self._starts[indices + 1] - starts
        kept = [
            start + self._kept(start, length)
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
        ]
        lengths = np.array([len(one) for one in kept], np.int64)
        places = np.concatenate([np.zeros(0, np.int64), *kept])
        n, T = len(indices), self._T
        return {
            'tokens': _lay_out(self._tokens.at(places), lengths, T),
            'positions': _positions(lengths, T),
            'segments': _lay_out(np.ones_like(places), lengths, T),
            'types': _lay_out(self._types.at(places), lengths, T),
            'labels': self._labels[indices].astype(np.int32),
            'weights': np.ones(n, np.float32),
        }

    def rows_of(self, start: int, end: int) -> Int64[np.ndarray, ' rows']:
        """The rows that hold a token of the places start..end-1 of the split."""
        rows = rows_lib.over(self._starts, start, end).tolist()
        return np.array([r for r in rows if self._holds(r, start, end)], np.int64)

    def _holds(self, row: int, start: int, end: int) -> bool:
        first, after = self._starts[row : row + 2].tolist()
        kept = first + self._kept(first, after - first)
        return bool(((start <= kept) & (kept < end)).any())

    def _kept(self, start: int, length: int) -> Int64[np.ndarray, ' kept']:
        """Which tokens of an example have a place: all of them if they fit."""
        places = np.arange(length, dtype=np.int64)
        if length <= self._T:
            return places
        first = int((self._types.at(start + places) == 0).sum())
        # Tokens between control tokens: after the first one, before the end of each.
        sizes = [first - 2, length - first - 1][: 1 + (first < length)]
        room = self._T - (length - sum(sizes))
        smaller = min(sizes[-1], room // 2) if len(sizes) > 1 else 0
        keep_first = min(sizes[0], max(room - smaller, 0))
        keep_second = max(room - keep_first, 0)
        cut = np.zeros(length, bool)
        cut[1 + keep_first : first - 1] = True
        if len(sizes) > 1:
            cut[first + keep_second : length - 1] = True
        return places[~cut][: self._T]


class TranslationRows:
    """A source for the encoder, and a target for the decoder that begins after it.

    source, source_positions and source_segments are int32 [n, T]; so are tokens (what
    the decoder reads: a start token, then the target), targets (the next ones, to
    `<|end|>`), positions and segments; weights are float32 [n, T]. Both are cut to T.
    """

    dtypes = TRANSLATION

    def __init__(
        self, tokens: rows_lib.Stream, starts: Int64[np.ndarray, ' bounds'], T: int
    ):
        self._tokens = tokens
        self._starts = starts
        self._T = T
        lengths = np.diff(starts).reshape(-1, 2) - np.array([0, 1])
        rows_lib.warn_of_cut(lengths.max(axis=1, initial=0), T, 'translations')

    def __len__(self) -> int:
        return (len(self._starts) - 1) // 2

    def read(
        self,
        indices: Int64[np.ndarray, ' n'],
        epochs: Int64[np.ndarray, ' n'] | None = None,
    ) -> rows_lib.Arrays:
        """Rows [n, T] of one source and one target each, padded at the end."""
        T = self._T
        begin, middle, end = (self._starts[2 * indices + i] for i in range(3))
        source = np.minimum(middle - begin, T)
        # The last one of a source is its <|end|>, also of one that is cut.
        last = np.cumsum(source) - 1
        places = packing.ranges(begin, source)
        places[last] = middle - 1
        target = np.minimum(end - middle - 1, T)
        read = packing.ranges(middle, target)
        ones_source, ones_target = np.ones_like(places), np.ones_like(read)
        arrays = {
            'source': _lay_out(self._tokens.at(places), source, T),
            'source_positions': _positions(source, T),
            'source_segments': _lay_out(ones_source, source, T),
            'tokens': _lay_out(self._tokens.at(read), target, T),
            'targets': _lay_out(self._tokens.at(read + 1), target, T),
            'segments': _lay_out(ones_target, target, T),
            'positions': _positions(target, T),
        }
        return arrays | {'weights': arrays['segments'].astype(np.float32)}

    def rows_of(self, start: int, end: int) -> Int64[np.ndarray, ' rows']:
        """The rows that hold a token of the places start..end-1 of the split."""
        rows = np.unique(rows_lib.over(self._starts, start, end) // 2)
        begin, middle, after = (self._starts[2 * rows + i] for i in range(3))
        # Of what is cut, the source keeps its <|end|>.
        source = np.minimum(middle - begin, self._T) - 1
        in_source = (start < begin + source) & (begin < end)
        in_source |= (start < middle) & (middle <= end)
        target = np.minimum(after - middle, self._T + 1)
        return rows[in_source | ((start < middle + target) & (middle < end))]


def _lay_out(
    values: np.ndarray, lengths: Int64[np.ndarray, ' n'], T: int
) -> Int32[np.ndarray, 'n T']:
    """`values`, the rows one after another, as rows padded with 0."""
    flat = np.zeros(len(lengths) * T, np.int32)
    flat[packing.ranges(np.arange(len(lengths)) * T, lengths)] = values
    return flat.reshape(len(lengths), T)


def _positions(lengths: Int64[np.ndarray, ' n'], T: int) -> Int32[np.ndarray, 'n T']:
    return _lay_out(packing.ranges(np.zeros_like(lengths), lengths), lengths, T)
