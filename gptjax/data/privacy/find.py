"""Personal data in a text: spans by kind, and what may stand in their place."""

from collections.abc import Callable, Iterable, Sequence
import hashlib
import re
from typing import NamedTuple

from gptjax import command
from gptjax.data.privacy import numbers, online, phones
from gptjax.data.privacy.shapes import Shape


class Span(NamedTuple):
    """The characters from `start` to before `end` are of the kind."""

    start: int
    end: int
    kind: str


# In the order in which they claim characters: the surest first.
KINDS: dict[str, Sequence[Shape]] = {
    'key': online.KEY,
    'email': online.EMAIL,
    'iban': numbers.IBAN,
    'fr_nir': (numbers.NATIONAL['fr_nir'],),  # before cards of 15 digits
    'card': numbers.CARD,
    'ssn': numbers.SSN,
    **{name: (one,) for name, one in numbers.NATIONAL.items()},
    'ipv6': online.IPV6,
    'ipv4': online.IPV4,
    'phone': phones.PHONE,
}
# Those that need no run of seven digits, which most texts lack.
_SHORT = ('key', 'email', 'iban', 'gb_nino', 'it_cf', 'ipv6', 'ipv4')
_RUN = re.compile(r'[0-9](?:[ .()/\-]{0,2}[0-9]){6}')
_GROUPS = {'national': tuple(numbers.NATIONAL), 'ip': ('ipv4', 'ipv6')}

# What replaces a kind, of a number that depends on what it replaces. None of them is
# anyone's, and none is found again, whatever word precedes it: reserved for
# documentation (RFC 2606, 5737, 3849) and fiction, or nothing but zeros.
SURROGATES: dict[str, Callable[[int], str]] = {
    'email': lambda n: f'user{n}@example.com',
    'ipv4': lambda n: f'192.0.2.{n}',
    'ipv6': lambda n: f'2001:db8::{n:x}',
    'phone': lambda n: f'(202) 555-01{n % 100:02}',
    'card': lambda n: '0000 0000 0000 0000',
    'iban': lambda n: 'XX00 0000 0000 0000',
    'ssn': lambda n: '000-00-0000',
    'key': lambda n: 'SECRET',
    'person': lambda n: ('Alex', 'Sam', 'Kim', 'Robin', 'Toni', 'Jo', 'Sasha')[n % 7],
}


def kinds(names: Iterable[str]) -> tuple[str, ...]:
    """Names of kinds, with 'national' and 'ip' for what they stand for, in order.

    Raises UserError for an unknown one, and for none.
    """
    wanted: set[str] = set()
    for name in names:
        wanted.update(_GROUPS.get(name) or (name,))
    for name in sorted(wanted - set(KINDS)):
        known = [*KINDS, *_GROUPS]
        raise command.UserError(
            f'unknown kind {name!r}; {command.did_you_mean(name, known)}'
        )
    if not wanted:
        raise command.UserError(
            f'privacy.kinds is empty; name some of {", ".join([*KINDS, *_GROUPS])}.'
        )
    return tuple(name for name in KINDS if name in wanted)


def find(text: str, names: Sequence[str], context: bool = True) -> list[Span]:
    """The spans of these kinds, ascending; none overlaps another.

    names: of KINDS, as `kinds` gives them.
    context: whether numbers that many others look like need a word before them that
        tells; without it, a run of nine digits is an SSN.
    """
    lowered = text.lower()
    if _RUN.search(text) is None:
        names = [name for name in names if name in _SHORT]
    taken = bytearray(len(text))
    found = []
    for name in names:
        for shape in KINDS[name]:
            for start, end in shape.find(text, lowered, context):
                if taken.find(1, start, end) < 0:
                    taken[start:end] = b'\1' * (end - start)
                    found.append(Span(start, end, name))
    return sorted(found)


def hide(text: str, spans: Iterable[Span], tag: bool) -> str:
    """The text with each span replaced: by its surrogate, or by '<KIND>' with `tag`.

    Equal strings get equal surrogates, in every document and on every machine.
    """
    pieces, end = [], 0
    for span in spans:
        pieces.append(text[end : span.start])
        if tag:
            pieces.append(f'<{span.kind.upper()}>')
        else:
            value = text[span.start : span.end].encode('utf-8', 'replace')
            number = hashlib.sha256(value).digest()[0] % 254 + 1
            made = SURROGATES.get(span.kind, lambda n: '000000000')
            pieces.append(made(number))
        end = span.end
    return ''.join([*pieces, text[end:]])
