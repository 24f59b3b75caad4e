"""Words of a text as 64-bit hashes, in NumPy: equal on every machine."""

import numpy as np

_PRIME = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_PRIME, -1, 2**64)
_WORD = np.zeros(256, bool)
_WORD[[*range(0x30, 0x3A), *range(0x61, 0x7B), *range(0x80, 0x100)]] = True
_PIECE = 2**20


def words(text: str) -> np.ndarray:
    """The hashes (uint64) of the words of `text`, in order, whatever their case.

    A word is a run of letters and digits, and of any characters outside ASCII: in
    Chinese, Japanese and Thai, of all that stands between spaces.
    """
    found = [_words(text[i : i + _PIECE]) for i in range(0, len(text), _PIECE)]
    return np.concatenate(found) if found else np.empty(0, np.uint64)


def _words(text: str) -> np.ndarray:
    """A polynomial modulo 2**64 over each run of bytes, by differences of sums."""
    data = np.frombuffer(text.lower().encode('utf-8', 'replace'), np.uint8)
    edges = np.flatnonzero(np.diff(_WORD[data], prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    sums = np.zeros(len(data) + 1, np.uint64)
    np.cumsum((data + np.uint64(1)) * _powers(_PRIME, len(data)), out=sums[1:])
    return mix((sums[ends] - sums[starts]) * _powers(_INVERSE, len(data))[starts])


def follow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Hashes of pairs: of n-grams, from those of their parts."""
    return mix(first * np.uint64(3) + second)


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of MurmurHash3 (fmix64): every bit depends on every other."""
    values = (values ^ values >> np.uint64(33)) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ values >> np.uint64(33)) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ values >> np.uint64(33)


def _powers(base: int, count: int) -> np.ndarray:
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)
