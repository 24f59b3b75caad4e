"""What a pipeline is made of, without an engine: steps, and groups of documents.

A step is a function of one document. A group looks at many documents at once, by
rounds of "group by key": any engine that can sort runs it (`refine/runner.py`,
`refine/beam.py`), and `in_memory` is the shortest of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
from dataclasses import dataclass
import itertools
from typing import Any, Protocol, runtime_checkable

from gptjax.data import documents

Result = documents.Document | documents.Reject
Step = Callable[[documents.Document], Result]
Pairs = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Round:
    """One grouping of (key, value) pairs: those of the round before, and of `emit`.

    reduce: is given a key with its values in ascending order, each as often as it was
    emitted (an iterator, which may be longer than memory), and yields the pairs of the
    next round. emit: the pairs that a document adds to this round. The first round has
    one. The pairs that the last round yields have the keys of documents.
    """

    reduce: Callable[[bytes, Iterator[bytes]], Pairs]
    emit: Callable[[documents.Document], Pairs] | None = None


@runtime_checkable
class Group(Protocol):
    """A stage that needs all documents: its rounds, and what is done with their end."""

    rounds: Sequence[Round]

    def apply(self, document: documents.Document, found: Sequence[bytes]) -> Result:
        """The document after the rounds: `found` are the values for it, ascending."""


def changed(name: str, before: documents.Document, after: Result) -> Result:
    """`after`, whose steps tell of `name` if it changed the text of `before`."""
    if not isinstance(after, documents.Document) or after is before:
        return after
    if after.whole == before.whole:
        return after
    told = f'{name}:{len(after.whole) - len(before.whole):+d}'
    return dataclasses.replace(after, steps=(*after.steps, told))


def in_memory(
    group: Group, found: Iterable[documents.Document]
) -> list[tuple[documents.Document, Result]]:
    """Each document with what becomes of it, in the order of keys."""
    ordered = sorted(found, key=lambda document: document.key)
    pairs: list[tuple[bytes, bytes]] = []
    for one in group.rounds:
        if one.emit is not None:
            pairs += itertools.chain.from_iterable(map(one.emit, ordered))
        pairs.sort()
        grouped = itertools.groupby(pairs, lambda pair: pair[0])
        pairs = [
            pair
            for key, values in grouped
            for pair in one.reduce(key, (value for _, value in values))
        ]
    decided: dict[bytes, list[bytes]] = {}
    for key, value in sorted(pairs):
        decided.setdefault(key, []).append(value)
    return [(d, group.apply(d, decided.get(d.key, ()))) for d in ordered]


# The steps and groups of a package by name: functions of their options.
Table = Mapping[str, Callable[..., Any]]
