"""MinHash (Broder, 1997) with affine permutations of 32-bit hashes.

The permutation h -> a h + b mod 2^32 with odd a, of hashes that murmur3's finaliser
mixed, is datasketch 2's `affine32`: equal hashes and seed give equal signatures to the
last bit. Only uint32 is needed: the same function runs under jax.jit without x64.
"""

from collections.abc import Iterable
import functools
import hashlib
from typing import Any

from jaxtyping import UInt32, UInt64
import numpy as np

from gptjax.data.dedup import hashes

# Shingles in one product: with 112 permutations, 224 and 56 KiB.
_LARGE, _SMALL = 512, 128
_MIX = (
    (np.uint32(16), np.uint32(0x85EBCA6B)),
    (np.uint32(13), np.uint32(0xC2B2AE35)),
)


def permutations(
    count: int, seed: int
) -> tuple[UInt32[np.ndarray, 'P'], UInt32[np.ndarray, 'P']]:
    """a and b of `count` permutations, as datasketch draws them."""
    random = np.random.RandomState(seed)
    half = random.randint(0, 1 << 31, count, np.uint32)
    return half * np.uint32(2) + np.uint32(1), random.randint(0, 1 << 32, count, 'u4')


def mixed(hashes_S: Any) -> Any:
    """murmur3's 32-bit finaliser of a uint32 array of NumPy or JAX."""
    for shift, factor in _MIX:
        hashes_S = (hashes_S ^ (hashes_S >> shift)) * factor
    return hashes_S ^ (hashes_S >> _MIX[0][0])


def signature(hashes_S: Any, a_P: Any, b_P: Any, xp: Any = np) -> Any:
    """uint32[P]: the least value of the hashes under each permutation.

    xp: numpy or jax.numpy. A batch is `jax.vmap` of it, in which documents of unequal
    size are padded by repeating a hash of their own: that changes no minimum.
    """
    return xp.min(mixed(hashes_S)[:, None] * a_P + b_P, axis=0)


class Signer:
    """`signature` in NumPy, twice as fast: whole tiles, no broadcast operand.

    NumPy's loops over [P, tile] take 0.07 ns an element where all operands have this
    shape, and 0.18 to 0.3 where one is stretched (one core of an EPYC with AVX-512).
    """

    def __init__(
        self, a_P: UInt32[np.ndarray, 'P'], b_P: UInt32[np.ndarray, 'P']
    ) -> None:
        self._tiles = {
            size: (
                np.repeat(a_P, size).reshape(len(a_P), size),
                np.repeat(b_P, size).reshape(len(b_P), size),
                np.arange(0, len(a_P) * size, size),
            )
            for size in (_LARGE, _SMALL)
        }

    def __call__(self, hashes_S: UInt32[np.ndarray, 'S']) -> UInt32[np.ndarray, 'P']:
        mixed_S = mixed(hashes_S)
        found = []
        start = 0
        while start < len(mixed_S):
            left = len(mixed_S) - start
            size = _LARGE if left > 2 * _SMALL else _SMALL
            a_PS, b_PS, rows = self._tiles[size]
            tile = mixed_S[start : start + size]
            if left < size:
                tile = np.empty(size, np.uint32)
                tile[:left] = mixed_S[start:]
                tile[left:] = mixed_S[start]
            product_PS = np.empty(a_PS.shape, np.uint32)
            product_PS[:] = tile
            product_PS *= a_PS
            product_PS += b_PS
            # minimum.reduceat is faster than minimum.reduce along the rows: 4 us for 7.
            found.append(np.minimum.reduceat(product_PS.reshape(-1), rows))
            start += size
        return functools.reduce(np.minimum, found)


def sha1(shingles: Iterable[bytes]) -> UInt32[np.ndarray, 'S']:
    """The hash that datasketch takes of shingles: the first 32 bits of their SHA-1."""
    digests = b''.join(hashlib.sha1(shingle).digest() for shingle in shingles)
    return np.frombuffer(digests, '<u4')[::5].copy()


def shingles(text: str, ngram: int) -> UInt64[np.ndarray, 'S']:
    """A hash of every `ngram` words in a row (`hashes.words`), in their order.

    A text of fewer words has one shingle of all of them, and one without words none.
    Signatures are of the upper halves (`upper`).
    """
    words_K = hashes.of_words(text)
    return hashes.grams(words_K, min(ngram, len(words_K)))


def upper(hashes_S: UInt64[np.ndarray, 'S']) -> UInt32[np.ndarray, 'S']:
    """The better half of hashes that are not mixed."""
    return (hashes_S >> np.uint64(32)).astype(np.uint32)
