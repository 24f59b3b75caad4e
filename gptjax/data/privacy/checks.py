"""Check digits: what tells a number of a kind from any other of its length."""

from collections.abc import Sequence

# Verhoeff (1969): products in the dihedral group of order 10, by digit, and the
# permutation that is applied once more for each place.
_PERMUTATION = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


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
