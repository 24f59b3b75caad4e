"""Questions about Python and their answers, made of the docstrings of CPython.

The answer to "What does textwrap.dedent do?" is the first sentence of its docstring.
For preference pairs the rejected answer is that sentence broken off, or that of another
object of the module. What is chosen is chosen by hash: the same in every run.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
import functools
import hashlib
import re
from typing import Any

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


@dataclass(frozen=True)
class Fact:
    """An object, the module that it is of, and the first sentence about it."""

    entry: docstrings.Entry
    module: docstrings.Module
    answer: str


def collect(kind: str) -> Iterator[documents.Document]:
    """Conversations (kind 'chat') or preference pairs ('pairs') about the same objects.

    A document's unit is the module, so that a split by document holds out the same
    modules in both kinds and in python_docs: a model that was trained on the other side
    of those splits has not read the page that a held-out answer is from, nor met that
    answer as a right or a wrong one. Raises UserError for another kind.
    """
    if kind not in ('chat', 'pairs'):
        raise command.UserError(
            f'corpus.kind is {kind!r}; python_qa makes "chat" or "pairs".'
        )
    answers = defaultdict(list)
    for fact in facts():
        answers[fact.module.name].append(fact.answer)
    for fact in facts():
        name, module = fact.entry.name, fact.module
        ask: chat.Message = {'role': 'user', 'content': question(fact.entry)}
        content: dict[str, Any]
        if kind == 'chat':
            content = {'messages': [ask, {'role': 'assistant', 'content': fact.answer}]}
        else:
            rejected = _rejected(fact, answers[module.name])
            pair = {'prompt': [ask], 'chosen': fact.answer, 'rejected': rejected}
            content = {'pair': pair}
        identity = documents.stable_id(f'python_qa:{name}')
        yield documents.Document(
            identity, module.source, LICENCE, unit=module.name, **content
        )


@functools.cache
def facts() -> tuple[Fact, ...]:
    """The facts of public objects with a clean first sentence, each sentence once.

    A sentence that is of several modules is left out: it could be held out with one and
    trained on with another.
    """
    found: dict[str, Fact] = {}
    modules = defaultdict(set)
    names = set()
    for module in docstrings.modules():
        for entry in module.entries:
            answer = first_sentence(entry.docstring)
            if answer is None:
                continue
            modules[answer].add(module.name)
            public = not re.search(r'(^|\.)_', entry.name)
            new = entry.name not in names and answer not in found
            if public and new and entry.kind != 'module':
                names.add(entry.name)
                found[answer] = Fact(entry, module, answer)
    return tuple(fact for fact in found.values() if len(modules[fact.answer]) == 1)


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


def _rejected(fact: Fact, answers: list[str]) -> str:
    """A worse answer; `answers` are those of the module, with the right one."""
    name = fact.entry.name
    others = [answer for answer in answers if answer != fact.answer]
    if not others or _hash(name, 'broken off') % 2:
        return _broken_off(fact.answer, _hash(name, 'where'))
    return others[_hash(name, 'other') % len(others)]


def _broken_off(answer: str, choice: int) -> str:
    """The answer's first words: between a third and two thirds of them."""
    words = answer.split(' ')
    low, high = max(1, len(words) // 3), max(2, 2 * len(words) // 3)
    return ' '.join(words[: low + choice % (high - low)]).rstrip('.,;:')


def _hash(name: str, purpose: str) -> int:
    digest = hashlib.sha256(f'{purpose}:{name}'.encode()).digest()
    return int.from_bytes(digest[:8], 'little')
