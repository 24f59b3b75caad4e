"""Sentences with planted personal data, and with what only looks like it.

Each is made with check digits computed here, by other means than the library's.
"""

from collections.abc import Iterator
import hashlib
import random
import string
import uuid

Planted = tuple[str, str, str | None]  # text, the planted string, its kind or None


def make(count: int, seed: int) -> Iterator[Planted]:
    """`count` of each kind, and as many of each look-alike (kind None)."""
    rng = random.Random(seed)
    for _ in range(count):
        for kind, makers in _PLANTED.items():
            for sentence, maker in makers:
                value = maker(rng)
                yield sentence.format(value), value, kind
        for sentence, maker in _ALIKE:
            value = maker(rng)
            yield sentence.format(value), value, None


def _digits(rng: random.Random, count: int) -> str:
    return ''.join(rng.choices(string.digits, k=count))


def _letters(rng: random.Random, count: int, of: str = string.ascii_lowercase) -> str:
    return ''.join(rng.choices(of, k=count))


def _any_of(rng: random.Random, *options: str) -> str:
    return rng.choice(options)


def _grouped(text: str, sizes: tuple[int, ...], by: str) -> str:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    return by.join(pieces)


def _email(rng: random.Random) -> str:
    name = _any_of(
        rng, _letters(rng, 6), f'{_letters(rng, 4)}.{_letters(rng, 7)}',
        f'{_letters(rng, 5)}+{_letters(rng, 3)}',
        f'{_letters(rng, 3)}_{_digits(rng, 2)}',
    )  # fmt: skip
    host = _any_of(rng, _letters(rng, 8), f'mail.{_letters(rng, 5)}', 'x-' + name[:3])
    end = _any_of(rng, 'com', 'org', 'net', 'de', 'co.uk', 'io', 'info')
    return f'{name}@{host.replace("_", "").replace("+", "")}.{end}'


def _ipv4(rng: random.Random) -> str:
    special = (100, 127, 169, 172, 192, 198, 203)  # partly private or documentation
    first = rng.choice([n for n in range(11, 223) if n not in special])
    second, third = rng.randrange(256), rng.randrange(256)
    return f'{first}.{second}.{third}.{rng.randrange(30, 255)}'


def _ipv6(rng: random.Random) -> str:
    groups = ['2a0' + rng.choice('123456789')]
    groups += [f'{rng.randrange(256, 65536):x}' for _ in range(7)]
    if rng.random() < 0.5:
        return ':'.join(groups[:3]) + '::' + ':'.join(groups[5:])
    return ':'.join(groups)


def _luhn(body: str) -> str:
    """The body and the one digit that makes the sum of the Luhn table divisible."""
    for check in string.digits:
        total = 0
        for place, digit in enumerate(reversed(body + check)):
            total += int('0246813579'[int(digit)] if place % 2 else digit)
        if total % 10 == 0:
            return body + check
    raise AssertionError


def _card(rng: random.Random) -> str:
    start, length = rng.choice((('4', 16), ('52', 16), ('2300', 16), ('34', 15)))
    number = _luhn(start + _digits(rng, length - len(start) - 1))
    by = _any_of(rng, '', ' ', '-')
    return _grouped(number, (4, 4, 4, 4) if length == 16 else (4, 6, 5), by)


