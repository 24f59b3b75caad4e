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

Synonyms = dict[str, list[str]]
_WORD = re.compile(r'(\W*)(.*?)(\W*)', re.DOTALL)


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
            name = operations[number % len(edits)]
            texts = [
                '\n'.join(
                    ' '.join(
                        edits[number % len(edits)](line.split(), rate, known, draw)
                    )
                    for line in text.split('\n')
                )
                for text in parts.inputs(document)
            ]
            yield parts.remade(document, texts, 'eda', number, f'EDA, {name}')


def read(path: str) -> Synonyms:
    """The synonyms of each word (in lower case) of a file."""
    try:
        lines = Path(path).read_text(encoding='utf-8').lower().splitlines()
    except (OSError, ValueError) as error:
        raise command.UserError(
            f'method.synonyms is {path!r}, which cannot be read ({error}); name a '
            'text file in UTF-8.'
        ) from None
    known: Synonyms = {}
    for line in lines:
        group = [word.strip() for word in line.split(',') if word.strip()]
        for word in group:
            others = [other for other in group if other != word]
            known[word] = known.get(word, []) + others
    return {word: sorted(set(others)) for word, others in known.items() if others}


def _replace(
    words: list[str], rate: float, known: Synonyms, draw: random.Random
) -> list[str]:
    """Synonyms in place of some words, around which punctuation stays."""
    found = [i for i, word in enumerate(words) if _core(word) in known]
    for i in draw.sample(found, min(_count(words, rate), len(found))):
        match = _WORD.fullmatch(words[i])
        assert match
        before, core, after = match.groups()
        new = draw.choice(known[core.lower()])
        words[i] = before + (new.capitalize() if core[0].isupper() else new) + after
    return words


def _insert(
    words: list[str], rate: float, known: Synonyms, draw: random.Random
) -> list[str]:
    """A synonym of some word at a random place, as often as words are to change."""
    found = [_core(word) for word in words if _core(word) in known]
    for _ in range(_count(words, rate) if found else 0):
        new = draw.choice(known[draw.choice(found)])
        words.insert(draw.randint(0, len(words)), new)
    return words


def _swap(
    words: list[str], rate: float, known: Synonyms, draw: random.Random
) -> list[str]:
    """Two random words change places, as often as words are to change."""
    for _ in range(_count(words, rate) if len(words) > 1 else 0):
        i, j = draw.sample(range(len(words)), 2)
        words[i], words[j] = words[j], words[i]
    return words


def _delete(
    words: list[str], rate: float, known: Synonyms, draw: random.Random
) -> list[str]:
    """Each word is left out with probability `rate`; one stays."""
    kept = [word for word in words if draw.random() >= rate]
    return kept or ([draw.choice(words)] if words else [])


def _core(word: str) -> str:
    match = _WORD.fullmatch(word)
    return match.group(2).lower() if match else ''


def _count(words: Sequence[str], rate: float) -> int:
    return max(1, int(rate * len(words))) if words else 0


Edit = Callable[[list[str], float, Synonyms, random.Random], list[str]]
OPERATIONS: dict[str, Edit] = {
    'synonyms': _replace,
    'insertion': _insert,
    'swap': _swap,
    'deletion': _delete,
}
