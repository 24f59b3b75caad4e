"""Telephone numbers: international, North American and European forms.

ITU-T E.164 gives the country codes and at most 15 digits; the North American plan that
area and exchange begin with 2 to 9; ranges kept for fiction (555-0100 to 0199) are
left alone. Any other form needs a word such as 'phone' before it.
"""

from collections.abc import Callable
import re

from gptjax.data.privacy import shapes

_CODES = re.compile(
    r'1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|'
    r'(?:2[1-689]|3[578]|42|5[09]|6[789]|8[0578]|9[679])[0-9]'
)
_EXTENSION = r'(?: ?(?:x|ext\.? ?)[0-9]{1,6})?'
_DIGITS = r'(?:[ .()/\-]{0,2}[0-9])'
# Dates, coordinates and network addresses.
_OTHER = re.compile(
    r'(?:[0-3]?[0-9]([-./ ])[0-3]?[0-9]\1|(?:19|20)[0-9]{2}([-./ ])[0-3]?[0-9]\2)'
    r'[0-9]{1,4}(?: [0-9]{1,2})?|'
    r'(?:\+?[0-9]{1,3}\.[0-9]{4,8}|[1-9][0-9]{0,2}(?:\.(?:0|[1-9][0-9]{0,2})){3})'
    r'(?:[ /].*)?'
)
_FICTION = re.compile('55501[0-9]{2}')
_WORDS = (
    'phone', 'phones', 'telephone', 'tel', 'mobile', 'mob', 'cell', 'cellphone', 'fax',
    'call', 'dial', 'ring', 'sms', 'whatsapp', 'hotline', 'reach', 'answering',
    'office', 'telefon', 'telefono', 'teléfono', 'téléphone', 'telefax', 'handy',
    'móvil', 'rufnummer', 'тел', '电话', '手机', '電話',
)  # fmt: skip
# Of those, the ones without another inside: what is in the text if one of them is.
_NEEDS = tuple(w for w in _WORDS if not any(x in w for x in _WORDS if x != w))


def _international(found: str, number: str) -> bool:
    if not found.startswith('+'):
        number = number.removeprefix('00')
    return 8 <= len(number) <= 15 and _CODES.match(number) is not None


def _american(found: str, number: str) -> bool:
    return number[-6:-4] != '11'


def _european(found: str, number: str) -> bool:
    return 10 <= len(number) <= 12


def _any(found: str, number: str) -> bool:
    return 7 <= len(number) <= 15


def _shape(
    first: str, rest: str, valid: Callable[[str, str], bool], told: bool = False
) -> shapes.Shape:
    """A shape that is nothing of `_OTHER`, and not named as another number."""

    def check(match: re.Match[str]) -> shapes.Place | None:
        found, earlier = match[0], shapes.before(match, 16)
        number = re.sub(r'\D', '', re.split('x|ext', found)[0])
        other = _OTHER.fullmatch(found) or _FICTION.search(number)
        if other or shapes.OTHER.search(earlier) or not number.strip('0'):
            return None
        if earlier[-1:] in tuple('/#=&$') or not valid(found, number):
            return None
        return match.span()

    pattern = re.compile(first + shapes.BEFORE + rest + _EXTENSION + shapes.AFTER)
    if told:
        return shapes.Shape(pattern, check, _NEEDS, shapes.told_by(_WORDS))
    return shapes.Shape(pattern, check)


# Area, exchange and line of the North American plan.
_AREA, _LINE = '[2-9][0-9]{2}', r'[2-9][0-9]{2}[ .\-][0-9]{4}'
_TRUNK = r'[1-9][0-9]{2,8}(?:[ \-][0-9]{2,5}){0,2}'

PHONE = (
    _shape(r'\+', rf'(?<!\+.)\(?[1-9]{_DIGITS}{{6,15}}', _international),
    _shape('0', r'0[ \-]?[1-9][0-9]{0,2}(?:[ .\-][0-9]{1,5}){2,5}', _international),
    _shape(r'\(', rf'{_AREA}\) ?{_LINE}', _american),
    _shape('1', rf'[ .\-](?:\({_AREA}\) ?|{_AREA}[ .\-]){_LINE}', _american),
    _shape('[2-9]', rf'[0-9]{{2}}[.\-]{_LINE}', _american),
    # French pairs; Dutch mobiles; British and German trunk codes.
    _shape('0', r'[1-9]([ .\-])[0-9]{2}(?:\1[0-9]{2}){3}', _european),
    _shape('0', '[1-9]-[1-9][0-9]{7}', _european),
    _shape(r'\(', rf'0[1-9][0-9]{{0,4}}\) ?{_TRUNK}', _european),
    _shape('0', rf'[1-9][0-9]{{1,4}}(?: ?[/\-] ?| ){_TRUNK}', _european),
    _shape('[0-9(]', rf'{_DIGITS}{{6,15}}', _any, told=True),
)
