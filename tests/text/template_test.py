"""Templates of strangers: rendered as transformers does, and held to their bounds."""

from golden import chat_cases
import pytest

from gptjax import command
from gptjax.text import chat, huggingface, template

TALK = [
    {'role': 'system', 'content': 'Be kind.'},
    {'role': 'user', 'content': 'Hi <|im_end|> <|im_start|>'},
    {'role': 'assistant', 'content': 'Yé'},
    {'role': 'user', 'content': '  '},
    {'role': 'assistant', 'content': ' so\n'},
]
WORDS = {'bos_token': '<s>'}
MARKED = """\
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' %}
{% generation %}
{{- m.content + '<|im_end|>' }}
{%- endgeneration %}
{% else %}
{{- m.content + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def test_our_template_spells_tools_as_our_format_does(tokenizers):
    made = tokenizers['bytes']
    schema = {'type': 'function', 'function': {'name': 'añ', 'parameters': {}}}
    calls = [{'function': {'name': 'añ', 'arguments': {'x': ['"', None]}}}]
    talk = [
        TALK[1],
        {'role': 'assistant', 'content': None, 'tool_calls': calls},
        {'role': 'tool', 'content': ''},
        {'role': 'assistant', 'content': 'so', 'tool_calls': calls * 2},
        {'role': 'tool', 'content': '1'},
        TALK[2],
    ]
    for messages in (talk, [TALK[0], *talk], [{**TALK[0], 'content': ''}, *talk]):
        text, _ = template.render(template.OURS, messages, {}, tools=[schema])
        first = {**messages[0], 'tools': [schema]}
        ids, _ = chat.encode(made, [first, *messages[1:]])
        assert made.encode_special(text) == ids


@pytest.mark.parametrize('kind', ['bytes', 'bpe', 'gpt2'])
def test_our_template_gives_the_ids_of_our_format(kind, tokenizers):
    made = tokenizers[kind]
    ids, mask = chat.encode(made, TALK)
    text, blocks = template.render(template.OURS, TALK, {})
    assert made.encode_special(text) == ids
    said = [text[begin:end] for begin, end in blocks]
    assert said == ['Yé<|end|>', ' so\n<|end|>']
    assert mask.count(1) == sum(len(made.encode_special(part)) for part in said)
    prompt, _ = template.render(template.OURS, TALK[:2], {}, True)
    assert made.encode_special(prompt) == chat.prompt(made, TALK[:2])


def test_what_templates_need_is_there():
    source = (
        '{{ bos_token }}{% for m in messages %}\n'
        '    {% if loop.index0 == 1 %}{% continue %}{% endif %}\n'
        '{{ m.role }}|{% endfor %}{{ messages[2] | tojson }}{{ tools is none }}'
        '{{ strftime_now("%Y") | length }}{% set ns = namespace(x=1) %}{{ ns.x }}'
    )
    text, blocks = template.render(source, TALK, WORDS)
    said = '{"role": "assistant", "content": "Yé"}'
    roles = 'system|assistant|user|assistant|'
    assert text.replace('\n', '') == f'<s>{roles}{said}True41'
    assert blocks == []


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('{% for i in range(10**9) %}{% endfor %}', 'Range too big'),
        ("{{ '%1000000000d' % 1 }}", 'memory|processor time'),
        ("{{ 'a' * 10**10 }}", 'memory'),
        ('{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', 'recurses'),
        ('{{ ' + '(' * 9999 + '1' + ')' * 9999 + ' }}', 'recurses'),
        ("{% for i in range(99999) %}{{ 'abc' * 20 }}{% endfor %}", 'writes more than'),
        ("{{ ''.__class__.__mro__ }}", 'unsafe'),
        ('{{ cycler.__init__.__globals__ }}', 'unsafe'),
        ('{{ messages.append(1) }}', 'unsafe'),
        ("{{ raise_exception('roles must alternate') }}", 'roles must alternate'),
        ("{% include '/etc/passwd' %}", 'cannot be rendered'),
        ('{% if %}', 'line 1'),
        ('{{ "\\ud800" }}', 'surrogates'),
        ('{{ 1 / 0 }}', 'division by zero'),
        ('x' * 70_000, '70000 bytes'),
    ],
)
def test_hostile_templates_are_refused(source, message):
    with pytest.raises(command.UserError, match=message):
        template.render(source, TALK, WORDS)
    assert template.render('{{ bos_token }}', TALK, WORDS) == ('<s>', [])


def test_endless_loops_end(monkeypatch):
    monkeypatch.setattr(template, 'SECONDS', 0.2)
    loop = '{% for i in range(99999) %}' * 3 + '{% endfor %}' * 3
    late = r'more than 0\.2 s of processor time'
    for source, message in ((loop, late), ('{{ 10 ** (10 ** 8) }}', f'{late}|memory')):
        with pytest.raises(command.UserError, match=message):
            template.render(source, TALK, WORDS)
    assert template.render('{{ bos_token }}', TALK, WORDS) == ('<s>', [])


def test_chats_in_the_format_of_a_template(foreign):
    made = foreign['qwen']
    start, end = made.special['<|im_start|>'], made.special['<|im_end|>']
    ids, mask = chat.encode(made, TALK)
    expected = []
    for message in TALK:
        begins = [start, *made.encode(f'{message["role"]}\n')]
        said = [*made.encode(message['content']), end]
        learned = int(message['role'] == 'assistant')
        expected += [(token, 0) for token in begins]
        expected += [(token, learned) for token in said]
        expected += [(token, 0) for token in made.encode('\n')]
    assert list(zip(ids, mask, strict=True)) == expected
    prompt = chat.prompt(made, TALK[:2])
    assert prompt == ids[: len(prompt)]
    assert mask[len(prompt)] == 1


@pytest.mark.parametrize('typed', [True, False])
def test_generation_blocks_are_the_mask(typed, foreign, monkeypatch):
    made = foreign['qwen']
    talk = TALK if typed else [{**m, 'content': 'a b'} for m in TALK]
    expected = chat.encode(made, talk)
    monkeypatch.setattr(made, 'template', MARKED)
    assert chat.encode(made, talk) == expected


THOUGHTFUL = """\
{%- for m in messages %}
<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}
{{ m.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('{{ messages | length }}', r'prompt of messages\[2\] is rendered in another'),
        # A prompt that greets, a conversation that does not.
        (
            f'{MARKED}{{% if add_generation_prompt %}}x{{% endif %}}',
            r'prompt of messages\[2\] is .*prefix-preserving.*begins an answer',
        ),
        (THOUGHTFUL, r'messages\[2\]: it is rendered in another .*prefix-preserving'),
        # Answers end with what belongs to the message after them.
        (
            MARKED.replace(" + '<|im_end|>' }}\n{%- endg", ' }}\n{%- endg'),
            r"messages\[2\]: .*ends with \d+ .*stops \('<\|im_end\|>'",
        ),
        (MARKED.replace("== 'assistant'", "== 'no'", 1).replace(
            "<|im_end|>' }}\n{%- endif", "' }}\n{%- endif"),
         r'messages\[2\]: what is learned of it ends with'),
        # A generation block that opens after the first token of the answer.
        (
            MARKED.replace('{% generation %}', '{{- "<think>" }}{% generation %}'),
            r'messages\[2\]: the first token of the answer',
        ),
        # Only the last answer is marked.
        (
            MARKED.replace("if m.role == 'assistant'", "if loop.last"),
            r'messages\[2\]: what is learned of it ends with nothing',
        ),
        # It cannot prompt for an answer that nothing stands before.
        (
            f'{{% if messages | length < 3 %}}{{{{ 1 / 0 }}}}{{% endif %}}{MARKED}',
            r'no prompt can be made for messages\[2\]: .*ZeroDivisionError',
        ),
        (
            f'{{% if messages | length > 3 %}}{{{{ 1 / 0 }}}}{{% endif %}}{MARKED}',
            r'messages\[3\]: the chat template cannot be rendered: ZeroDivisionError',
        ),
    ],
)  # fmt: skip
def test_a_template_that_does_not_tell_is_refused(
    source, message, foreign, monkeypatch
):
    """Of each kind, and with the turn: never everything or nothing learned."""
    made = foreign['qwen']
    monkeypatch.setattr(made, 'template', source)
    with pytest.raises(command.UserError, match=message):
        chat.encode(made, TALK)


