"""The licence that a page names for itself, with what names it: see `words`."""

from collections.abc import Iterator
import json
import re
from typing import Any

from gptjax.data.origin import optout, spdx, words

from_text = words.from_text
_LINKED = re.compile(r'licen[sc]e|creativecommons\.org|public domain|dc\.rights', re.I)
_META = ('dc.rights', 'dcterms.rights', 'dcterms.license', 'dc.rights.license',
         'license', 'licence', 'rights', 'cc:license', 'schema:license')  # fmt: skip
# What stands in these is licensed by what stands in them: pictures, comments, quotes.
_PART = re.compile(
    r'caption|thumb|gallery|credit|comment|image|photo|figure|widget|sidebar|related'
    r'|embed|footnote|result',
    re.I,
)
_PART_TAGS = (
    'figure', 'figcaption', 'picture', 'blockquote', 'q', 'aside', 'code', 'pre',
)  # fmt: skip
_CELLS = ('li', 'td', 'tr', 'dd', 'dt')  # outside of footers: one thing of several
_MEDIA = re.compile(r'image|video|audio|media|photo|software|product|person', re.I)
_FOOT = re.compile(
    r'foot(?!note|ball|age|print|wear)|licen[sc]e|copyright|colophon', re.I
)
_OWN = re.compile(r'^\W*(?:licen[sc]e|cc\b|©|copyright|\(c\))|©', re.I)
_PICTURE = re.compile(
    r'\b(?:photos?|images?|pictures?|illustrations?|icons?|video|music|fonts?)\b', re.I
)
_NEGATED = re.compile(r'\b(?:not|never|no longer|unlike)\b', re.I)
_BUTTON = re.compile(r'licen|creativecommons|\bcc\b|cc[-_]|by[-_]|88x31|80x15', re.I)
_OTHER = re.compile(r'this (?:[\w-]+ ){0,2}(?:software|program|library|package|module)')


def from_html(html: str) -> words.Found | None:
    """(SPDX licence, what says so) of a page, or None where nothing says one.

    The head speaks first (rel=license, DC and DCTERMS rights, schema.org), then links
    with rel=license and itemprop=license, then links to Creative Commons in footers and
    in statements about the page, then the words of footers. What belongs to a picture,
    a comment or a quotation on the page does not license the page.
    """
    if not _LINKED.search(html):
        return None
    document = optout.parsed(html).document
    if document is None:
        return None
    return words.first(*(kind(document) for kind in (_head, _marked, _links, _words)))


def _head(document: Any) -> Iterator[words.Found]:
    for node in _nodes(document, 'link[rel~="license" i]'):
        yield from _valued('link rel=license', node.getattr('href'))
    for node in _nodes(document, 'meta[content]', 50):
        name = (node.getattr('name') or node.getattr('property') or '').lower()
        if name in _META:
            yield from _valued(f'meta {name}', node.getattr('content'))
    for node in _nodes(document, 'script[type="application/ld+json" i]'):
        try:
            yield from _schema(json.loads(node.text))
        except (ValueError, RecursionError):
            continue


def _schema(value: Any) -> Iterator[words.Found]:
    if isinstance(value, list):
        for one in value:
            yield from _schema(one)
    elif isinstance(value, dict) and not _MEDIA.search(str(value.get('@type', ''))):
        licence = value.get('license')
        if isinstance(licence, dict):
            licence = licence.get('@id') or licence.get('url')
        for one in licence if isinstance(licence, list) else [licence]:
            yield from _valued('schema.org license', one)
        for key in ('@graph', 'mainEntity'):
            yield from _schema(value.get(key))


def _valued(name: str, value: Any) -> Iterator[words.Found]:
    """The licence that a value names by its address, its name or a statement."""
    if not isinstance(value, str) or not value.strip():
        return
    licence = spdx.parse(value.strip())
    if licence == spdx.UNKNOWN and (said := words.from_text(value)):
        licence = said[0]
    elif licence == spdx.UNKNOWN and 'all rights reserved' in value.lower():
        licence = spdx.parse('all rights reserved')
    if licence != spdx.UNKNOWN:
        yield licence, f'{name} {" ".join(value.split())}'[:200]


