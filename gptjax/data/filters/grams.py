"""n-grams that repeat, found by sorting hashes and then compared as text.

A hash only proposes: what it calls equal is compared, what it calls different is
different. So the results are those of counting strings, at a fraction of the cost.
"""

from collections import Counter
from collections.abc import Sequence
import functools

import numpy as np

_BASE = 0x9E3779B97F4A7C15  # odd: it has an inverse modulo 2^64
_WORD_BASE = np.uint64(0xC2B2AE3D27D4EB4F)
_PREFIX = 11  # characters by which stretches of five words or more are proposed
_Groups = tuple[np.ndarray, np.ndarray, np.ndarray]


class Grams:
    """The words of a text, joined by nothing: an n-gram is a stretch of the string."""

    def __init__(self, codes: np.ndarray, lengths: np.ndarray):
        """codes: of the characters of the words (uint32); lengths: of the words."""
        self._codes = codes
        self._lengths = lengths
        self._ends = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=self._ends[1:])
        self._known: dict[int, _Groups] = {}

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
        powers = _powers(size.bit_length())[0][1 : size + 1]
        np.cumsum(self._codes * powers, out=sums[1:])
        return sums

    def _hashes(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Of the stretches of characters between them."""
        inverses = _powers(len(self._codes).bit_length())[1]
        return (self._sums[ends] - self._sums[starts]) * inverses[starts]

    @functools.cached_property
    def _words(self) -> np.ndarray:
        return self._hashes(self._ends[:-1], self._ends[1:])

    def _groups(self, n: int) -> _Groups:
        """Places of n-grams by hash, then ascending; where those of each hash begin in
        that order, and how many they are. Left out are some that do not repeat.
        """
        if n not in self._known:
            places = np.arange(max(len(self._lengths) - n + 1, 0))
            if n > 2:  # it repeats only if what it begins and ends with does
                shorter = np.zeros(len(places) + 1, bool)
                shorter[_repeated(self._groups(n - 1))] = True
                places = (shorter[:-1] & shorter[1:]).nonzero()[0]
            hashes = self._words[places]
            for more in range(1, n):
                hashes = hashes * _WORD_BASE + self._words[places + more]
            self._known[n] = _sorted(hashes, places)
        return self._known[n]

    def counts(self, n: int) -> dict[tuple[str, ...], int]:
        """The n-grams that occur more than once, and how often, by first place."""
        places = np.sort(_repeated(self._groups(n))).tolist()
        found = Counter(self._gram(place, n) for place in places)
        return {gram: count for gram, count in found.items() if count > 1}

    def _gram(self, place: int, n: int) -> tuple[str, ...]:
        bounds, text = self._bounds, self._text
        return tuple([text[bounds[i] : bounds[i + 1]] for i in range(place, place + n)])

    def top(self, n: int) -> tuple[int, int]:
        """Characters of the words of the most frequent n-gram, the first of them, and
        how often it occurs; (0, 0) where there are fewer than n words.
        """
        if len(self._lengths) < n:
            return 0, 0
        places, starts, counts = self._groups(n)
        most = int(counts.max(initial=1))
        if most == 1:
            return int(self._ends[n]), 1
        starts = starts[counts == most]
        start = starts[places[starts].argmin()]
        equal = places[start : start + most]
        if not self._same(equal, n):  # two n-grams of one hash: all are counted
            found = self.counts(n)
            gram = max(found, key=lambda gram: found[gram], default=self._gram(0, n))
            return sum(map(len, gram)), found.get(gram, 1)
        return int(self._ends[equal[0] + n] - self._ends[equal[0]]), most

    def _same(self, places: np.ndarray, n: int) -> bool:
        """Whether the n-grams there are of the same words."""
        lengths = self._lengths[places[:, None] + np.arange(n)]
        if (lengths != lengths[0]).any():
            return False
        inside = np.arange(lengths[0].sum())
        characters = self._codes[self._ends[places][:, None] + inside]
        return not (characters != characters[0]).any()

    def again(self, n: int) -> int:
        """Characters in stretches of n words, 5 to 10, that stood before.

        They are read from left to right: after one that did, the next begins behind it.
        As stretches 'no where' equals 'now here'.
        """
        seen: set[str] = set()
        free = total = 0
        for place in self._stretches[n]:
            if free <= place <= len(self._lengths) - n:
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
        count = max(len(self._lengths) - 4, 0)
        starts = self._ends[:count]
        ends = np.minimum(starts + _PREFIX, len(self._codes))
        near = self._ends[5:] - starts < _PREFIX
        near[_repeated(_sorted(self._hashes(starts, ends), np.arange(count)))] = True
        places = near.nonzero()[0]
        sizes = np.arange(5, 11)
        behind = np.minimum(places + sizes[:, None], len(self._lengths))
        keys, low = _keys(self._hashes(starts[places], self._ends[behind]))
        again = (keys[:, 1:] ^ keys[:, :-1]) <= low
        found = {}
        for row, n in enumerate(sizes.tolist()):
            first = again[row].nonzero()[0]
            both = np.concatenate((first, first + 1))
            chosen = np.unique(keys[row, both] & low) if len(first) else first
            found[n] = places[chosen.astype(np.int64)].tolist()
        return found

    def covered(self, n: int) -> int:
        """Characters of the words that are part of an n-gram which occurs twice."""
        repeated = self.counts(n)
        steps = np.zeros(len(self._lengths) + 1, np.int64)
        for place in _repeated(self._groups(n)).tolist():
            if self._gram(place, n) in repeated:
                steps[place] += 1
                steps[place + n] -= 1
        return int(self._lengths[np.cumsum(steps)[:-1] > 0].sum())

    def sizes(self, n: int) -> int:
        """Characters of all n-grams together."""
        return int(
            self._ends[n:].sum() - self._ends[: max(len(self._ends) - n, 0)].sum()
        )


def of(words: Sequence[str]) -> Grams:
    """n-grams of any words."""
    data = ''.join(words).encode('utf-32-le', 'surrogatepass')
    lengths = np.array(list(map(len, words)), np.int64)
    return Grams(np.frombuffer(data, np.uint32), lengths)


def _keys(hashes: np.ndarray) -> tuple[np.ndarray, np.uint64]:
    """The hashes, sorted along the last axis, with places in their lowest bits, and a
    mask of these: one sort brings both.
    """
    count = hashes.shape[-1]
    low = np.uint64((1 << count.bit_length()) - 1)
    keys = hashes & ~low
    keys |= np.arange(count, dtype=np.uint64)
    keys.sort()
    return keys, low


def _sorted(hashes: np.ndarray, places: np.ndarray) -> _Groups:
    """The places by hash, where each hash begins, and how many are of it."""
    keys, low = _keys(hashes)
    new = np.ones(len(keys) + 1, bool)
    np.greater(keys[1:] ^ keys[:-1], low, out=new[1:-1])
    bounds = new.nonzero()[0]
    keys &= low
    return places[keys.view(np.int64)], bounds[:-1], bounds[1:] - bounds[:-1]


def _repeated(groups: _Groups) -> np.ndarray:
    places, _, counts = groups
    return places[np.repeat(counts > 1, counts)]


@functools.lru_cache(maxsize=2)
def _powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The powers of the base, and of its inverse, from 0 to 2^bits."""

    def powers(base: int) -> np.ndarray:
        made = np.full((1 << bits) + 1, base, np.uint64)
        made[0] = 1
        return np.cumprod(made)

    return powers(_BASE), powers(pow(_BASE, -1, 1 << 64))
