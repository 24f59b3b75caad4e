"""Check digits: what tells a number of a kind from any other of its length."""

from collections.abc import Sequence
import hashlib

# Verhoeff (1969): products in the dihedral group of order 10, by digit, and the
# permutation that is applied once more for each place.
_PERMUTATION = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
_BASE58 = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz'
_BECH32 = 'qpzry9x8gf2tvdw0s3jn54khce6mua7l'


def weighted(digits: str, weights: Sequence[int]) -> int:
    """The sum of the digits, each times its weight."""
    return sum(int(d) * w for d, w in zip(digits, weights, strict=False))


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: every second digit from the right is doubled."""
    doubled = sum(sum(divmod(2 * int(d), 10)) for d in digits[-2::-2])
    return (doubled + sum(map(int, digits[::-2]))) % 10 == 0


def mod97(code: str) -> bool:
    """ISO 13616 (IBAN): letters are 10 to 35, the first four stand last; 1 mod 97."""
    return int(''.join(str(int(c, 36)) for c in code[4:] + code[:4])) % 97 == 1


def mod11_10(digits: str) -> bool:
    """ISO 7064, MOD 11,10: German tax ids."""
    product = 10
    for digit in digits[:-1]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[-1])


def verhoeff(digits: str) -> bool:
    """Indian Aadhaar numbers."""
    state = 0
    for place, char in enumerate(reversed(digits)):
        digit = int(char)
        for _ in range(place % 8):
            digit = _PERMUTATION[digit]
        state = _dihedral(state, digit)
    return state == 0


def _dihedral(a: int, b: int) -> int:
    if a < 5:
        return (a + b) % 5 + (5 if b >= 5 else 0)
    return (a - b) % 5 + (0 if b >= 5 else 5)


def base58(address: str) -> bool:
    """Base58Check: a version byte, 20 bytes, and four of their double SHA-256."""
    number = 0
    for char in address:
        number = number * 58 + _BASE58.index(char)
    try:
        raw = number.to_bytes(25)
    except OverflowError:
        return False
    twice = hashlib.sha256(hashlib.sha256(raw[:21]).digest()).digest()
    return raw[21:] == twice[:4]


def bech32(address: str) -> bool:
    """BIP 173 and 350 for the prefix 'bc': a BCH code over GF(32)."""
    prefix, _, data = address.lower().partition('1')
    values = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    values += [_BECH32.index(c) for c in data]
    state = 1
    for value in values:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(
            (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
        ):
            if top >> bit & 1:
                state ^= generator
    return state in (1, 0x2BC830A3)
