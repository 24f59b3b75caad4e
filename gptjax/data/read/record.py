"""A record of JSON Lines, of JSON or of Parquet as a document."""

from collections.abc import Callable, Mapping
import datetime
import json
import re
from typing import Any

from gptjax.data import documents
from gptjax.data.corpora import own
from gptjax.data.origin import spdx
from gptjax.data.read import item as item_lib

_RETRIEVED = ('retrieved', 'date', 'timestamp')
_TURN = re.compile(r'(?:\A|\n\n)(Human|Assistant):')


def document(
    item: item_lib.Item, place: str, record: object, offset: int | None
) -> documents.Document | documents.Skipped:
    """The document of a record, or why it is none.

    A record with an `id` of its own keeps it, in whatever file it lies; its source is
    then the one it names, or the name of the folder. Others are called by `place`.
    """
    if not isinstance(record, dict):
        return item.skipped('no record', offset)
    kind = item.options.kind
    try:
        given = {name: value for name, value in record.items() if value is not None}
        content = own.CONTENT[kind](place, _ALIKE[kind](given))
        fields = origin(given)
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        return item.skipped(f'no {kind}', offset)  # UserError among them
    if kind == 'translation' and 'translation' not in given:
        fields.pop('source', None)  # it is a text
    identity = given.get('id')
    if isinstance(identity, str) and identity:
        fields.setdefault('source', item.group)
    else:
        identity = place
    return item.document(identity, offset, **content, **fields)


def origin(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say where a record comes from, as far as they can be used."""
    fields = {k: v for k, v in record.items() if isinstance(v, str) and v}
    told = ('source', 'url', 'evidence', 'opt_out', 'unit', 'media', 'language')
    made: dict[str, Any] = {name: fields[name] for name in told if name in fields}
    made['source'] = made.get('source', '').lstrip('/')
    made['language'] = made.get('language', '').lower()
    for name, usable in _USABLE.items():
        if name in made and not usable(made[name]):
            del made[name]
    times = (utc(record.get(name)) for name in _RETRIEVED)
    if (retrieved := next(filter(None, times), None)) is not None:
        made['retrieved'] = retrieved
    licence = fields.get('licence', fields.get('license', spdx.UNKNOWN))
    if licence != spdx.UNKNOWN:
        made.setdefault('evidence', f'field licence: {licence[:200]}')
        found = spdx.parse(licence)
        made['licence'] = licence if found == spdx.UNKNOWN else found
    if isinstance(record.get('steps'), list | tuple):
        made['steps'] = tuple(map(str, record['steps']))
    signals = _value(record.get('signals'))
    if isinstance(signals, Mapping):
        numbers = {k: v for k, v in signals.items() if isinstance(v, int | float)}
        made['signals'] = {
            str(k): float(v) for k, v in numbers.items() if abs(v) < 1e300
        }
    return made


_USABLE: dict[str, Callable[[str], bool]] = {
    'source': bool,
    'media': ('text/plain', 'text/html').__contains__,
    'language': lambda code: len(code) == 2 and code.isascii(),
}


def utc(value: object) -> str | None:
    """A time as RFC 3339 in UTC, to the second; None for what is no time.

    A time without a zone is taken for UTC, as in the WARC format.
    """
    try:
        if isinstance(value, str):
            value = datetime.datetime.fromisoformat(value.strip())
        if not isinstance(value, datetime.datetime):
            return None
        zoned = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        plain = zoned.astimezone(datetime.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
    return f'{plain.isoformat(timespec="seconds")}Z'


def _text(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, 'text': record['text'] if 'text' in record else record['content']}


def _translation(record: dict[str, Any]) -> dict[str, Any]:
    return _value(record.get('translation')) or record


def _chat(record: dict[str, Any]) -> dict[str, Any]:
    """Messages, or an instruction and its answer, by the names that they go by."""
    if 'messages' in record:
        tools = _value(record.get('tools'))
        return {'messages': _value(record['messages']), 'tools': tools}
    if 'instances' in record:  # self-instruct: the first of its examples
        record = {**record, **record['instances'][0]}
    asked = record['prompt'] if 'prompt' in record else record['instruction']
    if record.get('input'):
        asked = f'{asked}\n\n{record["input"]}'
    names = ('response', 'completion', 'output')
    answer = next((record[name] for name in names if name in record), None)
    roles = {'user': asked, 'assistant': answer}
    return {'messages': [{'role': k, 'content': v} for k, v in roles.items()]}


def _feedback(record: dict[str, Any]) -> dict[str, Any]:
    if 'messages' in record:
        *prompt, answer = _value(record['messages'])
        record = {**record, 'prompt': prompt, 'completion': answer['content']}
    label = {'true': True, 'false': False}.get(record['label'], record['label'])
    return {**record, 'prompt': _value(record['prompt']), 'label': label}


def _pairs(record: dict[str, Any]) -> dict[str, Any]:
    record = _value(record.get('pair')) or record
    if 'prompt' in record:
        return {**record, 'prompt': _value(record['prompt'])}
    chosen, rejected = (_dialogue(record[k]) for k in ('chosen', 'rejected'))
    if chosen[:-1] != rejected[:-1]:
        raise ValueError('two conversations')
    answers = {'chosen': chosen[-1]['content'], 'rejected': rejected[-1]['content']}
    return {'prompt': chosen[:-1], **answers}


def _dialogue(text: str) -> list[dict[str, str]]:
    """The turns of '\\n\\nHuman: ...\\n\\nAssistant: ...', as HH-RLHF writes them."""
    roles = {'Human': 'user', 'Assistant': 'assistant'}
    _, *parts = _TURN.split(text)
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [
        {'role': roles[who], 'content': said.removeprefix(' ')} for who, said in turns
    ]


def _value(field: object) -> Any:
    """A field that Parquet may hold as JSON."""
    if isinstance(field, str) and field[:1] in ('[', '{'):
        try:
            return json.loads(field)
        except ValueError:
            return field
    return field


# Records as they are found to records as `own.CONTENT` has them.
_ALIKE: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    'text': _text,
    'labelled': _text,
    'translation': _translation,
    'chat': _chat,
    'feedback': _feedback,
    'pairs': _pairs,
}
