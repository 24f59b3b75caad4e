"""Quality signals: numbers that stay with a document, and decide later or never.

After RedPajama-Data-V2 (Together, 2023), which publishes signals in place of a choice:
the sets `gopher`, `gopher_repetition` and `fineweb` are the measures behind the filters
of these names, `redpajama` is most of its own. Its signals of each line are means here;
those that need word lists or models are left out.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
import re
import string
import unicodedata

from gptjax import command
from gptjax.data import documents, steps
from gptjax.data.filters import fineweb, grams, page, quality, repetition, rules

_LETTER = re.compile('[a-zA-Z]')
_SENTENCE = re.compile(r'\b[^.!?]+[.!?]*')
_NO_PUNCTUATION = str.maketrans('', '', string.punctuation)
_BULLETS = tuple('\u2022\u2023\u25b6\u25c0\u25e6\u25a0\u25a1\u25aa\u25ab\u2013')
_share = rules.share


class Normal:
    """A text in small letters without ASCII punctuation."""

    def __init__(self, seen: page.Page):
        plain = seen.text.translate(_NO_PUNCTUATION).lower()
        self.words = [_decomposed(word) for word in plain.split()]
        self.text = ' '.join(self.words)
        self.counts = Counter(self.words)
        self.characters = sum(map(len, self.words))


def _decomposed(word: str) -> str:
    # Many marks in a row take quadratic time to sort: 1,000 of them a millisecond.
    return word if len(word) > 1000 else unicodedata.normalize('NFD', word)


@functools.lru_cache(maxsize=1)
def normal(seen: page.Page) -> Normal:
    """The normal form of a page, made once for all signals."""
    return Normal(seen)


def _entropy(seen: page.Page) -> float:
    shares = [n / len(normal(seen).words) for n in normal(seen).counts.values()]
    return math.fsum(-share * math.log(share) for share in shares)


def _top(seen: page.Page, n: int) -> float:
    """The share of characters in the n-gram that is most frequent, if it repeats."""
    size, count = grams.most_frequent(grams.counted(normal(seen).words, n))
    return _share(count * size if count > 1 else 0, normal(seen).characters)


def _covered(seen: page.Page, n: int) -> float:
    """The share of characters in words that are part of a repeated n-gram."""
    words = normal(seen).words
    counts = grams.counted(words, n)
    inside: set[int] = set()
    for place in range(len(words) - n + 1):
        if counts[tuple(words[place : place + n])] > 1:
            inside.update(range(place, place + n))
    return _share(sum(len(words[place]) for place in inside), normal(seen).characters)


def _mean(of: Callable[[str], rules.Number]) -> rules.Measure:
    """Over the lines that are not blank."""
    return lambda p: _share(sum(map(of, p.filled)), len(p.filled))


def _of_words(kind: Callable[[str], object]) -> rules.Measure:
    """The share of words of a kind."""
    return lambda p: _share(sum(map(bool, map(kind, p.words))), len(p.words))


def _of_characters(kind: Callable[[str], bool]) -> rules.Measure:
    return _mean(lambda line: sum(map(kind, line)) / len(line))


_ENDS, _ELLIPSES = ('.', '!', '?', '\u201d'), ('...', '\u2026')
REDPAJAMA: Mapping[str, rules.Measure] = {
    'sentences': lambda p: len(_SENTENCE.findall(p.text)),
    'words': lambda p: len(normal(p).words),
    'word_length': lambda p: _share(normal(p).characters, len(normal(p).words)),
    'symbols': lambda p: _share(
        sum(map(p.text.count, ('#', *_ELLIPSES))), len(p.lengths)
    ),
    'no_letter_words': _of_words(lambda word: not _LETTER.search(word)),
    'unique_words': lambda p: _share(len(normal(p).counts), len(normal(p).words)),
    'entropy': _entropy,
    'capital_words': _of_words(str.isupper),
    'stop_words': _of_words(quality.STOP_WORDS.__contains__),
    'lorem_ipsum': lambda p: _share(
        normal(p).text.count('lorem ipsum'), len(normal(p).text)
    ),
    'curly_brackets': lambda p: _share(
        p.text.count('{') + p.text.count('}'), len(p.text)
    ),
    'javascript': _mean(lambda line: line.lower().count('javascript')),
    'line_words': _mean(lambda line: len(line.split())),
    'uppercase': _of_characters(str.isupper),
    'digits': _of_characters(str.isnumeric),
    'bullet_lines': _mean(lambda line: line.lstrip().startswith(_BULLETS)),
    'ellipsis_lines': _mean(lambda line: line.rstrip().endswith(_ELLIPSES)),
    'ended_lines': _mean(lambda line: line.rstrip().endswith(_ENDS)),
    **repetition.measures(_top, _covered),
}
SETS: Mapping[str, Mapping[str, rules.Measure]] = {
    'gopher': quality.VARIANTS['datatrove'].measures,
    'gopher_repetition': repetition.VARIANTS['datatrove'].measures,
    'gopher_dolma': quality.VARIANTS['dolma'].measures,
    'gopher_repetition_dolma': repetition.VARIANTS['dolma'].measures,
    'fineweb': fineweb.RULES.measures,
    'redpajama': REDPAJAMA,
}


def signals(*, sets: Sequence[str]) -> steps.Step:
    """The step that stores every measure of the `sets` as 'SET.NAME'."""
    measures = {
        f'{name}.{key}': measure
        for name in sets
        for key, measure in command.lookup(SETS, name, 'set of signals').items()
    }

    def step(document: documents.Document) -> steps.Result:
        seen = page.page(document.whole)
        found = {name: float(measure(seen)) for name, measure in measures.items()}
        return dataclasses.replace(document, signals={**document.signals, **found})

    return step


def threshold(
    *, signal: str, least: rules.Number | None, most: rules.Number | None
) -> steps.Step:
    """The step that rejects what a stored signal says is below `least` or above `most`.

    Raises UserError for a document without the signal.
    """

    def step(document: documents.Document) -> steps.Result:
        if signal not in document.signals:
            known = command.did_you_mean(signal, list(document.signals))
            raise command.UserError(
                f'threshold: {document.id} has no signal {signal!r}; {known} A step '
                'before this one has to store it.'
            )
        value = document.signals[signal]
        if least is not None and value < least:
            return documents.Reject(f'{signal}_least', float(value))
        if most is not None and value > most:
            return documents.Reject(f'{signal}_most', float(value))
        return document

    return step
