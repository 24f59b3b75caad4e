"""n-grams that repeat, found by sorting hashes and then compared as text.

A hash only proposes: what it calls equal is compared, what it calls different is
different. So the results are those of counting strings, at a fraction of the cost.
"""

from collections import Counter
from collections.abc import Sequence
import functools
import itertools

import numpy as np

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: it has an inverse modulo 2^64


class Grams:
    """The words of a text, joined by nothing: an n-gram is a stretch of the string.

    `apart`: two n-grams are equal where each of their words is; otherwise where the
    stretches are, and 'no where' equals 'now here'.
    """

    def __init__(self, codes: np.ndarray, lengths: np.ndarray):
        """codes: of the characters of the words (uint32); lengths: of the words."""
        self._codes = codes
        self._lengths = lengths
        self._ends = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=self._ends[1:])

    @functools.cached_property
    def _joined(self) -> str:
        return self._codes.tobytes().decode('utf-32-le', 'surrogatepass')

    @functools.cached_property
    def _bounds(self) -> list[int]:
        return self._ends.tolist()

    @functools.cached_property
    def _hashed(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums of character x base^place up to each bound of words; base^-bound."""
        size = len(self._codes)
        powers, inverses = _powers(size.bit_length())
        sums = np.zeros(size + 1, np.uint64)
        np.cumsum(self._codes * powers[1 : size + 1], out=sums[1:])
        return sums[self._ends], inverses[self._ends]

    @functools.cached_property
    def _words(self) -> list[str]:
        bounds = self._bounds
        return [self._joined[a:b] for a, b in itertools.pairwise(bounds)]

    def _same(self, places: list[int], n: int) -> bool:
        """Whether the n-grams there are of the same words."""
        words = self._words
        first = words[places[0] : places[0] + n]
        return all(words[place : place + n] == first for place in places)

    def _hashes(self, n: int, apart: bool) -> np.ndarray:
        sums, inverses = self._hashed
        if not apart:
            return (sums[n:] - sums[:-n]) * inverses[:-n]
        words = self._hashes(1, apart=False)
        count = len(words) - n + 1
        hashes = words[:count]
        for more in range(1, n):
            hashes = hashes * _BASE + words[more : more + count]
        return hashes

    def _sorted(self, n: int, apart: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places of the n-grams by hash, then ascending; where those of each hash begin
        in that order, and how many they are.
        """
        count = len(self._lengths) - n + 1
        # The place replaces the lowest bits of the hash: one sort brings both.
        low = np.uint64((1 << count.bit_length()) - 1)
        keys = self._hashes(n, apart) & ~low
        keys |= _places(count)
        keys.sort()
        new = np.ones(count + 1, bool)
        np.greater(keys[1:] ^ keys[:-1], low, out=new[1:-1])
        bounds = new.nonzero()[0]
        keys &= low
        return keys.view(np.int64), bounds[:-1], bounds[1:] - bounds[:-1]

    def _repeated(self, n: int, apart: bool) -> list[int]:
        """Places, ascending, whose n-gram may occur at another place."""
        if len(self._lengths) < n:
            return []
        places, _, counts = self._sorted(n, apart)
        if len(counts) == len(places):
            return []
        found = places[np.repeat(counts > 1, counts)]
        found.sort()
        return found.tolist()

    def counts(self, n: int) -> dict[tuple[str, ...], int]:
        """The n-grams that occur more than once, and how often, by first place."""
        words = self._words
        places = self._repeated(n, apart=True)
        found = Counter(tuple(words[place : place + n]) for place in places)
        return {gram: count for gram, count in found.items() if count > 1}

    def top(self, n: int) -> tuple[int, int]:
        """Characters of the words of the most frequent n-gram, the first of them, and
        how often it occurs; (0, 0) where there are fewer than n words.
        """
        if len(self._lengths) < n:
            return 0, 0
        places, starts, counts = self._sorted(n, apart=True)
        most = int(counts.max())
        starts = starts[counts == most]
        start = int(starts[places[starts].argmin()])
        equal = places[start : start + most].tolist()
        if not self._same(equal, n):  # two n-grams of one hash: all are counted
            found = self.counts(n)
            gram = max(found, key=lambda gram: found[gram], default=None)
            if gram is not None:
                return sum(map(len, gram)), found[gram]
            equal = [0]
        bounds = self._bounds
        return bounds[equal[0] + n] - bounds[equal[0]], len(equal)

    def again(self, n: int) -> int:
        """Characters in stretches of n words that stood before, read from left to
        right: after one that did, the next begins behind it.
        """
        seen: set[str] = set()
        bounds = self._bounds
        free = total = 0
        for place in self._repeated(n, apart=False):
            if place >= free:
                gram = self._joined[bounds[place] : bounds[place + n]]
                if gram in seen:
                    total += len(gram)
                    free = place + n
                else:
                    seen.add(gram)
        return total

    def covered(self, n: int) -> int:
        """Characters of the words that are part of an n-gram which occurs twice."""
        words, repeated = self._words, self.counts(n)
        steps = np.zeros(len(self._lengths) + 1, np.int64)
        for place in self._repeated(n, apart=True):
            if tuple(words[place : place + n]) in repeated:
                steps[place] += 1
                steps[place + n] -= 1
        return int(self._lengths[np.cumsum(steps)[:-1] > 0].sum())

    def sizes(self, n: int) -> int:
        """Characters of all n-grams together."""
        bounds = self._bounds
        return sum(bounds[n:]) - sum(bounds[: max(len(bounds) - n, 0)])


def of(words: Sequence[str]) -> Grams:
    """n-grams of any words."""
    data = ''.join(words).encode('utf-32-le', 'surrogatepass')
    lengths = np.array(list(map(len, words)), np.int64)
    return Grams(np.frombuffer(data, np.uint32), lengths)


@functools.lru_cache(maxsize=2)
def _powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The powers of the base, and of its inverse, from 0 to 2^bits."""

    def powers(base: int) -> np.ndarray:
        made = np.full((1 << bits) + 1, base, np.uint64)
        made[0] = 1
        return np.cumprod(made)

    return powers(int(_BASE)), powers(pow(int(_BASE), -1, 1 << 64))


@functools.lru_cache(maxsize=1)
def _numbers(bits: int) -> np.ndarray:
    return np.arange(1 << bits, dtype=np.uint64)


def _places(count: int) -> np.ndarray:
    return _numbers(count.bit_length())[:count]
