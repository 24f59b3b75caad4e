"""The licence that a page or a text names for itself, with what names it.

Only what speaks of the work itself counts: 'this document is licensed under ...', not
'the company released its model under ...'. Where several licences are found on the
strongest kind of evidence, all of them hold: 'A AND B' is allowed only where both are.
"""

from collections.abc import Iterable, Iterator
import json
import re
from typing import Any

from gptjax.data.origin import optout, spdx, texts

Found = tuple[str, str]  # licence, evidence

_HINTS = (
    'licen', 'public domain', 'free of charge', 'redistribution', 'gutenberg',
    'creative commons', 'permission', 'cc0', 'cc by', 'cc-by', '许可证',
)  # fmt: skip
_ENDS = 60_000  # characters of a long text's head and tail that are read
_HEAD = 3000
_LEADER = re.compile(r'^[ \t]*(?:[#*;%!>]+|//+|/\*+|\.\.|--|REM\b)+[ \t]*', re.M)
_SPDX = re.compile(r'SPDX-License-Identifier:[ \t]*([^\n\r*>"\']{2,200})')
_WORK = (
    r'(?:this|the present) (?:[\w-]+ ){0,2}?(?:article|book|code|content|corpus|data'
    r'|database|dataset|document|documentation|ebook|file|form|guide|library|material'
    r'|module|page|p\.?e\.?p\.?|package|paper|poem|post|program|project|publication'
    r'|repository|report|script|site|software|specification|story|text|translation'
    r'|website|wiki|work)s?'
)
_DOMAIN = re.compile(
    rf'\b{_WORK} (?:is|are|has been|have been) (?:hereby )?(?!no)(?:\w+ )?'
    r'(?:(?:in|into|to) )?the public domain(.{0,60})',
    re.I,
)
_UNDER = re.compile(
    rf'(?:\b{_WORK}|(?:^|[.;:,|] )(?:(?:the|all|our) )?(?:contents?|text|materials?'
    r'|data)(?: (?:of|on|in|from) (?:this|our) [\w-]+)?)'
    r'(?: (?:is|are|was|were|has|have|may|can|be|been)){1,3}(?: \w+){0,2}? '
    r'(?:(?:only )?subject to|under|through)(?: (?:the|all))?'
    r'(?: terms(?: and conditions)?(?: set forth in| of))? (?=(.{2,160}))'
    r'|(?:^|[.;] )(?:dual[- ])?licen[sc]ed under(?: the terms of)? (?=(.{2,160}))',
    re.I,
)
_GNU = re.compile(
    r'\bunder the terms of (?:version (\d(?:\.\d)?) of )?the GNU ((?:(?:Affero |Lesser '
    r'|Library )?General Public|Free Documentation) License)'
    r'(?=(.{0,120}published by.{0,99}))',
    re.I,
)
_VERSION = re.compile(
    r'version (\d(?:\.\d)?)(?: of the licen[sc]e)?,?( or (?:\(at your option\) )?any '
    r'later)?',
    re.I,
)
_BEFORE = re.compile(
    r'^(?:(?:dual[- ])?licensed under\s+)?(?:(?:an?|the|either(?: of)?|terms of)\s+)*',
    re.I,
)
_BUT = re.compile(
    r'\W*(?:non|no\b|nc\b|nd\b|sa\b|share|but\b|with\b|only\b|(?:for|in) '
    r'(?:non|personal|research|academic)|except(?! (?:where|as|when)\b))',
    re.I,
)
_LINE = re.compile(r'^\W{0,6}licen[sc]e[\s*_]*:[\s*_]*(\S.{1,80})$', re.I | re.M)
_HEADING = re.compile(
    r'(?:^#+[ \t]*licen[sc]e[ \t:#]*|^licen[sc]e[ \t]*\n[=~-]{3,})\n+(.{2,160})',
    re.I | re.M,
)
_GUTENBERG = re.compile(
    r'under the terms of the Project Gutenberg Licen[sc]e included'
    r'|is a "public domain" work distributed by Professor',
    re.I,
)
_COPYRIGHTED = re.compile(r'COPYRIGHTED Project Gutenberg|\[\*\] This particular work')
_EBOOKS = 'ebook are believed to be in the united states public domain'


