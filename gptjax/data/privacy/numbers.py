"""Numbers of cards, accounts and people, held to their check digits.

Cards: issuer ranges as published by the networks, lengths of ISO/IEC 7812. IBAN: the
lengths of the SWIFT registry. SSN: areas 000, 666 and 900 to 999, group 00 and serial
0000 were never issued, and a few became known through advertisements.
"""

import re

from gptjax.data.privacy import checks, shapes

# First digits, as a range of equal lengths, and the lengths of the numbers.
_ISSUERS = (
    ('4', '4', (16, 19)),  # Visa; those of 13 digits are gone, and look like an EAN
    ('2221', '2720', (16,)),  # Mastercard
    ('51', '55', (16,)),
    ('34', '34', (15,)),  # American Express
    ('37', '37', (15,)),
    ('6011', '6011', (16, 19)),  # Discover
    ('644', '659', (16, 19)),
    ('3528', '3589', (16, 17, 18, 19)),  # JCB
    ('300', '305', (14, 16)),  # Diners Club
    ('3095', '3095', (14, 16)),
    ('36', '36', (14, 16)),
    ('38', '39', (14, 16)),
    ('62', '62', (16, 17, 18, 19)),  # UnionPay
    ('50', '50', (16, 18, 19)),  # Maestro and Dankort
    ('56', '58', (16, 18, 19)),
    ('63', '63', (16, 18, 19)),
    ('67', '67', (16, 18, 19)),
    ('2200', '2204', (16,)),  # Mir
    ('1001', '1999', (15,)),  # UATP: a tenth of all numbers of that form
)


def _card(digits: str) -> bool:
    return checks.luhn(digits) and any(
        low <= digits[: len(low)] <= high and len(digits) in lengths
        for low, high, lengths in _ISSUERS
    )


CARD = (
    shapes.shape(
        '[2-6]',
        r'[0-9]{3}(?:([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}|'
        r'([ -])[0-9]{6}\2[0-9]{4,5}|[0-9]{10,15})',
        _card,
    ),
    shapes.shape('1', r'[0-9]{14}', _card, ('card', 'uatp')),
)

_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: 'NO', 16: 'BE', 18: 'DK FO FI GL NL SD', 19: 'MK SI',
        20: 'AT BA EE KZ XK LT LU MN', 21: 'CH HR LV LI',
        22: 'BG BH CR DE GB GE IE ME RS VA', 23: 'AE GI IL IQ OM SO TL',
        24: 'AD CZ ES MD PK RO SA SE SK TN VG', 25: 'LY PT', 26: 'IS TR',
        27: 'BI DJ FR GR IT MC MR SM', 28: 'AL AZ BY CY DO GT HN HU LB NI PL',
        29: 'BR EG PS QA UA', 30: 'JO KW MU YE', 31: 'MT SC', 32: 'LC', 33: 'RU',
    }.items()
    for country in countries.split()
}  # fmt: skip


_WORD = re.compile(shapes.WORD)


def _iban(match: re.Match[str]) -> shapes.Place | None:
    """The country says how many of the characters that follow are the number."""
    start = match.start() - 2
    found = match.string[start : match.end()]
    places = [i for i, c in enumerate(found) if c.isalnum()]
    length = _IBAN_LENGTHS.get(found[:2].upper(), 99)
    if len(places) < length:
        return None
    end = start + places[length - 1] + 1
    code = ''.join(found[i] for i in places[:length])
    if _WORD.match(match.string, end) or not checks.mod97(code):
        return None
    return (start, end) if code in (code.upper(), code.lower()) else None


IBAN = (
    shapes.Shape(
        re.compile(
            rf'[0-9](?<=[A-Za-z][A-Za-z].)(?<!{shapes.WORD}...)[0-9]'
            r'(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?'
        ),
        _iban,
    ),
)


def _ssn(digits: str) -> bool:
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return (
        area not in ('000', '666')
        and area < '900'
        and group != '00'
        and serial != '0000'
        and digits not in ('078051120', '219099999', '457555462', '123456789')
    )


_SOCIAL = ('ssn', 'social security', 'ss#', 'itin', 'taxpayer')
SSN = (
    shapes.shape('[0-9]', r'[0-9]{2}-[0-9]{2}-[0-9]{4}', _ssn),
    shapes.shape('[0-9]', r'[0-9]{2}([. ])[0-9]{2}\1[0-9]{4}', _ssn, _SOCIAL),
    shapes.shape('[0-9]', r'[0-9]{2}-?[0-9]{2}-?[0-9]{4}', _ssn, _SOCIAL),
)


