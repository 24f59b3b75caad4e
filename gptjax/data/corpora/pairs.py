"""Preference pairs of your own, as .jsonl.

A line is `{"prompt": ..., "chosen": "...", "rejected": "..."}`; the prompt is the
user's text, or the messages of a conversation that the two answers continue.
"""

from collections.abc import Iterator
from typing import Any

from gptjax import command
from gptjax.data import documents
from gptjax.data.corpora import chat, files


def collect(
    path: str, licence: str
) -> Iterator[documents.Document | documents.Skipped]:
    """Pairs in the order of files and lines.

    licence: SPDX identifier of all of them. A line of invalid UTF-8 comes as Skipped.
    Raises UserError, with file and line, for a line without prompt or answers.
    """
    for name, file in files.find(path, ('.jsonl',)):
        for line in files.json_lines(name, file):
            if isinstance(line, documents.Skipped):
                yield line
                continue
            place, record = line
            made = pair(place, record)
            yield documents.Document(place, name, licence, pair=made)


def pair(place: str, record: dict[str, Any]) -> dict[str, Any]:
    """The pair of a line; a UserError that names the place if it is malformed."""
    prompt = record.get('prompt')
    if isinstance(prompt, str):
        prompt = [{'role': 'user', 'content': prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise command.UserError(
            f'{place} has prompt={prompt!r}; it needs a string or messages.'
        )
    made: dict[str, Any] = {'prompt': prompt}
    for which in ('chosen', 'rejected'):
        made[which] = files.string(record, which, place)
        answer = {'role': 'assistant', 'content': made[which]}
        chat.conversation(place, [*prompt, answer])
    return made