def from_text(text: str) -> Found | None:
    """(SPDX licence, the words that say so), or None where nothing says one.

    Reads, in this order: SPDX-License-Identifier lines of the head, the whole texts of
    licences, statements of the work about itself, and lines 'License: ...'.
    """
    if len(text) > 2 * _ENDS:
        text = f'{text[:_ENDS]}\n{text[-_ENDS:]}'
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):
        return None
    ids = [one.strip(' -\t') for one in _SPDX.findall(text[:_HEAD])]
    if ids:
        return _all([(spdx.parse(x), f'SPDX-License-Identifier: {x}') for x in ids])
    whole = texts.identify(text)
    if whole:
        return _all([(one, f'the text of {one}') for one in whole])
    plain = ' '.join(re.sub(r'[`_]+', '', _LEADER.sub('', text)).split())
    return _all(_statements(plain)) or _all(_named(text)) or _library(plain)


def _all(found: Iterable[Found]) -> Found | None:
    """One for all that was found; None for nothing, or where any is unknown."""
    kept = dict(reversed(list(found)))
    if not kept or spdx.UNKNOWN in kept:
        return None
    ids = sorted(kept)
    joined = ids[0]
    if len(ids) > 1:
        joined = spdx.parse(' AND '.join(f'({one})' for one in ids))
    return joined, '; '.join(kept[one] for one in ids)[:300]


