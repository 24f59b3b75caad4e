"""Conversations of your own: .jsonl with a line `{"messages": [...]}` for each."""

from collections.abc import Iterator

from gptjax import command
from gptjax.data import documents
from gptjax.data.corpora import files
from gptjax.text import chat


def collect(
    path: str, licence: str
) -> Iterator[documents.Document | documents.Skipped]:
    """Conversations in the order of files and lines.

    licence: SPDX identifier of all of them. A line of invalid UTF-8 comes as Skipped.
    Raises UserError, with file and line, for a malformed conversation.
    """
    for name, file in files.find(path, ('.jsonl',)):
        for line in files.json_lines(name, file):
            if isinstance(line, documents.Skipped):
                yield line
                continue
            place, record = line
            messages = conversation(place, record.get('messages'))
            unit = files.unit(record)
            yield documents.Document(place, name, licence, messages=messages, unit=unit)


def conversation(place: str, messages: object) -> list[chat.Message]:
    """`messages` if they are well formed; a UserError that names the place if not."""
    if not isinstance(messages, list):
        raise command.UserError(
            f'{place} has {messages!r} for messages; it needs '
            '[{"role": ..., "content": ...}, ...].'
        )
    try:
        chat.check(messages)
    except command.UserError as error:
        raise command.UserError(f'{place}: {error}') from None
    if all(message['role'] != 'assistant' for message in messages):
        raise command.UserError(
            f'{place} has no assistant message, so there is nothing to learn from it; '
            'add one or leave the line out.'
        )
    return messages