def _nhs(digits: str) -> bool:
    """Modulus 11 (NHS Data Dictionary)."""
    check = 11 - checks.weighted(digits[:9], range(10, 1, -1)) % 11
    return check % 11 == int(digits[9]) and check != 10


def _nino(code: str) -> bool:
    return code[:2] not in ('BG', 'GB', 'NK', 'KN', 'TN', 'NT', 'ZZ')


def _dni(code: str) -> bool:
    """The letter is the remainder by 23; X, Y, Z of foreigners are 0, 1, 2."""
    number = int(code[:-1].translate(str.maketrans('XYZ', '012')))
    return 'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23] == code[-1]


def _nir(code: str) -> bool:
    """97 less the remainder by 97; the Corsican 2A and 2B are 19 and 18."""
    number = code[:13].replace('2A', '19').replace('2B', '18')
    return 97 - int(number) % 97 == int(code[13:])


def _de_id(digits: str) -> bool:
    """One digit of the first ten stands twice or thrice, and the check digit holds."""
    repeated = sorted(digits[:10].count(d) for d in set(digits[:10]))
    one = repeated[-1] in (2, 3) and repeated[-2] == 1
    return one and checks.mod11_10(digits)


_ODD = dict(
    zip(
        '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ',
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21) * 2
        + (2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)


def _fiscal(code: str) -> bool:
    """Decree of 23 December 1976: odd places by a table, even ones by their value."""
    even = sum(int(c) if c.isdecimal() else ord(c) - 65 for c in code[1:15:2])
    return chr(65 + (even + sum(_ODD[c] for c in code[0:15:2])) % 26) == code[15]


def _cpf(digits: str) -> bool:
    """Two digits modulo 11; eleven equal digits would hold, and are no one's."""
    first = checks.weighted(digits, range(10, 1, -1)) * 10 % 11 % 10
    second = checks.weighted(digits, range(11, 1, -1)) * 10 % 11 % 10
    return len(set(digits)) > 1 and digits[9:] == f'{first}{second}'


# ISO 3166 and the name. Most need a word that tells of them: among ten digits one in
# eleven passes as an NHS number.
NATIONAL = {
    'gb_nhs': shapes.shape(
        '[0-9]', r'[0-9]{2}([ -]?)[0-9]{3}\1[0-9]{4}', _nhs, ('nhs', 'national health')
    ),
    'gb_nino': shapes.shape(
        '[A-CEGHJ-PR-TW-Z]', '[A-CEGHJ-NPR-TW-Z](?: ?[0-9]{2}){3} ?[A-D]', _nino,
        ('national insurance', 'nino', 'ni number', 'ni no'),
    ),
    'es_dni': shapes.shape(
        '[0-9XYZ]', '[0-9]{7}-?[A-HJ-NP-TV-Z]', _dni,
        ('dni', 'nie', 'nif', 'd.n.i', 'identidad', 'spanish id'),
    ),
    'fr_nir': shapes.shape(
        '[12]', r'[ .]?[0-9]{2}[ .]?(?:0[1-9]|1[0-2]|[2-9][0-9])[ .]?'
        r'(?:[0-9]{2}|2[AB])[ .]?[0-9]{3}[ .]?[0-9]{3}[ .]?[0-9]{2}', _nir,
    ),
    'de_id': shapes.shape(
        '[1-9]', '[0-9](?: ?[0-9]{3}){3}', _de_id,
        ('steuer', 'steuerid', 'steuer-id', 'steueridentifikationsnummer', 'idnr',
         'steuer-idnr', 'tax id', 'tin'),
    ),
    'it_cf': shapes.shape(
        '[A-Z]', '[A-Z]{5}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}'
        '[A-Z]', _fiscal,
    ),
    'br_cpf': shapes.shape('[0-9]', r'[0-9]{2}(?:\.[0-9]{3}){2}-[0-9]{2}', _cpf),
    'in_aadhaar': shapes.shape(
        '[2-9]', r'[0-9]{3}([ -]?)[0-9]{4}\1[0-9]{4}', checks.verhoeff,
        ('aadhaar', 'aadhar', 'uidai'),
    ),
}  # fmt: skip