def _near(word: str, pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Where `pattern` stands around a word: the rest of a long text is not tried."""
    for place in re.finditer(word, text, re.I):
        found = pattern.search(text, max(0, place.start() - 200), place.end() + 300)
        if found is not None:
            yield found


def _statements(plain: str) -> Iterator[Found]:
    for match in _near(r'public domain', _DOMAIN, plain):
        rest = match[1].lower()
        licence = spdx.PUBLIC_DOMAIN
        if 'cc0' in rest and ' or ' in rest:
            licence = f'{licence} OR CC0-1.0'
        elif 'cc0' in rest:
            licence = 'CC0-1.0'
        yield licence, match[0][:160]
    gnu = [_gnu(match) for match in _near(r'\bthe GNU\b', _GNU, plain)]
    yield from gnu
    for match in _near(r'\b(?:under|subject to|through)\b', _UNDER, plain):
        words = match[1] or match[2]
        named = _prefix(words)
        if named and not (gnu and 'GNU' in words):
            yield named, (match[0] + words)[:160].strip()


def _gnu(match: re.Match[str]) -> Found:
    version = _VERSION.search(match[3])
    number = match[1] or (version[1] if version else '')
    later = '+' if version and version[2] else ''
    said = (match[0] + match[3])[:160]
    return spdx.parse(f'GNU {match[2]} {number}{later}'), said


def _prefix(words: str) -> str | None:
    """The licence that the first of these words name: as many words as possible.

    None where what follows takes some of it away: 'CC BY 4.0 (non-commercial use)'.
    """
    parts = _BEFORE.sub('', words).split()[:14]
    for count in range(len(parts), 0, -1):
        found = spdx.parse(' '.join(parts[:count]).strip('.,;:()[]*<>'))
        if found != spdx.UNKNOWN:
            return None if _BUT.match(' '.join(parts[count:])) else found
    return None


def _named(text: str) -> Iterator[Found]:
    """What lines 'License: NAME' and sections with that heading say."""
    for match in _LINE.finditer(text):
        licence = spdx.parse(match[1].strip())
        if licence != spdx.UNKNOWN:
            yield licence, match[0].strip()
    for match in _HEADING.finditer(text):
        named = _prefix(re.sub(r'[*_`\[\]]', '', match[1]))
        if named:
            yield named, ' '.join(match[0].split())


def _library(plain: str) -> Found | None:
    """Project Gutenberg and Standard Ebooks: in the public domain of the USA."""
    if _EBOOKS in plain.lower() and 'CC0 1.0' in plain:
        return f'{spdx.PUBLIC_DOMAIN} AND CC0-1.0', f'this {_EBOOKS}'
    match = _GUTENBERG.search(plain)
    if match is None or _COPYRIGHTED.search(plain):
        return None
    return spdx.PUBLIC_DOMAIN, match[0]


_LINKED = re.compile(r'licen[sc]e|creativecommons\.org|public domain|dc\.rights', re.I)
_META = ('dc.rights', 'dcterms.rights', 'dcterms.license', 'dc.rights.license',
         'license', 'licence', 'rights', 'cc:license', 'schema:license')  # fmt: skip
# What stands in these is licensed by what stands in them: pictures, comments, quotes.
_PARTS = re.compile(
    r'caption|thumb|gallery|credit|comment|image|photo|figure|widget|sidebar|related'
    r'|embed',
    re.I,
)
_PART_TAGS = ('figure', 'figcaption', 'picture', 'blockquote', 'aside', 'code', 'pre')
_MEDIA = re.compile(r'image|video|audio|media|photo|software|product|person', re.I)
_FOOT = re.compile(r'foot|licen[sc]e|copyright|colophon|rights', re.I)
_OWN = re.compile(r'^\W*(?:licen[sc]e|cc\b|©|copyright|\(c\))|©', re.I)
_PICTURE = re.compile(
    r'\b(?:photos?|images?|pictures?|illustrations?|icons?|video|music|font)\b', re.I
)


def from_html(html: str) -> Found | None:
    """(SPDX licence, what says so) of a page, or None where nothing says one.

    The head speaks first (rel=license, DC and DCTERMS rights, schema.org), then links
    with rel=license and itemprop=license, then links to Creative Commons in footers and
    in statements about the page, then the words of footers. What belongs to a picture,
    a comment or a quotation on the page does not license the page.
    """
    if not _LINKED.search(html):
        return None
    tree = optout.parsed(html)
    document = tree.document
    if document is None:
        return None
    for kind in (_head, _marked, _links, _words):
        found = _all(kind(document))
        if found is not None:
            return found
    return None


def _head(document: Any) -> Iterator[Found]:
    for node in _nodes(document, 'link[rel~="license" i]'):
        yield from _valued('link rel=license', node.getattr('href'))
    for node in _nodes(document, 'meta[content]'):
        name = (node.getattr('name') or node.getattr('property') or '').lower()
        if name in _META:
            yield from _valued(f'meta {name}', node.getattr('content'))
    for node in _nodes(document, 'script[type="application/ld+json" i]'):
        try:
            value = json.loads(node.text)
            yield from _schema(value)
        except (ValueError, RecursionError):
            continue


def _schema(value: Any) -> Iterator[Found]:
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


def _valued(name: str, value: Any) -> Iterator[Found]:
    """The licence that a value names by its address, its name or a statement."""
    if not isinstance(value, str) or not value.strip():
        return
    licence = spdx.parse(value.strip())
    said = from_text(value) if licence == spdx.UNKNOWN else None
    if said is not None:
        licence = said[0]
    if licence != spdx.UNKNOWN:
        yield licence, f'{name} {" ".join(value.split())}'[:200]


def _marked(document: Any) -> Iterator[Found]:
    selector = (
        'a[rel~="license" i], [itemprop~="license" i], [property="dct:license" i]'
    )
    for node in _nodes(document, selector):
        if not _of_part(node):
            value = node.getattr('href') or node.getattr('content') or node.text
            yield from _valued('rel=license', value)


def _links(document: Any) -> Iterator[Found]:
    for node in _nodes(document, 'a[href*="creativecommons.org/" i]'):
        if not _of_part(node) and _about_page(node):
            yield from _valued('link', node.getattr('href'))


def _words(document: Any) -> Iterator[Found]:
    selector = 'footer, [class*="foot" i], [id*="foot" i], [class*="licen" i]'
    for node in _nodes(document, f'{selector}, [id*="licen" i]'):
        said = None if _of_part(node) else from_text(node.text[:5000])
        if said is not None:
            yield said


def _nodes(document: Any, selector: str) -> list[Any]:
    """The first and the last that match: a page may have 100,000 of them."""
    found = document.query_selector_all(selector)[:]
    return [*found[:50], *found[50:][-50:]]


def _above(node: Any) -> Iterator[Any]:
    for _ in range(100):
        if node is None or node.tag in ('body', 'html', '#document'):
            return
        yield node
        node = node.parent


def _label(node: Any) -> str:
    return f'{node.getattr("class") or ""} {node.getattr("id") or ""}'


def _of_part(node: Any) -> bool:
    """Whether a licence link is about a picture, a comment or a quotation."""
    before = (node.parent.text or '')[:300] if node.parent is not None else ''
    if _PICTURE.search(before.partition(node.text or '\0')[0]):
        return True
    return any(
        one.tag in _PART_TAGS
        or _PARTS.search(_label(one))
        or _MEDIA.search((one.getattr('itemtype') or '').rpartition('/')[2])
        for one in _above(node)
    )


def _about_page(node: Any) -> bool:
    """Whether a link without rel=license stands in a footer or says 'this work'."""
    if any(one.tag == 'footer' or _FOOT.search(_label(one)) for one in _above(node)):
        return True
    around = ' '.join((node.parent.text or '')[:400].split()) if node.parent else ''
    own = ' '.join((node.text or '').split())
    return around == own or bool(
        _OWN.search(around) or _UNDER.search(around) or _DOMAIN.search(around)
    )