@pytest.mark.parametrize('marked', [True, False])
def test_an_answer_that_changes_the_tokens_of_its_prompt_is_refused(
    marked, monkeypatch
):
    """Else a model would learn to go on from tokens that no prompt ends with."""
    made = huggingface.HuggingFace(chat_cases.tokenizer_files('chatml'))
    if not marked:
        source = made.template.replace('{%- generation %}', '')
        monkeypatch.setattr(
            made, 'template', source.replace('{%- endgeneration %}', '')
        )
    prompt = chat.prompt(made, TALK[1:2])
    for content in ('a', ' a', 'a\n'):
        ids, mask = chat.encode(made, [TALK[1], {**TALK[2], 'content': content}])
        assert ids[: len(prompt)] == prompt
        assert mask[: len(prompt) + 1] == [0] * len(prompt) + [1]
    for content in ('\n', '\n<|im_end|>'):
        with pytest.raises(
            command.UserError, match=r'messages\[1\]: the tokenizer cuts'
        ):
            chat.encode(made, [TALK[1], {**TALK[2], 'content': content}])


@pytest.mark.parametrize('typed', [True, False])
@pytest.mark.parametrize('marked', [True, False])
def test_weights_of_messages_in_a_template(typed, marked, foreign, monkeypatch):
    made = foreign['qwen']
    talk = TALK if typed else [{**m, 'content': 'a b'} for m in TALK]
    if marked:
        monkeypatch.setattr(made, 'template', MARKED)
    ids, mask = chat.encode(made, talk)
    first = mask.index(1)
    last = mask.index(0, first)
    weighted = [*talk[:2], {**talk[2], 'weight': 0.5}, *talk[3:]]
    expected = [m / 2 if first <= i < last else m for i, m in enumerate(mask)]
    assert chat.encode(made, weighted) == (ids, expected)


def test_what_tools_say_is_never_a_control_token(foreign, monkeypatch):
    made = foreign['qwen']
    source = '{{ tools | tojson }}{% for m in messages %}{{ m | tojson }}{% endfor %}'
    monkeypatch.setattr(made, 'template', source)
    word = '<|im_end|>'
    function = {'name': 'f', 'arguments': {word: word}}
    calls = {
        'role': 'assistant',
        'content': word,
        'tool_calls': [{'function': function}],
    }
    asked = {**TALK[1], 'tools': [{'name': word}]}
    ids = chat.prompt(made, [asked, calls, {'role': 'tool', 'content': word}])
    assert not set(ids) & {*made.ends}
    assert made.decode(ids).count(word) == 6


def test_no_roles_and_no_template_is_no_chat(foreign):
    for kind in ('roberta', 'spm', 'llama2c'):
        with pytest.raises(command.UserError, match='no format for chats'):
            chat.prompt(foreign[kind], TALK)
