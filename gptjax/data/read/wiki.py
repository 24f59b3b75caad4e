"""Dumps of MediaWiki (pages-articles.xml), an article at a time, as plain text.

The wikitext is taken apart here, in one pass: on unclosed templates and tags
mwparserfromhell needs time that grows with the square of the page and beyond (8,000
times '{{a|' do not end in minutes).
"""

from collections.abc import Iterator
import html
import io
import re
from typing import Any
from urllib import parse
from xml.etree import ElementTree

from gptjax.data.read import item as item_lib

# Bytes of a page with its revisions: dumps of articles have one, and MediaWiki itself
# allows 2 MiB of it ($wgMaxArticleSize).
_PAGE = 16 << 20
_CHUNK = 1 << 16
_DEPTH = 40  # of brackets in one another
_SPACES = {'6', '14'}  # of files and categories

_TOKEN = re.compile(
    r'\{\{|\}\}|^[ \t:]*\{\||^[ \t]*\|\}|\[\[|\]\]|<!--|-->'
    r'|</?(?:ref|math|gallery|timeline|score|chem|imagemap|graph)\b[^<>]*>',
    re.M | re.I,
)
_OPEN = {'{{': '}}', '{|': '|}', '[[': ']]', '<!--': '-->'}
_TAG = re.compile(r'</?[a-z][^<>]*>', re.I)
_BREAK = re.compile(r'<(?:br|p|/p|li|/div|/blockquote)\b[^<>]*>', re.I)
_EXTERNAL = re.compile(r'\[(?:[a-z]{2,9}:)?//[^\s\[\]<>]*+[ \t]?([^\[\]\n]*)\]', re.I)
_QUOTES = re.compile(r"'{2,5}")
_SWITCH = re.compile(r'__[A-Z]{3,30}__')


def read(item: item_lib.Item) -> item_lib.Found:
    """The articles: pages of namespace 0 that are no redirects, the last revision.

    An article is called by the name of the database and its page number. When the dump
    was fetched it does not say, so `retrieved` stays None: the time of a revision is
    when it was written.
    """
    with item.stream() as stream:
        spaces, site = {'file', 'image', 'category'}, ElementTree.Element('siteinfo')
        for part in _parts(stream):
            if _local(part) == 'siteinfo':
                site = part
                for one in site.iter():
                    if one.get('key') in _SPACES and one.text:
                        spaces.add(one.text.lower())
            else:
                yield from _article(item, part, site, spaces)


def _parts(stream: io.BufferedIOBase) -> Iterator[Any]:
    """siteinfo and the pages; what is behind one is dropped before the next is read.

    No entity is declared in a dump, so one that has a document type is refused.
    """
    parser: Any = ElementTree.XMLPullParser(['start', 'end'])
    root, held = None, 0
    while data := stream.read(_CHUNK):
        if root is None and (b'<!' in data or b'\0' in data):
            raise item_lib.Broken('a document type, which dumps do not have')
        held += len(data)
        if held > _PAGE:
            raise item_lib.Broken('page too large')
        parser.feed(data)
        for event, element in parser.read_events():
            if root is None:
                root = element
                if _local(root) != 'mediawiki':
                    raise item_lib.Broken('no dump of MediaWiki')
            elif event == 'end' and _local(element) in ('siteinfo', 'page'):
                yield element
                root.clear()
                held = 0
    parser.close()


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition('}')[2]


def _article(
    item: item_lib.Item,
    page: ElementTree.Element,
    site: ElementTree.Element,
    spaces: set[str],
) -> item_lib.Found:
    found = {_local(one): one.text or '' for one in page}
    if found.get('ns', '0').strip() != '0' or 'redirect' in found:
        return
    texts = [one.text or '' for one in page.iter() if _local(one) == 'text']
    about = {_local(one): one.text or '' for one in site}
    title, text = found.get('title', ''), texts[-1] if texts else ''
    base, slash, _ = about.get('base', '').rpartition('/')
    name = about.get('dbname') or item.group
    yield item.document(
        f'{name}/{found.get("id") or title}',
        text=f'{title}\n\n{body}' if (body := plain(text, spaces)) else '',
        source=f'{item.group}/{name}',
        url=f'{base}/{parse.quote(title.replace(" ", "_"))}' if slash else None,
    )


def plain(wikitext: str, spaces: set[str]) -> str:
    """The text of an article without templates, tables, references, files and markup.

    spaces: prefixes, in lower case, of the links that are left out.
    """
    frames: list[tuple[str, list[str]]] = [('', [])]
    at = 0
    for token in _TOKEN.finditer(wikitext):
        frames[-1][1].append(wikitext[at : token.start()])
        at = token.end()
        _step(frames, token[0].lower().strip(' \t\n:'), spaces)
    parts = [''.join(parts) for _, parts in frames]
    return _tidy(''.join(parts) + wikitext[at:])


def _step(frames: list[tuple[str, list[str]]], token: str, spaces: set[str]) -> None:
    """Opens a frame, or closes the one that the token ends and all that are in it."""
    tag = token.strip('</>').partition(' ')[0].rstrip('/')
    if token in _OPEN:
        closer = _OPEN[token]
    elif token[:1] == '<' and token[1] not in '!/':
        closer = '' if token.endswith('/>') else f'/{tag}'
    else:
        closer = ''
        ending = f'/{tag}' if token[:2] == '</' else token
        at = max((i for i, f in enumerate(frames) if f[0] == ending), default=0)
        if at:
            inside = ''.join(frames[at][1])
            del frames[at:]
            if ending == ']]':
                frames[-1][1].append(_link(inside, spaces))
    if closer and len(frames) < _DEPTH:
        frames.append((closer, []))


def _link(inside: str, spaces: set[str]) -> str:
    target, bar, label = inside.partition('|')
    space, colon, _ = target.strip().partition(':')
    if colon and space.strip().lower() in spaces:
        return ''
    return label.rpartition('|')[2] if bar else target


def _tidy(text: str) -> str:
    text = _TAG.sub('', _BREAK.sub('\n', text))
    text = _EXTERNAL.sub(r'\1', _SWITCH.sub('', _QUOTES.sub('', text)))
    lines = [
        line.strip(' =') if line.startswith('=') else line.lstrip('*#:; ').rstrip()
        for line in html.unescape(text).split('\n')
    ]
    kept = [x for i, x in enumerate(lines) if x or (i and lines[i - 1])]
    return '\n'.join(kept).strip()
