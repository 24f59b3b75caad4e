"""Telephone numbers: international, North American and European forms.

ITU-T E.164 gives the country codes and at most 15 digits; the North American plan that
area and exchange begin with 2 to 9; ranges kept for fiction (555-0100 to 0199) are
left alone. Any other form needs a word such as 'phone' before it.
"""

import re

from gptjax.data.privacy.shapes import AFTER, BEFORE, OTHER, Shape, told_by

_CODES = re.compile(
    r'1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|'
    r'(?:2[1-689]|3[578]|42|5[09]|6[789]|8[0578]|9[679])[0-9]'
)
_EXTENSION = r'(?: ?(?:x|ext\.? ?)[0-9]{1,6})?'
_DIGITS = r'(?:[ .()/\-]{0,2}[0-9])'
_DATE = re.compile(
    r'(?:[0-3]?[0-9]([-./ ])[0-3]?[0-9]\1|(?:19|20)[0-9]{2}([-./ ])[0-3]?[0-9]\2)'
    r'[0-9]{1,4}(?: [0-9]{1,2})?'
)
_FICTION = re.compile(r'1?[2-9][0-9]{2}55501[0-9]{2}')
_WORDS = (
    'phone', 'phones', 'telephone', 'tel', 'mobile', 'mob', 'cell', 'cellphone', 'fax',
    'call', 'dial', 'ring', 'sms', 'whatsapp', 'hotline', 'reach', 'answering',
    'office', 'telefon', 'telefono', 'teléfono', 'téléphone', 'telefax', 'handy',
    'móvil', 'rufnummer', 'тел', '电话',
)  # fmt: skip
# Of those, what is in the text if one of them is.
_NEEDS = (
    'phone', 'tel', 'tél', 'mob', 'cell', 'fax', 'call', 'dial', 'ring', 'sms',
    'whatsapp', 'hotline', 'reach', 'answering', 'office', 'handy', 'móvil',
    'rufnummer', 'тел', '电话',
)  # fmt: skip


def _digits(found: str) -> str:
    """The digits without an extension."""
    return re.sub(r'\D', '', re.split('x|ext', found)[0])


def _international(found: str) -> bool:
    number = _digits(found)
    if not found.startswith('+'):
        number = number.removeprefix('00')
    return (
        8 <= len(number) <= 15
        and _CODES.match(number) is not None
        and _FICTION.fullmatch(number) is None
    )


def _american(found: str) -> bool:
    number = _digits(found)
    return number[-6:-4] != '11' and _FICTION.fullmatch(number) is None


def _european(found: str) -> bool:
    return 10 <= len(_digits(found)) <= 12


def _any(found: str) -> bool:
    number = _digits(found)
    return 7 <= len(number) <= 15 and _FICTION.fullmatch(number) is None


class _Phone(Shape):
    """A shape that is no date, no coordinate, and not named as another number."""

    def find(self, text, lowered, context):  # type: ignore[no-untyped-def]
        for start, end in super().find(text, lowered, context):
            found = text[start:end]
            if _DATE.fullmatch(found) or _COORDINATE.fullmatch(found):
                continue
            before = text[max(0, start - 16) : start].lower()
            if before[-1:] not in tuple('/#=&$') and not OTHER.search(before):
                yield start, end


_COORDINATE = re.compile(r'\+?[0-9]{1,3}\.[0-9]{4,8}(?:[ /].*)?')


def _shape(pattern, valid, told=False):  # type: ignore[no-untyped-def]
    words = told_by(_WORDS) if told else None
    return _Phone(
        re.compile(pattern + _EXTENSION + AFTER), valid, _NEEDS if told else (), words
    )


# Area, exchange and line of the North American plan.
_AREA, _LINE = '[2-9][0-9]{2}', r'[2-9][0-9]{2}[ .\-][0-9]{4}'
_TRUNK = r'[1-9][0-9]{2,8}(?:[ \-][0-9]{2,5}){0,2}'

PHONE = (
    _shape(rf'\+(?<![\w+.]\+)\(?[1-9]{_DIGITS}{{6,15}}', _international),
    _shape(
        rf'0{BEFORE}0[ \-]?[1-9][0-9]{{0,2}}(?:[ .\-][0-9]{{1,5}}){{2,5}}',
        _international,
    ),
    _shape(rf'\({BEFORE}{_AREA}\) ?{_LINE}', _american),
    _shape(rf'1{BEFORE}[ .\-](?:\({_AREA}\) ?|{_AREA}[ .\-]){_LINE}', _american),
    _shape(rf'[2-9]{BEFORE}[0-9]{{2}}[.\-]{_LINE}', _american),
    # French pairs; British and German trunk codes; Dutch mobiles.
    _shape(
        rf'0{BEFORE}[1-9](?:([ .\-])[0-9]{{2}}(?:\1[0-9]{{2}}){{3}}|-[1-9][0-9]{{7}})',
        _european,
    ),
    _shape(rf'\({BEFORE}0[1-9][0-9]{{0,4}}\) ?{_TRUNK}', _european),
    _shape(rf'0{BEFORE}[1-9][0-9]{{1,4}}(?: ?[/\-] ?| ){_TRUNK}', _european),
    _shape(rf'[0-9(]{BEFORE}{_DIGITS}{{6,15}}', _any, told=True),
)
