"""Questions about Python and their answers, made of the docstrings of CPython.

The answer to "What does textwrap.dedent do?" is the first sentence of its docstring.
For preference pairs the rejected answer is that sentence broken off, or another
object's. Names, questions and breaks are chosen by hash: the same in every run.
"""

from collections.abc import Iterator
import functools
import hashlib
import re

from gptjax import command
from gptjax.data import documents
from gptjax.data.corpora import docstrings
from gptjax.text import chat

LICENCE = 'PSF-2.0'
_QUESTIONS = {
    'function': (
        'What does {name} do?',
        'What does the function `{name}` do?',
        'Explain `{name}` in one sentence.',
        'What is {name} for?',
        'What is the purpose of {name}?',
        'Describe {name} briefly.',
        'When I call {name}, what happens?',
        'Tell me what {name} does.',
    ),
    'class': (
        'What is {name}?',
        'What is the class `{name}` for?',
        'Explain `{name}` in one sentence.',
        'What is the purpose of {name}?',
        'Describe {name} briefly.',
        'Tell me about the class {name}.',
    ),
}
_FULL_STOP = re.compile(r'\.(?=\s|$)')
_ABBREVIATION = re.compile(
    r'(\be\.g|\bi\.e|\betc|\bvs|\bcf|\b[A-Z]|\bDr|\bviz|\barg)\.$'
)
_UNCLEAN = ('>>>', '://', '::', '**', '__', '--', '@', '|', '...')


def collect(kind: str) -> Iterator[documents.Document]:
    """Conversations (kind 'chat') or preference pairs ('pairs') about the same objects.

    A document's id is the hash of the object's name alone, so that a split by document
    holds out the same objects in both kinds. Each answer is given for one object only:
    a held-out answer is never a trained one. Raises UserError for another kind.
    """
    if kind not in ('chat', 'pairs'):
        raise command.UserError(
            f'corpus.kind is {kind!r}; python_qa makes "chat" or "pairs".'
        )
    found = facts()
    for index, (entry, source, answer) in enumerate(found):
        identity = documents.stable_id(f'python_qa:{entry.name}')
        ask: chat.Message = {'role': 'user', 'content': question(entry)}
        if kind == 'chat':
            reply: chat.Message = {'role': 'assistant', 'content': answer}
            yield documents.Document(identity, source, LICENCE, messages=[ask, reply])
            continue
        if _hash(entry.name, 'broken off') % 2:
            rejected = _broken_off(answer, _hash(entry.name, 'where'))
        else:
            step = 1 + _hash(entry.name, 'other') % (len(found) - 1)
            rejected = found[(index + step) % len(found)][2]
        pair = {'prompt': [ask], 'chosen': answer, 'rejected': rejected}
        yield documents.Document(identity, source, LICENCE, pair=pair)


@functools.cache
def facts() -> tuple[tuple[docstrings.Entry, str, str], ...]:
    """(object, source, first sentence) for each public object with a clean sentence."""
    names, answers, found = set(), set(), []
    for module in docstrings.modules():
        for entry in module.entries:
            answer = first_sentence(entry.docstring)
            public = not re.search(r'(^|\.)_', entry.name)
            if entry.kind == 'module' or not public or answer is None:
                continue
            if entry.name not in names and answer not in answers:
                names.add(entry.name)
                answers.add(answer)
                found.append((entry, module.source, answer))
    return tuple(found)


def question(entry: docstrings.Entry) -> str:
    """The question about an object: one of some forms, by the hash of its name."""
    forms = _QUESTIONS[entry.kind]
    return forms[_hash(entry.name, 'question') % len(forms)].format(name=entry.name)


def first_sentence(docstring: str) -> str | None:
    """The first sentence if it is a clean one of 20 to 200 characters, else None."""
    paragraph = ' '.join(docstring.strip().split('\n\n')[0].split())
    ends = (m.end() for m in _FULL_STOP.finditer(paragraph))
    end = next((e for e in ends if not _ABBREVIATION.search(paragraph[:e])), 0)
    sentence = paragraph[:end]
    balanced = all(
        sentence.count(left) == sentence.count(right) for left, right in ('()', '[]')
    ) and not any(sentence.count(quote) % 2 for quote in '"`')
    clean = balanced and not any(mark in sentence for mark in _UNCLEAN)
    if clean and sentence[:1].isupper() and 20 <= len(sentence) <= 200:
        return sentence
    return None


def _broken_off(answer: str, choice: int) -> str:
    """The answer's first words: between a third and two thirds of them."""
    words = answer.split(' ')
    low, high = max(1, len(words) // 3), max(2, 2 * len(words) // 3)
    return ' '.join(words[: low + choice % (high - low)]).rstrip('.,;:')


def _hash(name: str, purpose: str) -> int:
    digest = hashlib.sha256(f'{purpose}:{name}'.encode()).digest()
    return int.from_bytes(digest[:8], 'little')
