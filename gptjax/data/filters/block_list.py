"""Hosts, addresses and words that you do not want, from lists of your own.

The rules for addresses are those of RefinedWeb (Penedo et al., 2023, appendix G.1) as
datatrove 0.10 has them (filters/url_filter.py). Time does not grow with the lists.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
import re
import urllib.parse

from gptjax import command
from gptjax.data import documents, steps
from gptjax.data.filters import page

_DIVIDES = re.compile('[^a-z0-9]+')
# Labels under which countries register names: example.co.uk is one name.
_SECOND = frozenset(('ac', 'co', 'com', 'edu', 'gob', 'gov', 'ne', 'net', 'or', 'org'))


def read(path: str) -> list[str]:
    """The lines of a list, without blank ones and those that begin with '#'.

    Raises UserError for a file that is missing or not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise command.UserError(
            f'the list {path!r} cannot be read ({error}); name a text file in UTF-8 '
            'with an entry a line, or None.'
        ) from None
    return [entry for line in lines if (entry := line.strip()) and entry[0] != '#']


def block_list(
    *, hosts: str | None, urls: str | None, hard: str | None, soft: str | None,
    soft_least: int, strict: str | None, words: str | None,
) -> steps.Step:  # fmt: skip
    """The step; each list is a file of yours, or None.

    hosts: rejects their addresses, and those of hosts under a registered name
    ('danger.org' also news.danger.org, 'bad.nice.com' itself alone); what was
    registered is told by the last labels, without the public suffix list.
    urls: whole addresses. hard: words of an address, divided at what is no letter or
    digit. soft: `soft_least` different ones of them. strict: also inside of words and
    across what divides them. words: words or phrases of the text, in any case.
    """
    lists = {
        'host': hosts, 'hard': hard, 'soft': soft, 'strict': strict, 'word': words,
    }  # fmt: skip
    entries = {
        name: [] if path is None else [line.lower() for line in read(path)]
        for name, path in lists.items()
    }
    known = frozenset(entries['host'])
    addresses = frozenset(() if urls is None else read(urls))
    whole, several, inside = (
        frozenset(_DIVIDES.sub('', word) for word in entries[name]) - {''}
        for name in ('hard', 'soft', 'strict')
    )
    sizes = sorted(set(map(len, inside)))
    phrases = _phrases(entries['word'])

    def judge(url: str) -> documents.Reject | None:
        host = _host(url)
        if registered(host) in known:
            return documents.Reject('domain', registered(host))
        if host in known:
            return documents.Reject('host', host)
        if url in addresses:
            return documents.Reject('url', url)
        parts = set(_DIVIDES.split(url.lower()))
        if found := sorted(whole & parts):
            return documents.Reject('hard_word', found[0])
        if several and len(several & parts) >= soft_least:
            return documents.Reject('soft_words', float(len(several & parts)))
        text = _DIVIDES.sub('', url.lower())
        for size in sizes:
            for start in range(len(text) - size + 1):
                if text[start : start + size] in inside:
                    return documents.Reject('strict_word', text[start : start + size])
        return None

    def step(document: documents.Document) -> steps.Result:
        if document.url is not None and (reject := judge(document.url)):
            return reject
        if phrases and (phrase := _phrase(page.page(document.whole).words, phrases)):
            return documents.Reject('word', phrase)
        return document

    return step


def registered(host: str) -> str:
    """The name that was registered: the last two labels, or three: example.co.uk."""
    labels = host.split('.')
    country = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SECOND
    return '.'.join(labels[-3 if country else -2 :])


def _host(url: str) -> str:
    try:
        return urllib.parse.urlsplit(url).hostname or ''
    except ValueError:  # a bracket that is no IPv6 address
        return ''


def _phrases(entries: Iterable[str]) -> dict[str, list[list[str]]]:
    """Each entry as words, by its first."""
    found: dict[str, list[list[str]]] = {}
    for words in map(page.words, entries):
        found.setdefault(words[0], []).append(words)
    return found


def _phrase(words: Sequence[str], phrases: dict[str, list[list[str]]]) -> str | None:
    lower = [word.lower() for word in words]
    if phrases.keys().isdisjoint(lower):
        return None
    for place, word in enumerate(lower):
        for phrase in phrases.get(word, ()):
            if lower[place : place + len(phrase)] == phrase:
                return ' '.join(phrase)
    return None
