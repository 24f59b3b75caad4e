"""What of a document is remade, and how what was made of it is told from it."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from gptjax import command
from gptjax.data import documents


def inputs(document: documents.Document) -> list[str]:
    """The texts that a model reads: the text, or what the user says.

    Raises UserError for what is neither text, labelled nor a conversation.
    """
    if document.messages is not None:
        return [m['content'] for m in document.messages if m['role'] == 'user']
    if document.text is None:
        raise command.UserError(
            f'{document.source} is of {document.kind}, which is not augmented; give '
            'text, labelled texts or conversations.'
        )
    return list(document.texts())


def remade(
    parent: documents.Document, texts: Sequence[str], name: str, number: int, by: str
) -> documents.Document:
    """The document with other inputs, as a new one that tells of its parent.

    name: of the method, 'eda'. number: of this document among those of its parent.
    by: what made it, for `evidence`. It is held out together with its parent.
    """
    content: dict[str, Any] = {'text': texts[0]} if texts else {}
    if parent.text_pair is not None:
        content['text_pair'] = texts[1]
    if parent.messages is not None:
        new = iter(texts)
        content = {
            'messages': [
                {**m, 'content': next(new)} if m['role'] == 'user' else m
                for m in parent.messages
            ]
        }
    more = sum(map(len, texts)) - sum(map(len, inputs(parent)))
    return dataclasses.replace(
        parent,
        id=documents.stable_id(f'{name}:{number}:{parent.id}'),
        source=f'augment:{name}/{parent.source}',
        unit=parent.unit or parent.id,
        evidence=f'made of {parent.id} by {by}; {parent.evidence or "its licence"}',
        steps=(*parent.steps, f'{name}:{more:+d}'),
        signals={},
        **content,
    )


def record(document: documents.Document) -> dict[str, Any]:
    """A document as a line of .jsonl, with the unit that it is held out with."""
    plain = dataclasses.asdict(document) | {'unit': document.unit or document.id}
    return {k: v for k, v in plain.items() if v}
