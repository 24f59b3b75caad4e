"""A conversation as tokens, and which of them are learned.

`<|endoftext|>`, then for each message its role as a control token, its content, and
`<|end|>`. A reply is generated after `<|assistant|>` and ends itself with `<|end|>`.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

from gptjax import command
from gptjax.text import tokenizer as tokenizer_lib

ROLES = {name: f'<|{name}|>' for name in ('system', 'user', 'assistant')}
BEGIN, END = '<|endoftext|>', '<|end|>'


class Message(TypedDict):
    """One turn of a conversation; role: 'system', 'user' or 'assistant'."""

    role: str
    content: str


def encode(
    tokenizer: tokenizer_lib.Tokenizer, messages: Sequence[Message]
) -> tuple[list[int], list[int]]:
    """The ids of a conversation, and its loss mask of the same length.

    The mask is 1 on what the assistant says: its content and the `<|end|>` after it.
    Raises UserError for a malformed conversation or one without an assistant turn.
    """
    check(messages)
    if all(message['role'] != 'assistant' for message in messages):
        raise command.UserError(
            'the conversation has no assistant message, so there is nothing to learn '
            'from it; add one or leave the conversation out.'
        )
    return _encode(tokenizer, messages)


def prompt(
    tokenizer: tokenizer_lib.Tokenizer, messages: Sequence[Message]
) -> list[int]:
    """The ids that a reply continues: the conversation, then `<|assistant|>`.

    A prefix of what `encode` gives for the conversation with the reply. Raises
    UserError for a malformed conversation.
    """
    check(messages)
    ids, _ = _encode(tokenizer, messages)
    return [*ids, tokenizer.control[ROLES['assistant']]]


def check(messages: Any) -> None:
    """Raises UserError, with the place, for what is not a conversation."""
    if not isinstance(messages, list | tuple):
        raise command.UserError(
            f'messages is {_kind(messages)}; a conversation is a list of objects, each '
            f'with a role and a content.'
        )
    if not messages:
        raise command.UserError(
            'messages is empty; a conversation has at least one message.'
        )
    for i, message in enumerate(messages):
        _check_message(f'messages[{i}]', message)


def _check_message(place: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise command.UserError(
            f'{place} is {_kind(message)}; a message is an object with a role and a '
            f'content.'
        )
    for key in ('role', 'content'):
        if key not in message:
            raise command.UserError(
                f'{place} has no {key}; a message has a role and a content.'
            )
    role, content = message['role'], message['content']
    if not isinstance(role, str) or role not in ROLES:
        raise command.UserError(
            f'{place}.role is {role!r}; it is one of {", ".join(ROLES)}.'
        )
    if not isinstance(content, str):
        raise command.UserError(f'{place}.content is {_kind(content)}; it is a string.')
    other = sorted(str(key) for key in message if key not in ('role', 'content'))
    if other:
        raise command.UserError(
            f'{place} has {", ".join(other)}, which the chat template has no place '
            f'for; a message has a role and a content alone.'
        )


def _kind(value: Any) -> str:
    return 'null' if value is None else f'of type {type(value).__name__}'


def _encode(
    tokenizer: tokenizer_lib.Tokenizer, messages: Sequence[Message]
) -> tuple[list[int], list[int]]:
    ids, mask = [tokenizer.control[BEGIN]], [0]
    contents = tokenizer.encode_batch([message['content'] for message in messages])
    for message, content in zip(messages, contents, strict=True):
        said = int(message['role'] == 'assistant')
        ids += [
            tokenizer.control[ROLES[message['role']]],
            *content,
            tokenizer.control[END],
        ]
        mask += [0, *[said] * (len(content) + 1)]
    return ids, mask
