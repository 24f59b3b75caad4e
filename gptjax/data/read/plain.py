"""Text and HTML: a file is a document, whatever its encoding."""

import re

from gptjax.data import extras
from gptjax.data.read import item as item_lib

_MARKS = {
    b'\xef\xbb\xbf': 'utf-8', b'\xff\xfe\0\0': 'utf-32', b'\0\0\xfe\xff': 'utf-32',
    b'\xff\xfe': 'utf-16', b'\xfe\xff': 'utf-16',
}  # fmt: skip
_CONTROLS = bytes(set(range(32)) - set(b'\t\n\r\f\x1b'))
# Of 1,000 characters of a page, how many may be undecodable: browsers show such pages.
_LOST = 5


def read(item: item_lib.Item) -> item_lib.Found:
    """The text of a file."""
    yield item.document(item.name, text=decode(item.whole()))


def html(item: item_lib.Item) -> item_lib.Found:
    """A page; `extract` makes text of it."""
    page = decode(item.whole(), html=True)
    yield item.document(item.name, text=page, media='text/html')


def decode(data: bytes, declared: str | None = None, html: bool = False) -> str | None:
    """The text of these bytes, or None where no encoding fits.

    In this order: a byte order mark; UTF-8 if it is valid, for text of another encoding
    hardly ever is; `declared`, as the header of a page has it; what a meta element says
    or what the bytes look like. Only pages may hold a few characters that do not decode
    (U+FFFD). A declared ISO-2022, whose bytes are all ASCII, goes before UTF-8.
    """
    encoding = extras.need('resiliparse.parse.encoding', 'data')
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            marked = _fitting(data, name)
            return marked and marked.removeprefix('\ufeff')
    known = None  # by the names of WHATWG, so that no other codec of Python is reached
    if declared:
        known = encoding.map_encoding_to_html5(declared.strip(), fallback_utf8=False)
    first = () if known and known.startswith('iso2022') else ('utf-8',)
    for name in (*first, known):
        if name and (text := _fitting(data, name)) is not None:
            return text
    guess = encoding.detect_encoding(data, max_len=1 << 16, from_html_meta=html)
    if guess and (text := _fitting(data, guess)) is not None:
        return text
    if html and not _binary(data):
        page = data.decode(known or guess or 'utf-8', 'replace')
        if 1000 * page.count('\ufffd') <= _LOST * len(page):
            return page
    return None


def _fitting(data: bytes, encoding: str) -> str | None:
    """The text, if all of it decodes, and to characters."""
    try:
        text = data.decode(encoding)
    except (UnicodeError, LookupError):
        return None
    wide = encoding.startswith(('utf-16', 'utf-32', 'iso2022'))
    return text if wide or not _binary(data) else None


def _binary(data: bytes) -> bool:
    """Whether more than 1 % are control characters, or any is NUL."""
    return b'\0' in data or (
        100 * (len(data) - len(data.translate(None, _CONTROLS))) > len(data)
    )


# Elements that end by themselves do not nest.
_NAMES = """
area base body br col colgroup dd dt embed head hr html img input li link meta optgroup
option p rp rt source tbody td tfoot th thead tr track wbr
"""
_FLAT = frozenset(_NAMES.split())
_TAG = re.compile(r'<(/?)([a-zA-Z][a-zA-Z0-9-]*)(?=[\s/>])')
_DEPTH = 512


def nested(page: str) -> bool:
    """Whether elements lie in one another more than 512 deep.

    Browsers stop there too. The time of resiliparse grows with the square of the depth:
    100,000 elements in one another take it 5 minutes.
    """
    if page.count('<') < _DEPTH:
        return False
    depth = 0
    for slash, name in _TAG.findall(page):
        if name.lower() not in _FLAT:
            depth = max(depth - 1, 0) if slash else depth + 1
            if depth > _DEPTH:
                return True
    return False
