"""A permutation of 0..n-1 by arithmetic alone: no table, and any element at once.

It is a Feistel network over pairs (left, right) with left < a, right < b and a * b >= n
(Black and Rogaway, "Ciphers with arbitrary finite domains", 2002, section 5): each
round adds a keyed hash of one half to the other, modulo its range, which can be undone.
The few numbers from n to a * b - 1 are walked through until the walk is back below n.

Only `+ * // % & ^` on int64 occur, without overflow: the formulas below hold for NumPy
arrays and TensorFlow tensors alike, bit for bit.
"""

import math
from typing import Any

import numpy as np

_WORD = 0xFFFFFFFF
_ROUNDS = 6


def scramble(value: Any, key: Any) -> Any:
    """A 32-bit hash of int64 `value` under an int64 `key`: two avalanches.

    The factors are odd and below 2**31, so that no product leaves int64.
    """
    x = ((value ^ key) + 0x1E3779B9) & _WORD
    x = ((x ^ (x // 65536)) * 0x7FEB352D) & _WORD
    x = ((x ^ (x // 32768)) * 0x31848BAB) & _WORD
    return x ^ (x // 65536)


def mix(seed: int, epoch: Any) -> Any:
    """The int64 key of an epoch (int64, 0 <= epoch < 2**32) under a seed of 64 bits."""
    seed %= 2**64
    key = scramble(seed // 2**32, 1)
    key = scramble(seed % 2**32, key)
    return scramble(epoch, key)


def once(i: Any, n: int, key: Any) -> Any:
    """One walk of the network on i < a * b, where a = ceil(sqrt n), b = ceil(n / a)."""
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    left, right = i // b, i % b
    for number in range(0, _ROUNDS, 2):
        left = (left + scramble(right, scramble(key, number))) % a
        right = (right + scramble(left, scramble(key, number + 1))) % b
    return left * b + right


def permute(i: np.ndarray, n: int, key: np.ndarray | int) -> np.ndarray:
    """The images (int64) of `i` (int64, 0 <= i < n) under the permutation `key`.

    `key` is one for all or one for each. n is at most 2**62.
    """
    image = once(np.asarray(i, np.int64), n, key)
    while (outside := image >= n).any():
        image = np.where(outside, once(image, n, key), image)
    return image


def inverse(image: np.ndarray, n: int, key: np.ndarray | int) -> np.ndarray:
    """The `i` (int64) of which `image` is `permute(i, n, key)`."""
    i = _back(np.asarray(image, np.int64), n, key)
    while (outside := i >= n).any():
        i = np.where(outside, _back(i, n, key), i)
    return i


def _back(image: Any, n: int, key: Any) -> Any:
    """What `once` makes `image` of."""
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    left, right = image // b, image % b
    for number in reversed(range(0, _ROUNDS, 2)):
        right = (right - scramble(left, scramble(key, number + 1))) % b
        left = (left - scramble(right, scramble(key, number))) % a
    return left * b + right
