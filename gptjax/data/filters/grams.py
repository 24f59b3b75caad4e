"""n-grams of words that repeat, found by sorting hashes and then compared as text.

A hash only proposes: what it calls equal is compared, what it calls different is
different. So the results are those of counting, at a fraction of the cost.
"""

from collections import Counter
import functools

import numpy as np

_BASE = 0x9E3779B97F4A7C15  # odd: it has an inverse modulo 2^64
_WORD_BASE = np.uint64(0xC2B2AE3D27D4EB4F)
_PREFIX = 11  # characters by which stretches of five words or more are proposed
_SIZES = np.arange(5, 11)
_SHORT = 1 << 16  # characters of a page whose powers are kept


class Grams:
    """The words of a text, joined by nothing: an n-gram is a stretch of the string."""

    def __init__(self, codes: np.ndarray, lengths: np.ndarray):
        """codes: of the characters of the words (uint32); lengths: of the words."""
        self._codes = codes
        self._ends = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=self._ends[1:])

    @functools.cached_property
    def _text(self) -> str:
        return self._codes.tobytes().decode('utf-32-le', 'surrogatepass')

    @functools.cached_property
    def _bounds(self) -> list[int]:
        return self._ends.tolist()

    @functools.cached_property
    def _sums(self) -> np.ndarray:
        """Of character x base^(place + 1), before each place."""
        size = len(self._codes)
        sums = np.zeros(size + 1, np.uint64)
        np.cumsum(self._codes * _powers(size)[0][1 : size + 1], out=sums[1:])
        return sums

    def _hashes(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Of the stretches of characters between them."""
        inverses = _powers(len(self._codes))[1]
        return (self._sums[ends] - self._sums[starts]) * inverses[starts]

    def top(self, n: int) -> tuple[int, int]:
        """Characters of the words of the most frequent n-gram (2 to 4), the first of
        them, and how often it occurs; (0, 0) where there are fewer than n words.
        """
        return self._tops[n]

    @functools.cached_property
    def _tops(self) -> dict[int, tuple[int, int]]:
        words = hashes = self._hashes(self._ends[:-1], self._ends[1:])
        found = {}
        for n in (2, 3, 4):
            hashes = hashes[:-1] * _WORD_BASE + words[n - 1 :]
            found[n] = self._top(n, hashes)
        return found

    def _top(self, n: int, hashes: np.ndarray) -> tuple[int, int]:
        if not len(hashes):
            return 0, 0
        places, same = _sorted(hashes)
        new = np.ones(len(places) + 1, bool)
        np.logical_not(same, out=new[1:-1])
        bounds = new.nonzero()[0]
        counts = bounds[1:] - bounds[:-1]
        most = int(counts.max())
        if most == 1:
            return self._bounds[n], 1
        starts = bounds[:-1][counts == most]
        start = starts[places[starts].argmin()]
        equal = places[start : start + most].tolist()
        grams = {self._gram(place, n) for place in equal}
        if len(grams) > 1:  # two n-grams of one hash: all are counted
            every = Counter(self._gram(place, n) for place in range(len(hashes)))
            gram = max(every, key=every.__getitem__)
            return sum(map(len, gram)), every[gram]
        return sum(map(len, grams.pop())), most

    def _gram(self, place: int, n: int) -> tuple[str, ...]:
        bounds, text = self._bounds, self._text
        return tuple([text[bounds[i] : bounds[i + 1]] for i in range(place, place + n)])

    def again(self, n: int) -> int:
        """Characters in stretches of n words, 5 to 10, that stood before.

        They are read from left to right: after one that did, the next begins behind it.
        As stretches 'no where' equals 'now here'.
        """
        seen: set[str] = set()
        free = total = 0
        for place in self._stretches[n]:
            if free <= place <= len(self._bounds) - 1 - n:
                stretch = self._text[self._bounds[place] : self._bounds[place + n]]
                if stretch in seen:
                    total += len(stretch)
                    free = place + n
                else:
                    seen.add(stretch)
        return total

    @functools.cached_property
    def _stretches(self) -> dict[int, list[int]]:
        """By n, places, ascending, where a stretch of n words may stand twice.

        All n at once: on a short page calls cost more than sorting. Of two equal
        stretches of five words or more both are shorter than the prefix, or they begin
        with the same; only these are looked at.
        """
        starts = self._ends[:-5]
        prefixes = np.minimum(starts + _PREFIX, len(self._codes))
        near = self._ends[5:] - starts < _PREFIX
        near |= _repeated(self._hashes(starts, prefixes))
        places = near.nonzero()[0]
        behind = np.minimum(places + _SIZES[:, None], len(self._ends) - 1)
        again = _repeated(self._hashes(starts[places], self._ends[behind]))
        found: dict[int, list[int]] = {n: [] for n in _SIZES.tolist()}
        rows, columns = again.nonzero()
        for row, place in zip(rows.tolist(), places[columns].tolist(), strict=True):
            found[_SIZES.item(row)].append(place)
        return found


def _sorted(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places by hash, then ascending, along the last axis, and which of them have the
    same hash as the next.

    Places stand in the lowest bits while hashes are sorted: one sort brings both.
    """
    count = hashes.shape[-1]
    low = np.uint64((1 << count.bit_length()) - 1)
    keys = hashes & ~low
    keys |= np.arange(count, dtype=np.uint64)
    keys.sort()
    same = (keys[..., 1:] ^ keys[..., :-1]) <= low
    keys &= low
    return keys.view(np.int64), same


def _repeated(hashes: np.ndarray) -> np.ndarray:
    """Which hashes stand twice in their row."""
    places, same = _sorted(hashes)
    found = np.zeros(hashes.shape, bool)
    *rows, columns = same.nonzero()
    for column in (columns, columns + 1):
        found[*rows, places[*rows, column]] = True
    return found


def _powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the base and its inverse, at least from 0 to `size`."""
    return _powers_to(_SHORT if size <= _SHORT else 1 << size.bit_length())


@functools.lru_cache(maxsize=2)
def _powers_to(last: int) -> tuple[np.ndarray, np.ndarray]:
    def powers(base: int) -> np.ndarray:
        made = np.full(last + 1, base, np.uint64)
        made[0] = 1
        return np.cumprod(made)

    return powers(_BASE), powers(pow(_BASE, -1, 1 << 64))
