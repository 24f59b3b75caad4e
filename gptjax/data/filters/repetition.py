"""Gopher's filter for repetition (Rae et al., 2021, table A1), as two read it.

They differ in what they divide by (with or without spaces), in whether the first copy
counts, and in how overlapping n-grams add up. Measures: the share of lines and
paragraphs that are repeated, and of characters in them; `top_2` to `top_4`: of
characters in the most frequent n-gram; `repeated_5` to `repeated_10`: of characters in
repeated n-grams.
"""

import bisect
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
import functools
import itertools
from typing import Any

from gptjax import command
from gptjax.data.filters import rules
from gptjax.data.filters.page import Page

_TOP = {2: 0.20, 3: 0.18, 4: 0.16}
_REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def _later(parts: Sequence[str], of: int | None = None) -> float:
    """The share of parts that stood before; of their characters in `of` characters."""
    once = set(parts)
    if of is None:
        return rules.share(len(parts) - len(once), len(parts))
    return rules.share(_size(parts) - _size(once), of)


def _copies(parts: Sequence[str], of: int | None = None) -> float:
    """The same of all that stand there twice: the first of them counts too."""
    again = [(part, n) for part, n in Counter(parts).items() if n > 1]
    if of is None:
        return rules.share(sum(n for _, n in again), len(parts))
    return rules.share(sum(n * len(part) for part, n in again), of)


def measures(
    top: Callable[[Page, int], float], repeated: Callable[[Page, int], float]
) -> dict[str, rules.Measure]:
    return {
        **{f'top_{n}': lambda page, n=n: top(page, n) for n in _TOP},
        **{f'repeated_{n}': lambda page, n=n: repeated(page, n) for n in _REPEATED},
    }


def _datatrove_top(page: Page, n: int) -> float:
    characters, count = page.word_grams.top(n)
    return rules.share(count * (characters + n - 1), len(page.text))


@functools.lru_cache(maxsize=1)
def _datatrove_lines(page: Page) -> list[str]:
    """Divided at runs of line ends; one at an end of the text makes an empty line."""
    text, empty = page.text, ['']
    lines = list(filter(None, text.split('\n')))
    return empty * text.startswith('\n') + lines + empty * text.endswith('\n')


@functools.lru_cache(maxsize=1)
def _datatrove_paragraphs(page: Page) -> list[str]:
    """Divided at runs of two or more line ends."""
    parts = page.text.strip().split('\n\n')
    return [part.lstrip('\n') for part in parts if part]


# datatrove 0.10, filters/gopher_repetition_filter.py. Its n-grams are joined without
# spaces and do not overlap; a last line end makes an empty line.
_DATATROVE: Mapping[str, rules.Measure] = {
    'characters': lambda p: len(p.text),
    'paragraphs': lambda p: _later(_datatrove_paragraphs(p)),
    'paragraph_characters': lambda p: _later(_datatrove_paragraphs(p), len(p.text)),
    'lines': lambda p: _later(_datatrove_lines(p)),
    'line_characters': lambda p: _later(_datatrove_lines(p), len(p.text)),
    **measures(
        _datatrove_top, lambda p, n: rules.share(p.word_grams.again(n), len(p.text))
    ),
}


@functools.lru_cache(maxsize=1)
def _again(page: Page) -> Mapping[int, Mapping[tuple[str, ...], int]]:
    """By n, how often each n-gram occurs that occurs twice, by first place."""
    words, found = page.tokens, {}
    places: Sequence[int] = range(len(words))
    for n in range(2, 11):  # it occurs twice only if what it begins with does
        places = places[: bisect.bisect_right(places, len(words) - n)]
        counts = Counter(tuple(words[i : i + n]) for i in places)
        found[n] = {gram: count for gram, count in counts.items() if count > 1}
        places = [i for i in places if tuple(words[i : i + n]) in found[n]]
    return found


def _dolma_top(page: Page, n: int) -> float:
    first = page.tokens[:n] if len(page.tokens) >= n else []
    found = _again(page)[n] or {tuple(first): 1}
    gram = max(found, key=found.__getitem__)
    return rules.share(found[gram] * _size(gram), _size(page.tokens))


def _dolma_repeated(page: Page, n: int) -> float:
    again = sum(count * _size(gram) for gram, count in _again(page)[n].items())
    ends = [0, *itertools.accumulate(map(len, page.tokens))]
    return rules.share(again, sum(ends[n:]) - sum(ends[:-n]))


def _size(words: Collection[str]) -> int:
    return sum(map(len, words))


# dolma, taggers/gopher.py: every copy counts, white space does not.
_DOLMA: Mapping[str, rules.Measure] = {
    'lines': lambda p: _copies(p.text.split('\n')),
    'line_characters': lambda p: _copies(p.text.split('\n'), _size(p.tokens)),
    **measures(_dolma_top, _dolma_repeated),
}
_GRAMS = {
    **{f'top_{n}_most': limit for n, limit in _TOP.items()},
    **{f'repeated_{n}_most': limit for n, limit in _REPEATED.items()},
}
VARIANTS: Mapping[str, rules.Rules] = {
    'datatrove': rules.Rules(
        _DATATROVE,
        {
            'characters_least': 1, 'paragraphs_most': 0.3,
            'paragraph_characters_most': 0.2, 'lines_most': 0.3,
            'line_characters_most': 0.2, **_GRAMS,
        },
    ),
    'dolma': rules.Rules(
        _DOLMA, {'lines_most': 0.3, 'line_characters_most': 0.3, **_GRAMS}
    ),
}  # fmt: skip


def gopher_repetition(*, variant: str, **limits: Any) -> rules.Rules:
    """The step: `variant` of VARIANTS, with other `limits` where they are named."""
    found = command.lookup(VARIANTS, variant, 'variant of gopher_repetition')
    return found.changed('gopher_repetition', limits)
