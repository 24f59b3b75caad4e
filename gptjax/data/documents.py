"""One document of a corpus, with where it comes from and under which licence."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from dataclasses import dataclass, field
import functools
import hashlib
import json
from typing import Any

from gptjax.text import chat
from gptjax.text import messages as messages_lib


@dataclass(frozen=True)
class Document:
    """A text, a conversation, a preference pair or a translation: exactly one of them.

    id: stable and unique in its corpus.
    source: a path below a name, 'cpython-3.11.7/Lib/textwrap.py'; see `group`.
    licence: an SPDX identifier, or 'unknown'.
    messages: [{'role': ..., 'content': ...}, ...], see `gptjax.text.messages`.
    pair: {'prompt': messages, 'chosen': assistant text, 'rejected': assistant text},
        perhaps with 'margin', by how much more the chosen one is worth.
    translation: {'source': text, 'target': text}.
    label: of the class of `text`, or whether the last of `messages` is good, 'true' or
        'false'. text_pair: a second text that belongs to `text`.
    unit: documents of one unit, of this corpus and of others, are held out together;
        None is a unit of its own.
    media: 'text/plain', or 'text/html' before it is extracted.
    language: ISO 639-1, where it was identified.
    url: where it was fetched. retrieved: when, as the record of the fetch says it
        (RFC 3339, UTC, '2026-11-21T15:04:12Z').
    evidence: what says the licence: the words, the address, the file.
    opt_out: 'none', what asks for training to leave it out ('robots.txt', 'ai.txt',
        'tdmrep', 'noai'), or 'unknown'.
    steps: what changed the text, in order, 'NAME:CHARACTERS' ('+12', '-340').
    signals: named numbers, 'gopher.words', by which it may be judged later.
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
    media: str = 'text/plain'
    language: str | None = None
    url: str | None = None
    retrieved: str | None = None
    evidence: str | None = None
    opt_out: str = 'unknown'
    steps: tuple[str, ...] = ()
    signals: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        contents = (self.text, self.messages, self.pair, self.translation)
        if sum(x is not None for x in contents) != 1:
            raise ValueError(
                f'{self.id} needs one of text, messages, pair and translation.'
            )
        labels = self.text is not None or self.messages is not None
        if (self.label is not None and not labels) or (
            self.text_pair is not None and (self.label is None or self.text is None)
        ):
            raise ValueError(
                f'{self.id}: a label is of a text or of messages, a text_pair of both.'
            )

    @property
    def kind(self) -> str:
        """'text', 'labelled', 'chat', 'feedback', 'pairs' or 'translation'."""
        if self.text is not None:
            return 'text' if self.label is None else 'labelled'
        if self.translation is not None:
            return 'translation'
        if self.messages is None:
            return 'pairs'
        return 'chat' if self.label is None else 'feedback'

    @property
    def group(self) -> str:
        """The part of `source` under which the manifest counts the document."""
        return self.source.split('/', 1)[0]

    @property
    def key(self) -> bytes:
        """16 bytes that depend on the id alone: documents are ordered by them."""
        return key(self.id)

    @functools.cached_property
    def whole(self) -> str:
        """All texts as one: what filters judge."""
        alone = self.text if self.text_pair is None else None
        return '\n'.join(self.texts()) if alone is None else alone

    def changed(self, change: Callable[[str], str]) -> 'Document':
        """The document with each of its texts changed; itself where none is."""
        if self.text is not None:
            text = change(self.text)
            pair = None if self.text_pair is None else change(self.text_pair)
            if (text, pair) == (self.text, self.text_pair):
                return self
            return dataclasses.replace(self, text=text, text_pair=pair)

        def inside(value: Any) -> Any:
            if isinstance(value, str):
                return change(value)
            if isinstance(value, list):
                return [messages_lib.changed(one, change) for one in value]
            if isinstance(value, float):  # a margin
                return value
            return {k: inside(v) for k, v in value.items()}

        names = ('messages', 'pair', 'translation')
        (name,) = (name for name in names if getattr(self, name) is not None)
        new = inside(getattr(self, name))
        same = new == getattr(self, name)
        return self if same else dataclasses.replace(self, **{name: new})

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
            yield from messages_lib.texts(message)
        if self.pair is not None:
            yield self.pair['chosen']
            yield self.pair['rejected']

    @property
    def weighted(self) -> bool:
        """Whether a message counts by another weight than 0 and 1."""
        found = (messages_lib.weight(message) for message in self.messages or ())
        return any(weight not in (0, 1) for weight in found)

    @functools.cached_property
    def size(self) -> int:
        """UTF-8 bytes of what a model learns to write, or, with a label, reads."""
        return sum(len(text.encode()) for text in self._answers())

    def _answers(self) -> Iterator[str]:
        if self.translation is not None:
            yield self.translation['target']
        elif self.pair is not None:
            yield from (self.pair['chosen'], self.pair['rejected'])
        elif self.messages is None:
            yield from self.texts()
        else:
            for message in self.messages:
                if message['role'] == 'assistant':
                    yield from messages_lib.texts(message)

    def content(self) -> bytes:
        """One canonical byte string of all fields, for digests."""
        head: list[Any] = [self.id, self.source, self.licence, self.messages, self.pair]
        if self.unit is not None:
            head.append(self.unit)
        if self.translation is not None or self.label is not None:
            head.append([self.translation, self.label, self.text_pair])
        origin = {
            name: getattr(self, name)
            for name in ORIGIN
            if getattr(self, name) != _DEFAULTS[name]
        }
        if origin:
            head.append({**origin, 'signals': dict(self.signals)})
        body = (self.text or '').encode()
        return json.dumps(head, sort_keys=True).encode() + b'\n' + body


# The fields that say where a document comes from, and what was done to it.
ORIGIN = (
    'media', 'language', 'url', 'retrieved', 'evidence', 'opt_out', 'steps', 'signals',
)  # fmt: skip
_DEFAULTS = {
    f.name: f.default if f.default is not dataclasses.MISSING else {}
    for f in dataclasses.fields(Document)
}


@dataclass(frozen=True)
class Skipped:
    """A piece of a source that could not become a document: counted and reported.

    offset: where in the file it begins, in bytes, if that is known.
    """

    source: str
    reason: str
    offset: int | None = None


@dataclass(frozen=True)
class Reject:
    """Why a step left a document out.

    reason: a fixed name in the step, 'words' or 'duplicate'.
    value: what was measured, or the id of the document that is kept instead.
    """

    reason: str
    value: float | str | None = None


def key(identity: str) -> bytes:
    """The 16 bytes by which the document of this id is grouped and ordered."""
    return hashlib.sha256(identity.encode()).digest()[:16]


def stable_id(name: str) -> str:
    """16 hexadecimal digits that depend on `name` alone."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]