def _iban(rng: random.Random) -> str:
    country, length, letters = rng.choice((('DE', 22, 0), ('GB', 22, 4), ('ES', 24, 0)))
    account = _letters(rng, letters, string.ascii_uppercase)
    account += _digits(rng, length - 4 - letters)
    for check in range(2, 99):
        moved = f'{account}{country}{check:02}'
        if int(''.join(str(int(c, 36)) for c in moved)) % 97 == 1:
            break
    sizes = (4,) * ((length + 3) // 4)
    return _grouped(f'{country}{check:02}{account}', sizes, _any_of(rng, '', ' '))


def _ssn(rng: random.Random) -> str:
    area = rng.choice([n for n in range(1, 900) if n != 666])
    return f'{area:03}-{rng.randrange(1, 100):02}-{rng.randrange(1, 10_000):04}'


def _phone_us(rng: random.Random) -> str:
    area = f'{rng.randrange(2, 10)}{rng.randrange(9)}{rng.randrange(10)}'
    exchange = f'{rng.randrange(2, 10)}{rng.randrange(2, 10)}{rng.randrange(10)}'
    line = f'{rng.randrange(200, 10_000):04}'
    by = _any_of(rng, '({}) {}-{}', '{}-{}-{}', '{}.{}.{}', '1-{}-{}-{}', '+1 {} {} {}')
    return by.format(area, exchange, line)


def _phone_europe(rng: random.Random) -> str:
    seven, nine = _number(rng, 7), _digits(rng, 9)
    pairs = ' '.join(_digits(rng, 2) for _ in range(4))
    return _any_of(
        rng,
        f'+44 20 7{nine[:3]} {nine[3:7]}',
        f'+49 (0)30 {seven}',
        f'+34 6{nine[:2]} {nine[2:5]} {nine[5:8]}',
        f'0{rng.randrange(1, 8)} {pairs}',
        f'07700 {_number(rng, 6)}',
        f'0171-{seven}',
        f'030/{seven}',
        f'06-{_number(rng, 8)}',
    )


def _number(rng: random.Random, digits: int) -> str:
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def _phone_told(rng: random.Random) -> str:
    return _any_of(rng, _phone_europe(rng), f'5{_digits(rng, 2)} {_digits(rng, 4)}',
                   f'6{_digits(rng, 9)}')  # fmt: skip


def _key(rng: random.Random) -> str:
    word = string.ascii_letters + string.digits
    upper = string.ascii_uppercase + string.digits
    return _any_of(
        rng, 'AKIA' + _letters(rng, 16, upper), 'ghp_' + _letters(rng, 36, word),
        'AIza' + _letters(rng, 35, word), 'sk-proj-4aB' + _letters(rng, 40, word),
        'xoxb-' + _digits(rng, 12) + '-' + _letters(rng, 24, word),
        f'eyJ{_letters(rng, 33, word)}.eyJ{_letters(rng, 60, word)}.'
        + _letters(rng, 43, word),
        'sk_live_' + _letters(rng, 24, word),
    )  # fmt: skip


def _nhs(rng: random.Random) -> str:
    while True:
        number = _digits(rng, 10)
        total = sum(int(d) * w for d, w in zip(number, range(10, 0, -1), strict=True))
        if total % 11 == 0 and number[0] in '467':
            return _grouped(number, (3, 3, 4), ' ')


def _dni(rng: random.Random) -> str:
    number = rng.randrange(10_000_000, 99_999_999)
    return f'{number}{"TRWAGMYFPDXBNJZSQVHLCKE"[number % 23]}'


def _cpf(rng: random.Random) -> str:
    digits = [rng.randrange(10) for _ in range(8)] + [1]
    for _ in range(2):
        weights = range(len(digits) + 1, 1, -1)
        left = sum(d * w for d, w in zip(digits, weights, strict=True)) % 11
        digits.append(0 if left < 2 else 11 - left)
    text = ''.join(map(str, digits))
    return f'{text[:3]}.{text[3:6]}.{text[6:9]}-{text[9:]}'


def _nir(rng: random.Random) -> str:
    body = f'{rng.choice("12")}{rng.randrange(100):02}{rng.randrange(1, 13):02}'
    body += f'{rng.randrange(1, 96):02}{_digits(rng, 6)}'
    check = next(c for c in range(1, 98) if (int(body) + c) % 97 == 0)
    return _grouped(f'{body}{check:02}', (1, 2, 2, 2, 3, 3, 2), _any_of(rng, '', ' '))


_PLANTED = {
    'email': (('Write to {} by Friday.', _email), ('Contact: <{}>', _email)),
    'ipv4': (
        ('The request came from {} at noon.', _ipv4),
        ('{} - - "GET / HTTP/1.1" 200', _ipv4),
    ),
    'ipv6': (('ping6 {} timed out', _ipv6), ('Resolved [{}]:443', _ipv6)),
    'card': (('Paid with {} yesterday.', _card), ('card={}; ok', _card)),
    'iban': (('Please transfer it to {}.', _iban), ('IBAN: {}', _iban)),
    'ssn': (('Her SSN is {}.', _ssn), ('the number {} was on the form', _ssn)),
    'phone': (
        ('You may find me under {} after six.', _phone_us),
        ('Mr. Alder, {}, Room 4', _phone_europe),
        ('Phone: {}', _phone_told),
        ('please call {} instead', _phone_us),
    ),
    'key': (('token = "{}"', _key), ('export KEY={}', _key)),
    'gb_nhs': (('NHS number {}.', _nhs),),
    'es_dni': (('con DNI {} y domicilio', _dni),),
    'br_cpf': (('portador do CPF {}', _cpf),),
    'fr_nir': (('assuré {} depuis', _nir),),
}


def _version(rng: random.Random) -> str:
    return '.'.join(str(rng.randrange(1, n)) for n in (12, 30, 60, 200))


def _isbn(rng: random.Random) -> str:
    body = '978' + _digits(rng, 9)
    total = sum(int(d) * (3 if i % 2 else 1) for i, d in enumerate(body))
    number = f'{body}{-total % 10}'
    return _any_of(rng, number, _grouped(number, (3, 1, 4, 4, 1), '-'))


def _no_card(rng: random.Random) -> str:
    """A card's digits with a wrong check digit."""
    right = _luhn('4' + _digits(rng, 14))
    return right[:-1] + str((int(right[-1]) + rng.randrange(1, 10)) % 10)


def _sha(rng: random.Random) -> str:
    return hashlib.sha1(rng.randbytes(8)).hexdigest()


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(bytes=rng.randbytes(16), version=4))


