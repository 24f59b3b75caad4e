"""A conversation as tokens, and which of them are learned.

Ours: `<|endoftext|>`, then for each message its role as a control token, its content,
and `<|end|>`. A reply is generated after `<|assistant|>` and ends itself with
`<|end|>`. A tokenizer that came with a chat template has the format of that instead.
"""

from collections.abc import Mapping, Sequence
import re
from typing import Any, TypedDict

from gptjax import command
from gptjax.text import template
from gptjax.text import tokenizer as tokenizer_lib

ROLES = {name: f'<|{name}|>' for name in ('system', 'user', 'assistant')}
BEGIN, END = tokenizer_lib.BEGIN, tokenizer_lib.END


class Message(TypedDict):
    """One turn of a conversation; role: 'system', 'user' or 'assistant'."""

    role: str
    content: str


def encode(
    tokenizer: tokenizer_lib.Tokenizer, messages: Sequence[Message]
) -> tuple[list[int], list[int]]:
    """The ids of a conversation, and its loss mask of the same length.

    The mask is 1 on what the assistant says: its content and the `<|end|>` after it; of
    a template, its `generation` blocks, or else what each assistant message adds to the
    prompt before it, up to the last token that ends an answer.

    Raises UserError for a malformed conversation or one without an assistant turn, and
    for a template that fails, or does not tell what the assistant says.
    """
    check(messages)
    if all(message['role'] != 'assistant' for message in messages):
        raise command.UserError(
            'the conversation has no assistant message, so there is nothing to learn '
            'from it; add one or leave the conversation out.'
        )
    if tokenizer.template:
        return _Templated(tokenizer, messages).encode()
    return _encode(tokenizer, messages)


def prompt(
    tokenizer: tokenizer_lib.Tokenizer, messages: Sequence[Message]
) -> list[int]:
    """The ids that a reply continues: the conversation, then `<|assistant|>`.

    A prefix of what `encode` gives for the conversation with the reply. Raises
    UserError for a malformed conversation, a template that fails, or a tokenizer
    without a format of chats.
    """
    check(messages)
    if tokenizer.template:
        templated = _Templated(tokenizer, messages)
        return templated.ids(templated.render(add_generation_prompt=True)[0])
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


def check_roles(control: Mapping[str, int]) -> None:
    """Raises UserError for a tokenizer that has not the control tokens of our chats."""
    lacking = [name for name in (*ROLES.values(), END) if name not in control]
    if lacking:
        raise command.UserError(
            f'the tokenizer of this model has no {lacking[0]} and no chat template, so '
            f'it has no format for chats; ask it for a completion, or take a model '
            f'that was made for chats.'
        )


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
    check_roles(tokenizer.control)
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


class _Templated:
    """A conversation in the format of the tokenizer's template.

    What a message says is never a control token: where it spells one, a mark breaks the
    spelling until the template has run.
    """

    def __init__(
        self, tokenizer: tokenizer_lib.Tokenizer, messages: Sequence[Message]
    ) -> None:
        self._tokenizer = tokenizer
        texts = [tokenizer.template, *(message['content'] for message in messages)]
        for text in texts[1:]:
            tokenizer_lib.utf8(text)
        (self._mark,) = template.unused(texts, 1)
        self._messages: list[Message] = [
            {'role': m['role'], 'content': self._broken(m['content'])} for m in messages
        ]

    def _broken(self, text: str) -> str:
        """The text with a mark after the first character of each spelling."""
        spellings = [word for word in self._tokenizer.special if len(word) > 1]
        while any(word in text for word in spellings):
            pattern = '|'.join(map(re.escape, spellings))
            text = re.sub(pattern, lambda m: m[0][0] + self._mark + m[0][1:], text)
        return text

    def render(
        self, count: int | None = None, add_generation_prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """The first `count` messages, and where in them the `generation` blocks are."""
        made = self._tokenizer
        return template.render(
            made.template, self._messages[:count], made.words, add_generation_prompt
        )

    def ids(self, text: str) -> list[int]:
        """The ids of what was rendered."""
        made = self._tokenizer
        if self._mark not in text:
            return made.encode_special(text)
        ids = []
        for part in tokenizer_lib.cut(text, made.special):
            if part in made.special:
                ids.append(made.special[part])
            else:
                ids += made.encode(part.replace(self._mark, ''))
        return ids

    def encode(self) -> tuple[list[int], list[int]]:
        """The ids and the loss mask, from `generation` blocks or else from prefixes."""
        text, blocks = self.render()
        ids = self.ids(text)
        mask = [0] * len(ids)
        for begin, end in (
            self._blocks(ids, text, blocks) if blocks else self._turns(ids)
        ):
            mask[begin:end] = [1] * (end - begin)
        return ids, mask

    def _blocks(
        self, ids: list[int], text: str, blocks: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """The tokens that touch each stretch of the text."""
        offsets = getattr(self._tokenizer, 'encode_offsets', None)
        if offsets is None or self._mark in text:
            return [
                (self._length(ids, text[:begin]), self._length(ids, text[:end]))
                for begin, end in blocks
            ]
        found = []
        for begin, end in blocks:
            inside = [
                i
                for i, (first, last) in enumerate(offsets(text)[1])
                if first < end and last > begin
            ]
            found += [(inside[0], inside[-1] + 1)] if inside else []
        return found

    def _turns(self, ids: list[int]) -> list[tuple[int, int]]:
        """The tokens that each assistant message adds to the prompt before it."""
        found = []
        for i, message in enumerate(self._messages):
            if message['role'] != 'assistant':
                continue
            begin = self._length(ids, self.render(i, add_generation_prompt=True)[0])
            end = self._length(ids, self.render(i + 1)[0])
            said = [
                place + 1
                for place in range(begin, end)
                if ids[place] in self._tokenizer.ends
            ]
            found.append((begin, said[-1] if said else end))
        return found

    def _length(self, ids: list[int], text: str) -> int:
        """The number of tokens of a beginning of the rendered text."""
        first = self.ids(text)
        if ids[: len(first)] != first:
            raise command.UserError(
                'the chat template renders the beginning of this conversation in '
                'another way than the whole, so that what the assistant says cannot be '
                'told; put {% generation %} and {% endgeneration %} around it in the '
                'template.'
            )
        return len(first)
