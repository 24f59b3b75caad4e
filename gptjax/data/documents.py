"""One document of a corpus, with where it comes from and under which licence."""

from collections.abc import Iterator
from dataclasses import dataclass
import functools
import hashlib
import json
from typing import Any

from gptjax.text import chat


@dataclass(frozen=True)
class Document:
    """A text, a conversation, a preference pair or a translation: exactly one of them.

    id: stable and unique in its corpus.
    source: a path below a name, 'cpython-3.11.7/Lib/textwrap.py'; see `group`.
    licence: an SPDX identifier, or 'unknown'.
    messages: [{'role': ..., 'content': ...}, ...].
    pair: {'prompt': messages, 'chosen': assistant text, 'rejected': assistant text}.
    translation: {'source': text, 'target': text}.
    label: of the class of `text`; text_pair: a second text that belongs to it.
    unit: documents of one unit, of this corpus and of others, are held out together;
        None is a unit of its own.
    """

    id: str
    source: str
    licence: str
    text: str | None = None
    messages: list[chat.Message] | None = None
    pair: dict[str, Any] | None = None
    unit: str | None = None
    translation: dict[str, str] | None = None
    label: str | None = None
    text_pair: str | None = None

    def __post_init__(self) -> None:
        contents = (self.text, self.messages, self.pair, self.translation)
        if sum(x is not None for x in contents) != 1:
            raise ValueError(
                f'{self.id} needs one of text, messages, pair and translation.'
            )
        if (self.label is not None and self.text is None) or (
            self.text_pair is not None and self.label is None
        ):
            raise ValueError(f'{self.id}: a label is of a text, a text_pair of both.')

    @property
    def kind(self) -> str:
        """'text', 'labelled', 'chat', 'pairs' or 'translation'."""
        if self.text is not None:
            return 'text' if self.label is None else 'labelled'
        if self.translation is not None:
            return 'translation'
        return 'chat' if self.messages is not None else 'pairs'

    @property
    def group(self) -> str:
        """The part of `source` under which the manifest counts the document."""
        return self.source.split('/', 1)[0]

    def texts(self) -> Iterator[str]:
        """Every text in the document: what a tokenizer trains on."""
        if self.text is not None:
            yield self.text
        if self.text_pair is not None:
            yield self.text_pair
        if self.translation is not None:
            yield self.translation['source']
            yield self.translation['target']
        for message in self.messages or (self.pair or {}).get('prompt', ()):
            yield message['content']
        if self.pair is not None:
            yield self.pair['chosen']
            yield self.pair['rejected']

    @functools.cached_property
    def size(self) -> int:
        """UTF-8 bytes of what a model learns to write, or, with a label, reads."""
        return sum(len(text.encode()) for text in self._answers())

    def _answers(self) -> Iterator[str]:
        if self.translation is not None:
            yield self.translation['target']
        elif self.messages is None:
            prompt = 0 if self.pair is None else len(self.pair['prompt'])
            yield from list(self.texts())[prompt:]
        else:
            for message in self.messages:
                if message['role'] == 'assistant':
                    yield message['content']

    def content(self) -> bytes:
        """One canonical byte string of all fields, for digests."""
        head: list[Any] = [self.id, self.source, self.licence, self.messages, self.pair]
        if self.unit is not None:
            head.append(self.unit)
        if self.translation is not None or self.label is not None:
            head.append([self.translation, self.label, self.text_pair])
        body = (self.text or '').encode()
        return json.dumps(head, sort_keys=True).encode() + b'\n' + body


@dataclass(frozen=True)
class Skipped:
    """A piece of a source that could not become a document: counted and reported."""

    source: str
    reason: str


def stable_id(name: str) -> str:
    """16 hexadecimal digits that depend on `name` alone."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]
