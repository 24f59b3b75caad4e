"""Hosts, addresses and words that you do not want, from lists of your own.

The rules for addresses are those of RefinedWeb (Penedo et al., 2023, appendix G.1) as
datatrove 0.10 has them (filters/url_filter.py). Time does not grow with the lists.
"""

from pathlib import Path
import re
import urllib.parse

from gptjax import command
from gptjax.data import documents, steps
from gptjax.data.filters import page

_DIVIDES = re.compile('[^a-z0-9]+')


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

    hosts: rejects their addresses, and those of hosts below ('danger.org' also
    news.danger.org). datatrove finds such only below names that were registered, and so
    needs the list of public suffixes.
    urls: whole addresses. hard: words of an address, divided at what is no letter or
    digit. soft: `soft_least` different ones of them. strict: also inside of words and
    across what divides them. words: words or phrases of the text, in any case.
    """

    def entries(path: str | None) -> list[str]:
        return [] if path is None else read(path)

    def parts_of(path: str | None) -> frozenset[str]:
        return frozenset(map(_plain, entries(path))) - {''}

    known = frozenset(entry.lower().strip('.') for entry in entries(hosts)) - {''}
    addresses = frozenset(entries(urls))
    whole, several, inside = map(parts_of, (hard, soft, strict))
    sizes = sorted(set(map(len, inside)))
    phrases = frozenset(map(_words, entries(words)))
    phrase_sizes: dict[str, set[int]] = {}
    for phrase in phrases:
        phrase_sizes.setdefault(phrase[0], set()).add(len(phrase))

    def of_address(url: str) -> documents.Reject | None:
        if found := [host for host in _hosts(url) if host in known]:
            return documents.Reject('host', found[0])
        if url in addresses:
            return documents.Reject('url', url)
        parts = set(_DIVIDES.split(url.lower()))
        if found := sorted(whole & parts):
            return documents.Reject('hard_word', found[0])
        if several and len(several & parts) >= soft_least:
            return documents.Reject('soft_words', float(len(several & parts)))
        text = _plain(url)
        for size in sizes:
            for start in range(len(text) - size + 1):
                if text[start : start + size] in inside:
                    return documents.Reject('strict_word', text[start : start + size])
        return None

    def of_text(text: str) -> documents.Reject | None:
        lower = _words(text)
        if phrase_sizes.keys().isdisjoint(lower):
            return None
        for place, word in enumerate(lower):
            for size in sorted(phrase_sizes.get(word, ())):
                if (phrase := lower[place : place + size]) in phrases:
                    return documents.Reject('word', ' '.join(phrase))
        return None

    def step(document: documents.Document) -> steps.Result:
        if document.url is not None and (reject := of_address(document.url)):
            return reject
        if phrases and (reject := of_text(document.whole)):
            return reject
        return document

    return step


def _plain(address: str) -> str:
    return _DIVIDES.sub('', address.lower())


def _words(text: str) -> tuple[str, ...]:
    return tuple(map(str.lower, page.words(text)))


def _hosts(url: str) -> list[str]:
    """The host of an address, and the names that it is below, of at most 127 labels."""
    try:
        host = urllib.parse.urlsplit(url).hostname or ''
    except ValueError:  # a bracket that is no IPv6 address
        return []
    labels = host.strip('.').split('.')[-127:]
    return ['.'.join(labels[start:]) for start in range(len(labels))]
