"""What asks for a page to be left out of training: headers, HTML, and a step.

robots.txt, ai.txt and tdmrep.json speak for a whole site: see `site.py`.
"""

from collections.abc import Mapping
import re
from typing import Any

from gptjax.data import extras

# Words of X-Robots-Tag and <meta name="robots">: none of them is in a standard.
_NO_AI = re.compile(
    r'(?<![\w-])(?:noai|noimageai|noml|notrain|disallowaitraining)(?![\w-])', re.I
)
# The IETF's AI preferences (draft-ietf-aipref-attach): Content-Usage: train-ai=n, and
# Content-Signal: ai-train=no, which is the same in robots.txt alone.
_USAGE = re.compile(
    r'(?<![\w-])(?:bots|train-ai|train-genai|ai-train|tdm)\s*=\s*"?n(?:o\b|\b)', re.I
)
_IN_HTML = re.compile(f'{_NO_AI.pattern}|tdm-reservation|content-usage', re.I)
_RESERVED = re.compile(r'\s*1(?![\w.])')


def usage(value: str) -> bool:
    """Whether a Content-Usage or Content-Signal forbids training."""
    return _USAGE.search(value) is not None


def from_headers(headers: Mapping[str, str]) -> str | None:
    """What the headers of a response ask: 'noai', 'tdmrep', 'content-usage' or None.

    X-Robots-Tag: noai, noimageai or noml, also where it is addressed to one robot;
    TDM-Reservation: 1 (W3C TDMRep, section 7); Content-Usage: train-ai=n.
    """
    found = {name.lower(): value for name, value in headers.items()}
    if _NO_AI.search(found.get('x-robots-tag', '')):
        return 'noai'
    if _RESERVED.match(found.get('tdm-reservation', '')):
        return 'tdmrep'
    return 'content-usage' if usage(found.get('content-usage', '')) else None


def parsed(html: str) -> Any:
    """The tree of a page, in which comments and scripts are no elements."""
    parse = extras.need('resiliparse.parse.html', 'data').HTMLTree.parse_from_bytes
    return parse(html.encode('utf-8', 'replace'), 'utf-8')


def from_html(html: str) -> str | None:
    """What the meta elements of a page ask: as the headers of the same names do.

    <meta name="robots" content="noai">, also with the name of one robot, and
    <meta name="tdm-reservation" content="1"> (W3C TDMRep, section 8).
    """
    if not _IN_HTML.search(html):
        return None
    tree = parsed(html)
    headers: dict[str, list[str]] = {}
    # The slice: 1,000 nodes one by one take 4 s, for each is looked for again.
    for meta in tree.document.query_selector_all('meta[content]')[:]:
        name = (meta.getattr('name') or meta.getattr('http-equiv') or '').lower()
        robots = name == 'x-robots-tag' or 'robots' in name or name.endswith('bot')
        value = meta.getattr('content') or ''
        headers.setdefault('x-robots-tag' if robots else name, []).append(value)
    return from_headers({name: ', '.join(found) for name, found in headers.items()})
