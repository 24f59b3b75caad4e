import pytest

from gptjax import command
from gptjax.text import chat

TALK = [
    {'role': 'system', 'content': 'Be kind.'},
    {'role': 'user', 'content': '<|end|>'},
    {'role': 'assistant', 'content': 'Yé'},
    {'role': 'user', 'content': ''},
    {'role': 'assistant', 'content': ''},
]


def test_ids_and_mask_of_a_conversation(tokenizers):
    begin, system, user, assistant, end = 256, 257, 258, 259, 260
    ids, mask = chat.encode(tokenizers['bytes'], TALK)
    expected = [
        (begin, 0),
        (system, 0),
        *((byte, 0) for byte in b'Be kind.'),
        (end, 0),
        (user, 0),
        *((byte, 0) for byte in b'<|end|>'),
        (end, 0),
        (assistant, 0),
        *((byte, 1) for byte in 'Yé'.encode()),
        (end, 1),
        (user, 0),
        (end, 0),
        (assistant, 0),
        (end, 1),
    ]
    assert list(zip(ids, mask, strict=True)) == expected


def test_the_mask_covers_what_the_assistant_says(tokenizer):
    ids, mask = chat.encode(tokenizer, TALK)
    assert set(mask) == {0, 1}
    said = [token for token, one in zip(ids, mask, strict=True) if one]
    end = tokenizer.control['<|end|>']
    assert said == [*tokenizer.encode('Yé'), end, end]


def test_a_prompt_begins_the_conversation_with_its_reply(tokenizer):
    ids, mask = chat.encode(tokenizer, TALK)
    for known in (2, 4):
        prompt = chat.prompt(tokenizer, TALK[:known])
        assert prompt == ids[: len(prompt)]
        assert mask[len(prompt) - 1 : len(prompt) + 1] == [0, 1]


def test_no_reply_is_nothing_to_learn_from(tokenizers):
    with pytest.raises(command.UserError, match='no assistant message'):
        chat.encode(tokenizers['bytes'], TALK[:2])


@pytest.mark.parametrize(
    ('messages', 'message'),
    [
        (None, 'messages is null'),
        ('hello', 'messages is of type str'),
        ({'role': 'user', 'content': 'x'}, 'messages is of type dict'),
        ([], 'messages is empty'),
        ([*TALK, 'hello'], r'messages\[5\] is of type str'),
        ([{'content': 'x'}], r'messages\[0\] has no role'),
        ([{'role': 'user'}], r'messages\[0\] has no content'),
        ([{'role': 'robot', 'content': 'x'}], r"messages\[0\]\.role is 'robot'; it is"),
        ([{'role': ['user'], 'content': 'x'}], r'messages\[0\]\.role is \['),
        ([{'role': 'user', 'content': None}], r'messages\[0\]\.content is null'),
        ([{'role': 'user', 'content': ['x']}], r'\.content is of type list'),
        ([{**TALK[0], 'weight': 0}], r'messages\[0\] has weight, which'),
    ],
)
def test_malformed_conversations_are_named(messages, message, tokenizers):
    with pytest.raises(command.UserError, match=message):
        chat.check(messages)


def test_well_formed_conversations_pass():
    chat.check(TALK)
    chat.check(tuple(TALK[1:2]))
