"""Quality signals: numbers that stay with a document, and decide later or never.

After RedPajama-Data-V2 (Together, 2023), which publishes signals in place of a choice:
the sets `gopher`, `gopher_repetition` and `fineweb` are the measures behind the filters
of these names, `redpajama` are those of its own that these sets lack and that need no
word lists or models. Its signals of each line are means here.
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
from gptjax.data.filters import fineweb, page, quality, repetition, rules

_LETTER = re.compile('[a-zA-Z]')
_SENTENCE = re.compile(r'\b[^.!?]+[.!?]*')
_NO_PUNCTUATION = str.maketrans('', '', string.punctuation)


@functools.lru_cache(maxsize=1)
def _normal(seen: page.Page) -> list[str]:
    """The words between white space, in small letters without ASCII punctuation."""
    words = seen.text.translate(_NO_PUNCTUATION).lower().split()
    return words if seen.text.isascii() else list(map(_decomposed, words))


def _decomposed(word: str) -> str:
    # Many marks in a row take quadratic time to sort: 1,000 of them a millisecond.
    return word if len(word) > 1000 else unicodedata.normalize('NFD', word)


def _entropy(seen: page.Page) -> float:
    words = _normal(seen)
    shares = [count / len(words) for count in Counter(words).values()]
    return math.fsum(-share * math.log(share) for share in shares)


def _mean(of: Callable[[str], rules.Number]) -> rules.Measure:
    """Over the lines that are not blank."""
    return lambda p: rules.share(sum(map(of, p.filled)), len(p.filled))


def _of_characters(*parts: str) -> rules.Measure:
    """How often the parts occur, by characters."""
    return lambda p: rules.share(sum(map(p.text.lower().count, parts)), len(p.text))


REDPAJAMA: Mapping[str, rules.Measure] = {
    'sentences': lambda p: len(_SENTENCE.findall(p.text)),
    'no_letter_words': lambda p: rules.share(
        list(map(_LETTER.search, p.words)).count(None), len(p.words)
    ),
    'capital_words': lambda p: rules.share(
        sum(map(str.isupper, p.words)), len(p.words)
    ),
    'unique_words': lambda p: rules.share(len(set(_normal(p))), len(_normal(p))),
    'entropy': _entropy,
    'lorem_ipsum': _of_characters('lorem ipsum'),
    'curly_brackets': _of_characters('{', '}'),
    'javascript': _mean(lambda line: line.lower().count('javascript')),
    'line_words': _mean(lambda line: len(line.split())),
    'uppercase': _mean(lambda line: sum(map(str.isupper, line)) / len(line)),
    'digits': _mean(lambda line: sum(map(str.isnumeric, line)) / len(line)),
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