def _time(rng: random.Random) -> str:
    month, date = rng.randrange(1, 13), rng.randrange(1, 29)
    day = f'{rng.randrange(1990, 2030)}-{month:02}-{date:02}'
    clock = f'{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}'
    return _any_of(rng, f'{day}T{clock}Z', f'{day} {clock}.{_digits(rng, 6)}', clock)


def _date(rng: random.Random) -> str:
    by = _any_of(rng, '.', '/', '-')
    month, date = rng.randrange(1, 13), rng.randrange(1, 29)
    return f'{date:02}{by}{month:02}{by}{rng.randrange(1950, 2030)}'


def _mac(rng: random.Random) -> str:
    return ':'.join(f'{b:02x}' for b in rng.randbytes(6))


def _place(rng: random.Random) -> str:
    return f'{rng.uniform(-89, 89):+.5f}, {rng.uniform(-179, 179):+.5f}'


_ALIKE = (
    ('Upgrade to version {} today.', _version),
    ('It needs libfoo-{} or newer.', _version),
    ('See section {} of the standard.', _version),
    ('firmware {} fixes it', _ipv4),
    ('ISBN {}, paperback', _isbn),
    ('the commit {} broke it', _sha),
    ('request id {} failed', _uuid),
    ('logged at {} by the daemon', _time),
    ('It happened on {} in Rome.', _date),
    ('Please call us about order {}.', lambda rng: _digits(rng, 9)),
    ('order number {} has shipped', lambda rng: _digits(rng, 10)),
    ('number {} is no card', _no_card),
    ('at {} on the map', _place),
    ('interface {} is down', _mac),
    ('in 1984-1987 about {} came', lambda rng: f'{rng.randrange(10**6, 10**7):,}'),
    ('the value {} was measured', lambda rng: f'{rng.uniform(0, 10**4):.9f}'),
    ('open logo@{}x.png', lambda rng: str(rng.randrange(2, 4))),
    ('written as std::{}::{{}}'.replace('{}', '{0}', 1), lambda rng: _letters(rng, 5)),
    ('epoch {} ms', lambda rng: f'1{rng.randrange(6 * 10**11, 9 * 10**11)}'),
    ('user{}@example.com is an example', lambda rng: _digits(rng, 3)),
    ('from 192.168.1.{} inside', lambda rng: str(rng.randrange(256))),
    ('the class sk-folding-cube-{}', lambda rng: _letters(rng, 12)),
    ('part no. {} in stock', lambda rng: f'{_digits(rng, 4)}-{_digits(rng, 5)}'),
    ('a range of {} to 100', lambda rng: f'{_digits(rng, 2)}.{_digits(rng, 2)}'),
)  # fmt: skip
