"""Gopher's filter for quality (Rae et al., 2021, section A.1.1), as two read it.

A value of one variant cannot be compared with that of another: they divide texts into
words in other ways, and take the mean or the median, words or their occurrences.
"""

from collections.abc import Iterable, Mapping
import re
import statistics
from typing import Any

from gptjax import command
from gptjax.data.filters import rules
from gptjax.data.filters.page import Page

STOP_WORDS = frozenset(('the', 'be', 'to', 'of', 'and', 'that', 'have', 'with'))
# Letters first: a search for them is quick, one for the edge of a word is not.
_STOP_WORDS = [re.compile(rf'{x}(?!\w)(?<!\w{x})') for x in sorted(STOP_WORDS)]
_ELLIPSIS = '\u2026'


def _lettered(word: str) -> bool:
    return any(map(str.isalpha, word))


def _starting(lines: Iterable[str], marks: tuple[str, ...]) -> float:
    return statistics.fmean([line.startswith(marks) for line in lines] or [0])


def _ending(lines: Iterable[str], marks: tuple[str, ...]) -> float:
    return statistics.fmean([line.endswith(marks) for line in lines] or [0])


def _symbols(seen: Page, marks: tuple[str, ...], words: int) -> float:
    return rules.share(sum(map(seen.text.count, marks)), words)


# datatrove 0.10, filters/gopher_quality_filter.py: of FineWeb.
_DATATROVE: Mapping[str, rules.Measure] = {
    'words': lambda p: len(p.plain),
    'word_length': lambda p: rules.share(int(p.plain.sum()), len(p.plain)),
    'hashes': lambda p: _symbols(p, ('#',), len(p.lengths)),
    'ellipses': lambda p: _symbols(p, ('...', _ELLIPSIS), len(p.lengths)),
    'bullet_lines': lambda p: _starting(
        map(str.lstrip, p.text.splitlines()), ('\u2022', '-')
    ),
    'ellipsis_lines': lambda p: _ending(
        map(str.rstrip, p.text.splitlines()), ('...', _ELLIPSIS)
    ),
    'alphabetic': lambda p: rules.share(p.lettered, len(p.lengths)),
    'stop_words': lambda p: sum(
        pattern.search(p.text) is not None for pattern in _STOP_WORDS
    ),
}
# dolma, taggers/gopher.py: words stand between white space.
_DOLMA: Mapping[str, rules.Measure] = {
    'characters': lambda p: len(p.text),
    'words': lambda p: len(p.tokens),
    'word_length': lambda p: statistics.median(map(len, p.tokens)) if p.tokens else 0.0,
    'symbols': lambda p: rules.share(
        sum('#' in word or _ELLIPSIS in word for word in p.tokens), len(p.tokens)
    ),
    'alphabetic': lambda p: rules.share(sum(map(_lettered, p.tokens)), len(p.tokens)),
    'stop_words': lambda p: sum(map(STOP_WORDS.__contains__, p.tokens)),
    'bullet_lines': lambda p: _starting(p.text.split('\n'), ('*', '-')),
    'ellipsis_lines': lambda p: _ending(p.text.split('\n'), (_ELLIPSIS,)),
}
_FIRST = {
    'words_least': 50, 'words_most': 100_000, 'word_length_least': 3,
    'word_length_most': 10,
}  # fmt: skip
_LINES = {'bullet_lines_most': 0.9, 'ellipsis_lines_most': 0.3}
_LAST = {'alphabetic_least': 0.8, 'stop_words_least': 2}
VARIANTS: Mapping[str, rules.Rules] = {
    'datatrove': rules.Rules(
        _DATATROVE,
        {**_FIRST, 'hashes_most': 0.1, 'ellipses_most': 0.1, **_LINES, **_LAST},
    ),
    # The thresholds are those of OLMo's first mix (dolma, sources of common crawl).
    'dolma': rules.Rules(_DOLMA, {**_FIRST, 'symbols_most': 0.1, **_LAST, **_LINES}),
}


def gopher(*, variant: str, **limits: Any) -> rules.Rules:
    """The step: `variant` of VARIANTS, with other `limits` where they are named."""
    found = command.lookup(VARIANTS, variant, 'variant of gopher')
    return found.changed('gopher', limits)
