"""Rows of single answers that are good or bad, for KTO (Ethayarajh et al., 2024)."""

from jaxtyping import Bool, Int64
import numpy as np

from gptjax.data import rows as rows_lib
from gptjax.data import turn_rows

FEEDBACK: rows_lib.Dtypes = {**rows_lib.DTYPES, 'labels': np.int32}


class FeedbackRows:
    """An answer to its prompt, and another example's answer to the same prompt.

    Arrays are [n, 2, T], the mismatched answer second, and `labels`, int32 [n], 1 where
    the own answer is good. The other example is half a split away, for neighbours often
    share their prompt. counts: of answers, of those `longer` than a row, and of those
    that are `unlearned`, whose own weights are 0.
    """

    dtypes = FEEDBACK

    def __init__(
        self,
        tokens: rows_lib.Stream,
        mask: rows_lib.Stream,
        starts: Int64[np.ndarray, ' bounds'],
        good: Bool[np.ndarray, ' answers'] | None,
        T: int,
        longer: str,
    ):
        """good: None of pairs, whose chosen answers are good and come first.

        longer: as in `turn_rows`.
        """
        sequences = turn_rows.Sequences(tokens, mask, starts, longer)
        unlearned = sequences.unlearned(T)
        self._apart = len(sequences) // 2
        if good is None:
            unlearned |= np.repeat(sequences.equal(T), 2)
            good = np.arange(len(sequences)) % 2 == 0
            self._apart -= self._apart % 2  # another pair, not its other side
        self.counts = turn_rows.counted('answers', sequences, T, unlearned)
        self._kept = ~unlearned
        self._tokens = tokens
        self._mask = mask
        self._starts = starts
        self._good = good
        self._T = T
        self._drop = longer == 'drop'

    def __len__(self) -> int:
        return len(self._good)

    def read(
        self,
        indices: Int64[np.ndarray, ' n'],
        epochs: Int64[np.ndarray, ' n'] | None = None,
    ) -> rows_lib.Arrays:
        """Rows [n, 2, T] of one answer each, padded at the end."""
        shape = (len(indices), 2, self._T)
        made = {name: np.zeros(shape, kind) for name, kind in rows_lib.DTYPES.items()}
        for row, index in enumerate(indices.tolist()):
            for side, other in enumerate((index, self._other(index))):
                places, known = self._places(index, other)
                length = max(len(places) - 1, 0)
                ids, weights = self._tokens.at(places), self._mask.at(places)
                weights[:known] = 0
                at = (row, side, slice(length))
                made['tokens'][at], made['targets'][at] = ids[:-1], ids[1:]
                made['segments'][at], made['weights'][at] = 1, weights[1:]
                made['positions'][at] = np.arange(length)
        made['weights'][:, 0] *= self._kept[indices, None]
        return {**made, 'labels': self._good[indices].astype(np.int32)}

    def rows_of(self, start: int, end: int) -> Int64[np.ndarray, ' rows']:
        """The rows that hold a token of the places start..end-1 of the split."""
        own = rows_lib.over(self._starts, start, end)
        rows = np.unique(np.concatenate([own, (own - self._apart) % len(self)]))
        held = [
            row
            for row in rows.tolist()
            for other in (row, self._other(row))
            if ((start <= (at := self._places(row, other)[0])) & (at < end)).any()
        ]
        return np.unique(np.array(held, np.int64))

    def _other(self, index: int) -> int:
        return (index + self._apart) % len(self)

    def _places(self, index: int, other: int) -> tuple[np.ndarray, int]:
        """The tokens of a prompt and of an answer, at most T + 1; and of the prompt."""
        first, last = self._answer(index)[0], self._answer(other)
        prompt = np.arange(self._starts[index], first)
        places = np.concatenate([prompt, np.arange(*last)])
        dropped = self._drop and len(places) > self._T + 1
        return places[: 0 if dropped else self._T + 1], len(prompt)

    def _answer(self, index: int) -> tuple[int, int]:
        """Where an answer begins, and its end."""
        begin, end = self._starts[index : index + 2].tolist()
        learned = self._mask.at(np.arange(begin, end)) > 0
        return begin + int(np.argmax(learned)), end
