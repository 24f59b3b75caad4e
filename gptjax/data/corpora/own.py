"""Examples of your own: .jsonl with a record on each line, and texts as files.

What a record holds, by kind:
    text: {"text": "..."}, with an `id` if it has one; a .txt or .md file is a document,
        too.
    labelled: {"text": "...", "label": "..."}, with a "text_pair" where the label is of
        two texts. A label is a string or a whole number.
    translation: {"source": "...", "target": "..."}, or what else becomes of a text.
    chat: {"messages": [{"role": ..., "content": ...}, ...]}, with "tool_calls" and a
        "weight" (1 if it is not there) of what the assistant says, answers of the role
        "tool", and the "tools" of the record: see `gptjax.text.messages`.
    feedback: {"prompt": ..., "completion": "...", "label": true or false}: whether the
        completion is good; the prompt is as that of pairs.
    pairs: {"prompt": ..., "chosen": "...", "rejected": "..."}; the prompt is the user's
        text, or the messages of a conversation that the two answers continue. A
        "margin" says by how much the chosen one is better, for reward models.
A record of any kind may name its `licence` with `evidence`, its `source` (but for
translations), the `steps` that made it, and the `unit` that it is held out with.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gptjax import command
from gptjax.data import documents
from gptjax.data.corpora import files
from gptjax.text import messages as messages_lib

Record = dict[str, Any]


def collect(
    kind: str, path: str, licence: str
) -> Iterator[documents.Document | documents.Skipped]:
    """Documents of a kind in the order of files and lines.

    licence: SPDX identifier of everything that does not name its own.
    What is invalid UTF-8, or empty, comes as Skipped. Raises UserError for a path
    without such files, and, with file and line, for a malformed record.
    """
    prose = ('.txt', '.md') if kind == 'text' else ()
    for name, file in files.find(path, (*prose, '.jsonl')):
        if file.suffix in prose:
            yield _file(name, file, licence)
            continue
        for line in files.json_lines(name, file):
            if isinstance(line, documents.Skipped):
                yield line
            else:
                yield _document(kind, name, *line, licence)


def _file(
    name: str, file: Path, licence: str
) -> documents.Document | documents.Skipped:
    try:
        text = file.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError:
        return documents.Skipped(name, files.INVALID)
    made = documents.Document(name, name, licence, text=text)
    return documents.Skipped(name, 'empty') if empty(made) else made


def _document(
    kind: str, name: str, place: str, record: Record, licence: str
) -> documents.Document | documents.Skipped:
    fields: Record = {'id': place, 'source': name, 'licence': licence}
    named = {'id': kind == 'text', 'source': kind != 'translation'}
    for field in ('id', 'source', 'licence', 'evidence'):
        if field in record and named.get(field, True):
            fields[field] = files.string(record, field, place)
    unit, done = record.get('unit'), record.get('steps')
    made = documents.Document(
        **fields, **CONTENT[kind](place, record),
        unit=unit if isinstance(unit, str) else None,
        steps=tuple(map(str, done)) if isinstance(done, list) else (),
    )  # fmt: skip
    return documents.Skipped(place, 'empty') if empty(made) else made


def empty(made: documents.Document) -> bool:
    """Whether one of its texts is blank: of a conversation, one of the answers."""
    if made.pair is not None:
        return not all(made.pair[which].strip() for which in ('chosen', 'rejected'))
    if made.messages is not None:
        answers = (one for one in made.messages if one['role'] == 'assistant')
        return not all(''.join(messages_lib.texts(one)).strip() for one in answers)
    return not all(text.strip() for text in made.texts())


def _text(place: str, record: Record) -> Record:
    return {'text': files.string(record, 'text', place)}


def _labelled(place: str, record: Record) -> Record:
    texts = _text(place, record)
    if 'text_pair' in record:
        texts['text_pair'] = files.string(record, 'text_pair', place)
    label = record.get('label')
    if not isinstance(label, str | int) or isinstance(label, bool) or label == '':
        raise command.UserError(
            f'{place} has label={label!r}; each line needs a "label", a string or a '
            'whole number.'
        )
    return {**texts, 'label': str(label)}


def _translation(place: str, record: Record) -> Record:
    sides = ('source', 'target')
    return {'translation': {name: files.string(record, name, place) for name in sides}}


def _chat(place: str, record: Record) -> Record:
    messages = record.get('messages')
    if not isinstance(messages, list):
        raise command.UserError(
            f'{place} has {messages!r} for messages; it needs '
            '[{"role": ..., "content": ...}, ...].'
        )
    found = _read(place, messages, record.get('tools'))
    if not any(map(messages_lib.weight, found)):
        raise command.UserError(
            f'{place} has no assistant message of a weight above 0, so there is '
            'nothing to learn from it; add one or leave the line out.'
        )
    return {'messages': found}


def _read(place: str, messages: list[Any], tools: Any) -> list[messages_lib.Message]:
    if tools and messages and isinstance(messages[0], dict):
        messages = [{**messages[0], 'tools': tools}, *messages[1:]]
    try:
        return messages_lib.read(messages)
    except command.UserError as error:
        raise command.UserError(f'{place}: {error}') from None


def _prompt(place: str, record: Record) -> list[messages_lib.Message]:
    prompt = record.get('prompt')
    if isinstance(prompt, str):
        prompt = [{'role': 'user', 'content': prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise command.UserError(
            f'{place} has prompt={prompt!r}; it needs a string or messages.'
        )
    return _read(place, prompt, record.get('tools'))


def _feedback(place: str, record: Record) -> Record:
    label = record.get('label')
    if not isinstance(label, bool):
        raise command.UserError(
            f'{place} has label={label!r}; it needs true, of a good completion, or '
            'false, of a bad one.'
        )
    content = files.string(record, 'completion', place)
    answer: messages_lib.Message = {'role': 'assistant', 'content': content}
    return {
        'messages': [*_prompt(place, record), answer],
        'label': 'true' if label else 'false',
    }


def _pairs(place: str, record: Record) -> Record:
    made: Record = {'prompt': _prompt(place, record)}
    for which in ('chosen', 'rejected'):
        made[which] = files.string(record, which, place)
    if made['chosen'] == made['rejected']:
        raise command.UserError(
            f'{place} has equal answers, chosen and rejected {made["chosen"]!r:.60}; '
            'nothing is preferred to itself: leave the line out.'
        )
    if 'margin' in record:
        made['margin'] = _margin(place, record['margin'])
    return {'pair': made}


def _margin(place: str, given: Any) -> float:
    if not messages_lib.factor(given):
        raise command.UserError(
            f'{place} has margin={given!r:.60}; it needs a number from 0 to '
            f'{messages_lib.MOST:g}.'
        )
    return float(given)


# The content of a document, of a record at a place; a UserError that names the place
# where it is malformed.
CONTENT: dict[str, Callable[[str, Record], Record]] = {
    'text': _text,
    'labelled': _labelled,
    'translation': _translation,
    'chat': _chat,
    'feedback': _feedback,
    'pairs': _pairs,
}
