import pytest

from gptjax import command
from gptjax.text import chat, messages

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


SCHEMA = {'type': 'function', 'function': {'name': 'add', 'parameters': {}}}
CALL = {'function': {'name': 'add', 'arguments': {'a': 1, 'b': 'é'}}}
TOOLS = [
    {'role': 'user', 'content': '1 + 1?', 'tools': [SCHEMA]},
    {'role': 'assistant', 'content': 'Wait', 'tool_calls': [CALL, CALL]},
    {'role': 'tool', 'content': '2', 'tool_call_id': 'x', 'name': 'add'},
    {'role': 'tool', 'content': '2'},
    {'role': 'assistant', 'content': None, 'tool_calls': [CALL]},
    {'role': 'tool', 'content': '2'},
    {'role': 'assistant', 'content': 'It is 2.'},
]


def test_tools_are_spelled_in_our_format(tokenizers):
    made = tokenizers['bytes']
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'
    schema = '{"type": "function", "function": {"name": "add", "parameters": {}}}'
    two = '<tool_response>\n2\n</tool_response>'
    system = f'<tools>\n{schema}\n</tools>'
    turns = [
        ('system', system, 0),
        ('user', '1 + 1?', 0),
        ('assistant', f'Wait\n{call}\n{call}', 1),
        *[('user', two, 0)] * 2,
        ('assistant', call, 1),
        ('user', two, 0),
        ('assistant', 'It is 2.', 1),
    ]
    ids, mask = chat.encode(made, TOOLS)
    assert sum(mask) == sum(len(made.encode(t)) + 1 for _, t, said in turns if said)
    plain = [{'role': role, 'content': text} for role, text, _ in turns]
    assert chat.encode(made, plain) == (ids, mask)
    told = [{**TOOLS[0], 'role': 'system', 'content': 'Be kind.'}, *TOOLS[1:]]
    plain[:2] = [{'role': 'system', 'content': f'Be kind.\n\n{system}'}]
    assert chat.encode(made, told) == chat.encode(made, plain)
    as_json = {'function': {'name': 'add', 'arguments': '{"a": 1, "b": "é"}'}}
    other = [*TOOLS[:4], {**TOOLS[4], 'tool_calls': [as_json]}, *TOOLS[5:]]
    assert chat.encode(made, other) == (ids, mask)


def test_a_message_counts_by_its_weight(tokenizer):
    weighted = [*TALK[:2], {**TALK[2], 'weight': 0.25}, TALK[3], TALK[4]]
    ids, mask = chat.encode(tokenizer, TALK)
    same, weights = chat.encode(tokenizer, weighted)
    first = len(tokenizer.encode('Yé')) + 1
    rest = mask.count(1) - first
    assert same == ids
    assert [w for w in weights if w] == [0.25] * first + [1] * rest
    assert [bool(w) for w in weights] == [bool(m) for m in mask]
    weighted[2:] = [{**TALK[2], 'weight': 0}, TALK[3], {**TALK[4], 'weight': 0}]
    with pytest.raises(command.UserError, match='nothing to learn'):
        chat.encode(tokenizer, weighted)


def test_what_a_message_says_can_be_changed():
    found = [list(messages.texts(message)) for message in TOOLS]
    assert found[1] == ['Wait', *messages.calls(TOOLS[1])]
    assert len(found[4]) == 1
    changed = messages.changed(TOOLS[1], str.upper)
    assert changed['content'] == 'WAIT'
    arguments = {'a': 1, 'b': 'É'}
    assert (
        changed['tool_calls']
        == [{'function': {'name': 'add', 'arguments': arguments}}] * 2
    )
    assert TOOLS[1]['tool_calls'][0] == CALL
    assert messages.changed(TOOLS[4], str.upper)['content'] is None


def test_no_reply_is_nothing_to_learn_from(tokenizers):
    with pytest.raises(command.UserError, match='no assistant message'):
        chat.encode(tokenizers['bytes'], TALK[:2])


def wrong(arguments):
    return {'function': {'name': 'f', 'arguments': arguments}}


@pytest.mark.parametrize(
    ('talk', 'message'),
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
        ([{**TALK[2], 'weight': -1}], r'messages\[0\]\.weight is -1; it is a number'),
        ([{**TALK[2], 'weight': float('nan')}], r'\.weight is nan'),
        ([{**TALK[2], 'weight': True}], r'\.weight is True'),
        ([{**TALK[2], 'weight': 1e39}], r'\.weight is 1e.39; .* from 0 to'),
        ([{**TALK[2], 'weight': 10**400}], r'\.weight is 10000'),
        ([TALK[1], TOOLS[2]], r'messages\[1\] is what a tool answered, and no call'),
        ([TOOLS[2]], r'messages\[0\] is what a tool answered'),
        ([TALK[0], TOOLS[0]], r'messages\[1\] has tools, which'),
        ([{**TOOLS[0], 'tools': [{}]}], r'messages\[0\]\.tools\[0\] names no function'),
        ([{**TOOLS[0], 'tools': 'add'}], r'\.tools is .add.; it is a list of objects'),
        ([{**TALK[2], 'tool_calls': []}], r'\.tool_calls is empty'),
        ([{**TALK[2], 'tool_calls': [{'name': 'f'}]}], r'calls\[0\] names no function'),
        *(
            ([{**TALK[2], 'tool_calls': [wrong(arguments)]}], message)
            for arguments, message in (
                ('[', r'tool_calls\[0\]\.function\.arguments is .\[.; it is an object'),
                ('[' * 100_000, r'arguments is .\[\[\[.*; it is an object'),
                ('{"a": "\\ud800"}', r'arguments is .*ud800.*; it is an object'),
                ([1], r'arguments is \[1\]; it is an object'),
            )
        ),
        ([{**TOOLS[4], 'content': 3}], r'\.content is of type int'),
        ([{**TOOLS[2], 'name': 3}], r'messages\[0\]\.name is of type int'),
    ],
)
def test_malformed_conversations_are_named(talk, message):
    with pytest.raises(command.UserError, match=message):
        messages.read(talk)


def test_well_formed_conversations_pass():
    assert messages.read(tuple(TALK)) == TALK
    assert messages.read([{**turn, 'tool_calls': None} for turn in TALK]) == TALK
    assert messages.read(TOOLS) == TOOLS
