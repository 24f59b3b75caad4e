"""The messages of a conversation: read, checked, and what stands in them."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
from typing import Any, NotRequired, TypedDict

from gptjax import command

# What a message may have besides role and content; the first one may have `tools` too.
FIELDS: Mapping[str, tuple[str, ...]] = {
    'system': (),
    'user': (),
    'assistant': ('tool_calls', 'weight'),
    'tool': ('tool_call_id', 'name'),
}

MOST = 1e6  # times what others count; of float32, sums over batches shall stay finite


class Message(TypedDict):
    """One turn of a conversation; role: 'system', 'user', 'assistant' or 'tool'.

    content: a string, or None beside `tool_calls`.
    tool_calls: [{'function': {'name': ..., 'arguments': {...}}}, ...].
    weight: how much what the assistant says counts in the loss: 1 if it is not there.
    tools: of the first message: JSON schemas of what may be called in all of them.
    """

    role: str
    content: Any
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    weight: NotRequired[float]
    tools: NotRequired[list[dict[str, Any]]]


def read(messages: Any) -> list[Message]:
    """The conversation, without what is null and with JSON of calls as objects.

    Raises UserError, with the place, for what is not a conversation.
    """
    if not isinstance(messages, list | tuple):
        raise command.UserError(
            f'messages is {_kind(messages)}; a conversation is a list of objects, each '
            f'with a role and a content.'
        )
    if not messages:
        raise command.UserError(
            'messages is empty; a conversation has at least one message.'
        )
    found: list[Message] = []
    for i, message in enumerate(messages):
        found.append(_message(f'messages[{i}]', message, first=i == 0))
        if found[i]['role'] == 'tool' and not (
            i and ('tool_calls' in found[i - 1] or found[i - 1]['role'] == 'tool')
        ):
            raise command.UserError(
                f'messages[{i}] is what a tool answered, and no call stands before it; '
                'give the assistant message before it tool_calls.'
            )
    return found


def weight(message: Message) -> float:
    """How much what a message says counts in the loss."""
    return float(message.get('weight', 1)) if message['role'] == 'assistant' else 0.0


def calls(message: Message) -> list[str]:
    """The calls of a message as JSON."""
    return [
        to_json({key: call['function'][key] for key in ('name', 'arguments')})
        for call in message.get('tool_calls', ())
    ]


def texts(message: Message) -> Iterator[str]:
    """What a message says: its content, and its calls as JSON."""
    if message['content'] is not None:
        yield message['content']
    yield from calls(message)


def changed(message: Message, change: Callable[[str], str]) -> Message:
    """The message with each text in its content and in its calls' arguments changed."""

    def inside(value: Any) -> Any:
        if isinstance(value, str):
            return change(value)
        if isinstance(value, list):
            return [inside(one) for one in value]
        if isinstance(value, dict):
            return {key: inside(one) for key, one in value.items()}
        return value

    new: Message = {**message, 'content': inside(message['content'])}
    if 'tool_calls' in message:
        new['tool_calls'] = []
        for call in message['tool_calls']:
            function = call['function']
            function = {**function, 'arguments': inside(function['arguments'])}
            new['tool_calls'].append({**call, 'function': function})
    return new


def factor(value: Any) -> bool:
    """Whether a loss can be multiplied by it: a number from 0 to MOST."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value <= MOST


def to_json(value: Any) -> str:
    """As the filter `tojson` of chat templates writes it."""
    return json.dumps(value, ensure_ascii=False)


def _message(place: str, message: Any, first: bool) -> Message:
    if not isinstance(message, dict):
        raise command.UserError(
            f'{place} is {_kind(message)}; a message is an object with a role and a '
            f'content.'
        )
    optional = {k: v for k, v in message.items() if k not in ('role', 'content')}
    optional = {k: v for k, v in optional.items() if v is not None}
    called = 'tool_calls' in optional
    for key in ('role', 'content'):
        if key not in message and not (called and key == 'content'):
            raise command.UserError(
                f'{place} has no {key}; a message has a role and a content.'
            )
    role, content = message['role'], message.get('content')
    if not isinstance(role, str) or role not in FIELDS:
        raise command.UserError(
            f'{place}.role is {role!r}; it is one of {", ".join(FIELDS)}.'
        )
    if not isinstance(content, str) and not (called and content is None):
        raise command.UserError(f'{place}.content is {_kind(content)}; it is a string.')
    known = (*FIELDS[role], *(('tools',) if first else ()))
    if other := sorted(str(key) for key in optional if key not in known):
        raise command.UserError(
            f'{place} has {", ".join(other)}, which the chat template has no place '
            f'for; this message of {role} has '
            f'{", ".join(("role", "content", *known))} alone.'
        )
    for name, value in optional.items():
        optional[name] = _READ[name](f'{place}.{name}', value)
    made: dict[str, Any] = {'role': role, 'content': content, **optional}
    return made  # type: ignore[return-value]


def _string(place: str, value: Any) -> str:
    if not isinstance(value, str):
        raise command.UserError(f'{place} is {_kind(value)}; it is a string.')
    return value


def _weight(place: str, value: Any) -> float:
    if not factor(value):
        raise command.UserError(
            f'{place} is {value!r:.60}; it is a number from 0 to {MOST:g}, by which '
            'the loss of the message is multiplied: 0 is not learned.'
        )
    return float(value)


def _objects(place: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise command.UserError(f'{place} is {value!r:.60}; it is a list of objects.')
    return value


def _tool_calls(place: str, value: Any) -> list[dict[str, Any]]:
    found = []
    for i, call in enumerate(_objects(place, value)):
        function = call.get('function')
        if not isinstance(function, dict) or not isinstance(function.get('name'), str):
            raise command.UserError(
                f'{place}[{i}] names no function; a call is {{"function": {{"name": '
                '..., "arguments": {...}}}.'
            )
        arguments = function.get('arguments')
        if isinstance(arguments, str):  # as OpenAI writes them
            with contextlib.suppress(ValueError, RecursionError):
                parsed = json.loads(arguments)
                to_json(parsed).encode()  # half a surrogate pair
                arguments = parsed
        if not isinstance(arguments, dict):
            raise command.UserError(
                f'{place}[{i}].function.arguments is {arguments!r:.60}; it is an '
                'object, or one as JSON.'
            )
        found.append({**call, 'function': {**function, 'arguments': arguments}})
    if not found:
        raise command.UserError(f'{place} is empty; leave it out where nothing is.')
    return found


def _tools(place: str, value: Any) -> list[dict[str, Any]]:
    for i, tool in enumerate(_objects(place, value)):
        schema = tool.get('function', tool)
        if not isinstance(schema, dict) or not isinstance(schema.get('name'), str):
            raise command.UserError(
                f'{place}[{i}] names no function; a tool is a schema, {{"type": '
                '"function", "function": {"name": ..., "parameters": ...}}.'
            )
    return list(value)


_READ: Mapping[str, Callable[[str, Any], Any]] = {
    'tool_calls': _tool_calls,
    'tool_call_id': _string,
    'name': _string,
    'weight': _weight,
    'tools': _tools,
}


def _kind(value: Any) -> str:
    return 'null' if value is None else f'of type {type(value).__name__}'
