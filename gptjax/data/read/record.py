"""A record of JSON Lines, of JSON or of Parquet as a document."""

from collections.abc import Mapping
import datetime
import json
from typing import Any

from gptjax.data import documents
from gptjax.data.corpora import chat, files, pairs
from gptjax.data.origin import spdx
from gptjax.data.read import item as item_lib

_RETRIEVED = ('retrieved', 'date', 'timestamp')


def document(
    item: item_lib.Item, place: str, record: object, offset: int | None
) -> documents.Document | documents.Skipped:
    """The document of a record, or why it is none.

    A record with an `id` of its own keeps it, in whatever file it lies; its source is
    then the one it names, or the name of the folder. Others are called by `place`.
    """
    if not isinstance(record, dict):
        return item.skipped('no record', offset)
    try:
        content = KINDS[item.options.kind](record)
        json.dumps([content, record.get('id')], ensure_ascii=False).encode()
    except UnicodeError:
        return item.skipped(files.INVALID, offset)
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        return item.skipped(f'no {item.options.kind}', offset)  # UserError among them
    fields = origin(record)
    if 'licence' not in fields:
        fields |= {'licence': item.licence, 'evidence': item.evidence}
    own = _string(record, 'id')
    fields.setdefault('source', item.name if own is None else item.group)
    made = documents.Document(own or place, **content, **fields)
    if not made.whole.strip():
        return item.skipped('empty', offset)
    return made if len(made.whole) <= item_lib.LIMIT else item.skipped('too large')


def origin(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say where a record comes from, as far as they can be used."""
    fields: dict[str, Any] = {}
    for name in ('source', 'url', 'evidence', 'opt_out', 'unit', 'media'):
        if (value := _string(record, name)) is not None:
            fields[name] = value.lstrip('/') if name == 'source' else value
    if fields.get('media') not in (None, 'text/plain', 'text/html'):
        del fields['media']
    language = _string(record, 'language') or ''
    if len(language) == 2 and language.isascii():
        fields['language'] = language.lower()
    times = (utc(record.get(name)) for name in _RETRIEVED)
    if (retrieved := next(filter(None, times), None)) is not None:
        fields['retrieved'] = retrieved
    licence = _string(record, 'licence') or _string(record, 'license')
    if licence is not None and licence != spdx.UNKNOWN:
        fields.setdefault('evidence', f'field licence: {licence[:200]}')
        found = spdx.parse(licence)
        fields['licence'] = licence if found == spdx.UNKNOWN else found
    if isinstance(record.get('steps'), list | tuple):
        fields['steps'] = tuple(map(str, record['steps']))
    signals = _value(record.get('signals'))
    if isinstance(signals, Mapping):
        numbers = {k: v for k, v in signals.items() if isinstance(v, int | float)}
        fields['signals'] = numbers
    return fields


def utc(value: object) -> str | None:
    """A time as RFC 3339 in UTC, to the second; None for what is no time.

    A time without a zone is taken for UTC, as in the WARC format.
    """
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if not isinstance(value, datetime.datetime):
        return None
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    try:
        return value.astimezone(datetime.UTC).strftime('%Y-%m-%dT%H:%M:%SZ')
    except (OverflowError, ValueError):
        return None


def _string(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if not isinstance(value, str) or not value:
        return None
    return value.encode('utf-8', 'replace').decode()


def _text(record: dict[str, Any]) -> dict[str, Any]:
    text = record['text'] if 'text' in record else record['content']
    if not isinstance(text, str):
        raise TypeError(type(text).__name__)
    return {'text': text}


def _labelled(record: dict[str, Any]) -> dict[str, Any]:
    pair = record.get('text_pair')
    return {**_text(record), 'label': str(record['label']), 'text_pair': pair}


def _translation(record: dict[str, Any]) -> dict[str, Any]:
    inside = _value(record.get('translation')) or record
    return {'translation': {k: inside[k] + '' for k in ('source', 'target')}}


def _chat(record: dict[str, Any]) -> dict[str, Any]:
    messages = _value(record.get('messages'))
    if messages is None:
        messages = _turns(record)
    return {'messages': chat.conversation('', messages)}


def _turns(record: dict[str, Any]) -> list[dict[str, str]]:
    """An instruction and its answer, as the collections of instructions have them."""
    if 'instances' in record:  # self-instruct: the first of its examples
        record = {**record, **record['instances'][0]}
    asked = record['prompt'] if 'prompt' in record else record['instruction']
    if record.get('input'):
        asked = f'{asked}\n\n{record["input"]}'
    names = ('response', 'completion', 'output')
    answer = next(record[name] for name in names if name in record)
    return [
        {'role': 'user', 'content': asked},
        {'role': 'assistant', 'content': answer},
    ]


def _pairs(record: dict[str, Any]) -> dict[str, Any]:
    record = _value(record.get('pair')) or record
    if 'prompt' in record:
        return {'pair': pairs.pair('', {**record, 'prompt': _value(record['prompt'])})}
    chosen, rejected = (_dialogue(record[k]) for k in ('chosen', 'rejected'))
    if chosen[:-1] != rejected[:-1]:
        raise ValueError('two conversations')
    answers = {'chosen': chosen[-1]['content'], 'rejected': rejected[-1]['content']}
    return {'pair': pairs.pair('', {'prompt': chosen[:-1], **answers})}


def _dialogue(text: str) -> list[dict[str, str]]:
    """The turns of '\\n\\nHuman: ...\\n\\nAssistant: ...', as HH-RLHF writes them."""
    roles = {'Human': 'user', 'Assistant': 'assistant'}
    turns: list[dict[str, str]] = []
    for part in text.split('\n\n'):
        who, colon, rest = part.partition(':')
        if colon and who in roles:
            turns.append({'role': roles[who], 'content': rest.removeprefix(' ')})
        elif turns:
            turns[-1]['content'] += f'\n\n{part}'
    return turns


def _value(field: object) -> Any:
    """A field that Parquet may hold as JSON."""
    if isinstance(field, str) and field[:1] in ('[', '{'):
        try:
            return json.loads(field)
        except ValueError:
            return field
    return field


KINDS = {
    'text': _text,
    'labelled': _labelled,
    'translation': _translation,
    'chat': _chat,
    'pairs': _pairs,
}
