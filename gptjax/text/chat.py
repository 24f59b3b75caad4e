"""A conversation as tokens, and how much each of them counts in the loss.

Ours: `<|endoftext|>`, then for each message its role as a control token, its content,
and `<|end|>`. A reply is generated after `<|assistant|>` and ends itself with
`<|end|>`. Tools are text: their schemas stand between `<tools>` and `</tools>` at the
end of the system's message, a call between `<tool_call>` and `</tool_call>` after what
the assistant says, and what a tool answers is a message of the user between
`<tool_response>` and `</tool_response>`. A tokenizer that came with a chat template has
the format of that instead.
"""

from collections.abc import Iterator, Mapping, Sequence

from gptjax import command
from gptjax.text import messages as messages_lib
from gptjax.text import templated
from gptjax.text import tokenizer as tokenizer_lib

ROLES = {name: f'<|{name}|>' for name in ('system', 'user', 'assistant')}
BEGIN, END = tokenizer_lib.BEGIN, tokenizer_lib.END
Message = messages_lib.Message


def encode(
    tokenizer: tokenizer_lib.Tokenizer, messages: Sequence[Message]
) -> tuple[list[int], list[float]]:
    """The ids of a conversation, and how much each counts in the loss: equal lengths.

    The weight of a message (1 if it has none) on what the assistant says: its content,
    its calls and the `<|end|>` after them; 0 on all else. Of a template, `templated`
    finds what the assistant says.

    Raises UserError for a malformed conversation or one with nothing to learn, and for
    a template that fails, or does not tell what the assistant says or how it ends.
    """
    found = messages_lib.read(messages)
    weights = [messages_lib.weight(message) for message in found]
    if not any(weights):
        raise command.UserError(
            'the conversation has no assistant message of a weight above 0, so there '
            'is nothing to learn from it; add one or leave the conversation out.'
        )
    if tokenizer.template:
        return templated.Templated(tokenizer, found).encode(weights)
    return _encode(tokenizer, found)


def prompt(
    tokenizer: tokenizer_lib.Tokenizer, messages: Sequence[Message]
) -> list[int]:
    """The ids that a reply continues: the conversation, then `<|assistant|>`.

    What `encode` gives for the conversation with the reply begins with them. Raises
    UserError for a malformed conversation, a template that fails, or a tokenizer
    without a format of chats.
    """
    found = messages_lib.read(messages)
    if tokenizer.template:
        return templated.Templated(tokenizer, found).prompt()
    ids, _ = _encode(tokenizer, found)
    return [*ids, tokenizer.control[ROLES['assistant']]]


def decode(tokenizer: tokenizer_lib.Tokenizer, ids: Sequence[int]) -> list[Message]:
    """The whole messages in ids of our format: their roles and contents.

    None of a tokenizer with a template, or of a text.
    """
    control, found, start = tokenizer.control, [], 0
    roles = {control[word]: name for name, word in ROLES.items() if word in control}
    for place, token in enumerate([] if tokenizer.template else ids):
        if token in roles:
            start = place
        elif roles and token == control[END] and ids[start] in roles:
            content = tokenizer.decode(ids[start + 1 : place])
            made: Message = {'role': roles[ids[start]], 'content': content}
            found.append(made)
    return found


def check_roles(control: Mapping[str, int]) -> None:
    """Raises UserError for a tokenizer that has not the control tokens of our chats."""
    lacking = [name for name in (*ROLES.values(), END) if name not in control]
    if lacking:
        raise command.UserError(
            f'the tokenizer of this model has no {lacking[0]} and no chat template, so '
            f'it has no format for chats; ask it for a completion, or take a model '
            f'that was made for chats.'
        )


def _encode(
    tokenizer: tokenizer_lib.Tokenizer, messages: Sequence[Message]
) -> tuple[list[int], list[float]]:
    check_roles(tokenizer.control)
    ids, weights = [tokenizer.control[BEGIN]], [0.0]
    turns = list(_turns(messages))
    contents = tokenizer.encode_batch([text for _, text, _ in turns])
    for (role, _, weight), content in zip(turns, contents, strict=True):
        ids += [tokenizer.control[ROLES[role]], *content, tokenizer.control[END]]
        weights += [0.0, *[weight] * (len(content) + 1)]
    return ids, weights


def _turns(messages: Sequence[Message]) -> Iterator[tuple[str, str, float]]:
    """(role, text, weight) of each message, with tools spelled as text."""
    tools = [messages_lib.to_json(tool) for tool in messages[0].get('tools', ())]
    schemas = '\n'.join(['<tools>', *tools, '</tools>']) if tools else ''
    if tools and messages[0]['role'] != 'system':
        yield 'system', schemas, 0.0
    for i, message in enumerate(messages):
        role, text = message['role'], message['content'] or ''
        if role == 'tool':
            role, text = 'user', f'<tool_response>\n{text}\n</tool_response>'
        elif role == 'system' and i == 0 and tools:
            text = f'{text}\n\n{schemas}' if text else schemas
        called = messages_lib.calls(message)
        spelled = [f'<tool_call>\n{call}\n</tool_call>' for call in called]
        text = '\n'.join([text] * bool(text) + spelled)
        yield role, text, messages_lib.weight(message)
