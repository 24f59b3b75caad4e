"""64-bit hashes of many stretches of one text at once, in NumPy.

The stretch x_0 ... x_n has the hash sum (x_i + 1) B^i mod 2^64 with an odd base B: a
difference of two prefix sums, times the inverse power of B for its start (Karp and
Rabin, 1987). The bases are fixed: equal bytes have equal hashes in every process. The
upper bits depend on all of the bytes, the lower ones on fewer: see `mixed`.
"""

import functools
import re
from typing import NamedTuple

from jaxtyping import Bool, Int64, UInt8, UInt64
import numpy as np

LONGEST = 1 << 15  # bytes of a stretch that count; what is longer is no text
_BLOCK = 1 << 15  # bytes of one prefix sum: 256 KiB, so that it stays in the cache
# Fractions of the square roots of 2, 3 and 5, made 5 mod 8: of the longest period.
_BASES = (0x6A09E667F3BCC90D, 0xBB67AE8584CAA73D, 0x3C6EF372FE94F82D)
_FACTOR = np.uint64(_BASES[2])  # joins hashes to one of their sequence
_SHIFT = np.uint64(33)
_MIX = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_SPACE, _WORD, _MARK = 0, 1, 2
# Typography: of Latin, of all scripts, of CJK, and in full width.
_MARKS = re.compile(
    '[\u00a0-\u00bf\u2000-\u207f\u3000-\u303f\uff01-\uff0f\uff1a-\uff20]'
)
# First byte of a character and limits of its second: U+0E00 to U+0EFF, U+1000 to U+107F
# and U+1780 to U+17FF.
_SPACELESS = ((0xE0, 0xB8, 0xBB), (0xE1, 0x80, 0x81), (0xE1, 0x9E, 0x9F))


@functools.cache
def _powers(family: int) -> tuple[UInt64[np.ndarray, 'n'], UInt64[np.ndarray, 'n']]:
    """Those of the base, and those of its inverse."""
    base = _BASES[family]
    forth, back = (
        np.cumprod(np.array([1] + [x] * (_BLOCK + LONGEST), np.uint64))
        for x in (base, pow(base, -1, 1 << 64))
    )
    return forth, back


def stretches(
    raw: UInt8[np.ndarray, 'bytes'],
    starts_K: Int64[np.ndarray, 'K'],
    ends_K: Int64[np.ndarray, 'K'],
    family: int = 0,
) -> UInt64[np.ndarray, 'K']:
    """The hash of `raw[start:end]` for each pair, by their first LONGEST bytes.

    Starts and ends ascend. Families 0 and 1 are independent: both are 128 bits.
    """
    powers, inverses = _powers(family)
    hashes_K = np.empty(len(starts_K), np.uint64)
    first = 0
    while first < len(starts_K):
        base = int(starts_K[first])
        last = int(np.searchsorted(starts_K, base + _BLOCK))
        starts = starts_K[first:last] - base
        ends = np.minimum(ends_K[first:last] - base, starts + LONGEST)
        size = int(ends[-1])
        terms = raw[base : base + size].astype(np.uint64)
        terms += np.uint64(1)
        terms *= powers[:size]
        sums = np.zeros(size + 1, np.uint64)
        np.cumsum(terms, out=sums[1:])
        block = hashes_K[first:last]
        np.subtract(sums[ends], sums[starts], out=block)
        block *= inverses[starts]
        first = last
    return hashes_K


def mixed(x: UInt64[np.ndarray, '...']) -> UInt64[np.ndarray, '...']:
    """murmur3's finaliser, a bijection, in place: every bit depends on all."""
    for factor in _MIX:
        x ^= x >> _SHIFT
        x *= factor
    x ^= x >> _SHIFT
    return x


class Tokens(NamedTuple):
    """Where the tokens of a text are, in its UTF-8 bytes; white space is in none."""

    raw: UInt8[np.ndarray, 'bytes']
    starts: Int64[np.ndarray, 'K']
    ends: Int64[np.ndarray, 'K']


def _table(marks: int) -> bytes:
    kinds = bytearray([_WORD]) * 256
    for byte in range(128):
        if not chr(byte).isalnum():
            kinds[byte] = marks if chr(byte).isprintable() and byte != 32 else _SPACE
    return bytes(kinds)


_PIECES, _WORDS = _table(_MARK), _table(_SPACE)


def pieces(text: str) -> Tokens:
    """Runs of letters and digits, runs of ASCII marks, and single characters of CJK.

    A character from U+3000 on begins a token of its own: its scripts write no spaces.
    """
    raw = text.encode('utf-8', 'surrogatepass')
    data = np.frombuffer(raw, np.uint8)
    kinds = np.frombuffer(raw.translate(_PIECES), np.uint8)
    return _tokens(data, kinds, data >= 0xE3)


def words(text: str) -> Tokens:
    """As `pieces`, in lower case and without marks, those of typography included.

    What is printed with other quotes, dashes or line breaks has the same words. Thai,
    Lao, Burmese and Khmer write no spaces either: each character is a word.
    """
    plain, text = text.isascii(), text.lower()
    raw = (text if plain else _MARKS.sub(' ', text)).encode('utf-8', 'surrogatepass')
    data = np.frombuffer(raw, np.uint8)
    if plain:  # faster: there are spaces and words in turn
        padded = np.frombuffer((b' %b ' % raw).translate(_WORDS), np.uint8)
        edge = np.flatnonzero(padded[1:] != padded[:-1])
        return Tokens(data, edge[::2], edge[1::2])
    kinds = np.frombuffer(raw.translate(_WORDS), np.uint8)
    second = np.frombuffer(raw[1:] + b' ', np.uint8)
    begins = data >= 0xE3
    for lead, low, high in _SPACELESS:
        if lead in raw:
            begins |= (data == lead) & (second >= low) & (second <= high)
    return _tokens(data, kinds, begins)


def _tokens(
    data: UInt8[np.ndarray, 'bytes'],
    kinds: UInt8[np.ndarray, 'bytes'],
    begins: Bool[np.ndarray, 'bytes'],
) -> Tokens:
    """Runs of one kind, cut also where `begins`."""
    edges = np.ones(len(data) + 1, bool)
    np.not_equal(kinds[1:], kinds[:-1], out=edges[1:-1])
    edges[:-1] |= begins
    edge = np.flatnonzero(edges)
    inked = kinds[edge[:-1]] != _SPACE
    return Tokens(data, edge[:-1][inked], edge[1:][inked])


def of_words(text: str) -> UInt64[np.ndarray, 'K']:
    """The hashes of the words of a text, not mixed."""
    return stretches(*words(text))


def grams(words_K: UInt64[np.ndarray, 'K'], size: int) -> UInt64[np.ndarray, 'S']:
    """Hashes of every `size` words in a row, not mixed, from those of the words."""
    count = max(len(words_K) - size + 1, 0)
    total_S = words_K[:count].copy()
    for place in range(1, size):
        total_S *= _FACTOR
        total_S += words_K[place : place + count]
    return total_S