def _marked(document: Any) -> Iterator[words.Found]:
    selector = (
        'a[rel~="license" i], [itemprop~="license" i], [property="dct:license" i]'
    )
    for node in _nodes(document, selector):
        if not _of_part(node):
            value = node.getattr('href') or node.getattr('content') or node.text
            said = list(_valued('rel=license', value))
            yield from said or [(spdx.UNKNOWN, 'rel=license')]


def _links(document: Any) -> Iterator[words.Found]:
    for node in _nodes(document, 'a[href*="creativecommons.org/" i]'):
        if not _of_part(node) and _about_page(node):
            yield from _valued('link', node.getattr('href'))


def _words(document: Any) -> Iterator[words.Found]:
    selector = 'footer, [class*="foot" i], [id*="foot" i], [class*="licen" i]'
    for node in _nodes(document, f'{selector}, [id*="licen" i]'):
        if _of_part(node) or not (node.tag == 'footer' or _FOOT.search(_label(node))):
            continue
        if node.query_selector('pre, code, blockquote, q') is None:
            said = words.from_text(node.text[: words.EDGE], footer=True)
            if said is not None and not _OTHER.match(said[1].lower()):
                yield said


def _nodes(document: Any, selector: str, most: int = 10) -> list[Any]:
    """The first and the last that match: a page may have 100,000 of them.

    For each the text around it is made, which takes 0.1 s where that is 5 MB.
    """
    found = document.query_selector_all(selector)[:]
    return [*found[:most], *found[most:][-most:]]


def _above(node: Any) -> Iterator[Any]:
    for _ in range(100):
        if node is None or node.tag in ('body', 'html', '#document'):
            return
        yield node
        node = node.parent


def _label(node: Any) -> str:
    return f'{node.getattr("class") or ""} {node.getattr("id") or ""}'


def _foot(node: Any) -> bool:
    return any(one.tag == 'footer' or _FOOT.search(_label(one)) for one in _above(node))


def _around(node: Any) -> tuple[str, str]:
    """What its parent says before and after it."""
    whole = (node.parent.text or '')[:2000] if node.parent is not None else ''
    before, _, after = whole.partition(node.text or '\0')
    return before[-300:], after[:60]


def _of_part(node: Any) -> bool:
    """Whether a licence link is about a picture, a comment or a quotation."""
    before, after = _around(node)
    if _PICTURE.search(before) or _PICTURE.search(after) or _NEGATED.search(before):
        return True
    cells = () if _foot(node) else _CELLS
    for depth, one in enumerate(_above(node)):
        kind = (one.getattr('itemtype') or '').rpartition('/')[2]
        if one.tag in (*_PART_TAGS, *cells) or _PART.search(_label(one)):
            return True
        if _MEDIA.search(kind) or (cells and depth < 3 and _pictured(one)):
            return True
    return False


def _pictured(node: Any) -> bool:
    """Whether a short piece of a page has a picture that is no button of a licence."""
    pictures = [*node.query_selector_all('img')[:5]] if len(node.text) < 400 else []
    beside = node.prev
    if beside is not None and beside.tag == 'img':
        pictures.append(beside)
    return any(
        not _BUTTON.search(f'{one.getattr("src")} {one.parent.getattr("href")}')
        for one in pictures
    )


def _about_page(node: Any) -> bool:
    """Whether a link without rel=license stands in a footer or says 'this work'."""
    if _foot(node):
        return True
    parent = node.parent
    around = ' '.join((parent.text or '')[:400].split()) if parent is not None else ''
    if parent is not None and parent.tag == 'body':
        return around == ' '.join((node.text or '').split())  # a page of one link
    stated = (*words.UNDER.finditer(around), *words.DOMAIN.finditer(around))
    return bool(_OWN.search(around)) or any(
        words.statement(around, *match.span()) for match in stated
    )
