"""Books: EPUB, and the source folders of which Standard Ebooks makes them."""

from collections.abc import Callable, Collection, Mapping
import posixpath
import re
from typing import Any
from urllib import parse
from xml.etree import ElementTree

from gptjax.data import documents, extras
from gptjax.data.origin import detect
from gptjax.data.read import item as item_lib
from gptjax.data.read import plain

_PACKAGE_SIZE = 4 << 20  # bytes
_PACKAGE = '{http://www.idpf.org/2007/opf}'
_RIGHTS = '{http://purl.org/dc/elements/1.1/}rights'
_LANGUAGE = '{http://purl.org/dc/elements/1.1/}language'

# Elements that XHTML may close at once, and HTML may not.
_CLOSED = re.compile(r'<(?!br|hr|img|link|meta|col|wbr)([a-zA-Z][\w:-]*+)([^<>]*)/>')

Fetch = Callable[[Collection[str]], Mapping[str, bytes]]


def read(item: item_lib.Item, opf: str, fetch: Fetch) -> item_lib.Found:
    """The book in the order of its spine, as one document or one a chapter.

    opf: the name of its package (EPUB 3.3, section 5). fetch: the bytes of members by
    their names. dc:rights counts before the licence that the item comes with.
    """
    root = _xml(fetch([opf])[opf])
    hrefs = {one.get('id'): one.get('href', '') for one in root.iter(f'{_PACKAGE}item')}
    folder = posixpath.dirname(opf)
    # Each chapter once: a small package may name one a million times.
    spine = dict.fromkeys(
        posixpath.normpath(posixpath.join(folder, parse.unquote(hrefs[ref])))
        for one in root.iter(f'{_PACKAGE}itemref')
        if (ref := one.get('idref')) in hrefs
    )
    rights = ''.join(root.findtext(f'.//{_RIGHTS}') or '').strip()
    told = detect.from_text(rights)
    fields: dict[str, Any] = {}
    if told is not None:
        fields = {'licence': told[0], 'evidence': f'dc:rights: {told[1]}'}
    language = (root.findtext(f'.//{_LANGUAGE}') or '').strip().lower()[:2]
    fields['language'] = language if len(language) == 2 else None
    extract = extras.need('resiliparse.extract.html2text', 'data').extract_plain_text
    contents = fetch(spine)
    chapters = []
    for name in spine:
        page = plain.decode(contents.get(name, b''), html=True)
        page = _CLOSED.sub(r'<\1\2></\1>', page or '')
        if name not in contents or not page or plain.nested(page):
            yield documents.Skipped(f'{item.name}/{name}', 'broken or missing chapter')
            continue
        chapters.append((name, extract(page, alt_texts=False)))
    if item.options.books == 'chapter':
        for name, text in chapters:
            yield item.document(f'{item.name}/{name}', text=text, **fields)
    else:
        text = '\n\n'.join(text for _, text in chapters)
        yield item.document(item.name, text=text, **fields)


def _xml(data: bytes) -> ElementTree.Element:
    """The tree of a package; `Broken` for one that is large or declares entities."""
    if b'<!ENTITY' in data or b'\0' in data or len(data) > _PACKAGE_SIZE:
        raise item_lib.Broken('broken package')
    return ElementTree.fromstring(data)
