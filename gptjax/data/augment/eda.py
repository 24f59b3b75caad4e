"""Easy data augmentation: words replaced, inserted, swapped, deleted.

Wei and Zou, "EDA: easy data augmentation techniques for boosting performance on text
classification tasks", 2019, section 2. Synonyms are those of a file of the user's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
import random
import re

from gptjax import command
from gptjax.data import documents
from gptjax.data.augment import parts

Words = list[str]
Synonyms = dict[str, Words]
_CORE = re.compile(r'\w(?:.*\w)?', re.DOTALL)  # of a word: without punctuation around


def eda(
    found: Iterable[documents.Document],
    *,
    seed: int,
    copies: int,
    rate: float,
    operations: Sequence[str],
    synonyms: str | None,
) -> Iterator[documents.Document]:
    """`copies` new documents of each, by one operation each, in turn.

    rate: the share of words that an operation changes in each line, at least one (the
    paper's alpha); for 'deletion' the probability of each. operations: of OPERATIONS.
    synonyms: a file with a group of synonyms a line, 'quick, fast, rapid'; words that
    are in none stay. What is drawn depends on (seed, document, copy) alone.
    """
    edits = [command.lookup(OPERATIONS, name, 'operation') for name in operations]
    if not 0 < rate <= 1 or copies < 1 or not edits:
        raise command.UserError(
            f'method has rate={rate}, copies={copies} and {len(edits)} operations; '
            'rate is above 0 and at most 1, and there is at least one of the others.'
        )
    known = read(synonyms) if synonyms else {}
    if not known and {'synonyms', 'insertion'} & set(operations):
        raise command.UserError(
            'the operations synonyms and insertion need method.synonyms, a file with '
            "a group of synonyms a line: 'quick, fast, rapid'."
        )
    for document in found:
        for number in range(copies):
            draw = random.Random(f'{seed}:{number}:{document.id}')
            which = number % len(edits)
            texts = [
                '\n'.join(
                    ' '.join(edits[which](line.split(), rate, known, draw))
                    for line in text.split('\n')
                )
                for text in parts.inputs(document)
            ]
            by = f'EDA, {operations[which]}'
            yield parts.remade(document, texts, 'eda', number, by)


def read(path: str) -> Synonyms:
    """The synonyms of each word (in lower case) of a file."""
    try:
        lines = Path(path).read_text(encoding='utf-8').lower().splitlines()
    except (OSError, ValueError) as error:
        raise command.UserError(
            f'method.synonyms is {path!r}, which cannot be read ({error}); name a '
            'text file in UTF-8.'
        ) from None
    known: dict[str, set[str]] = {}
    for line in lines:
        group = {word.strip() for word in line.split(',')} - {''}
        for word in group:
            known[word] = known.get(word, set()) | group - {word}
    return {word: sorted(others) for word, others in known.items() if others}


def _replace(words: Words, rate: float, known: Synonyms, draw: random.Random) -> Words:
    """Synonyms in place of some words, around which punctuation stays."""
    found = [(i, core) for i, core in _cores(words) if core[0].lower() in known]
    for i, core in draw.sample(found, min(_count(words, rate), len(found))):
        new = draw.choice(known[core[0].lower()])
        new = new.capitalize() if core[0][0].isupper() else new
        words[i] = words[i][: core.start()] + new + words[i][core.end() :]
    return words


def _insert(words: Words, rate: float, known: Synonyms, draw: random.Random) -> Words:
    """A synonym of some word at a random place, as often as words are to change."""
    cores = [core[0].lower() for _, core in _cores(words)]
    found = [core for core in cores if core in known]
    for _ in range(_count(words, rate) if found else 0):
        new = draw.choice(known[draw.choice(found)])
        words.insert(draw.randint(0, len(words)), new)
    return words


def _swap(words: Words, rate: float, known: Synonyms, draw: random.Random) -> Words:
    """Two random words change places, as often as words are to change."""
    for _ in range(_count(words, rate) if len(words) > 1 else 0):
        i, j = draw.sample(range(len(words)), 2)
        words[i], words[j] = words[j], words[i]
    return words


def _delete(words: Words, rate: float, known: Synonyms, draw: random.Random) -> Words:
    """Each word is left out with probability `rate`; one stays."""
    kept = [word for word in words if draw.random() >= rate]
    return kept or ([draw.choice(words)] if words else [])


def _cores(words: Sequence[str]) -> list[tuple[int, re.Match[str]]]:
    """(its number, its core) of each word that has letters or digits."""
    return [(i, m) for i, m in enumerate(map(_CORE.search, words)) if m]


def _count(words: Sequence[str], rate: float) -> int:
    return max(1, int(rate * len(words))) if words else 0


OPERATIONS: dict[str, Callable[[Words, float, Synonyms, random.Random], Words]] = {
    'synonyms': _replace,
    'insertion': _insert,
    'swap': _swap,
    'deletion': _delete,
}
