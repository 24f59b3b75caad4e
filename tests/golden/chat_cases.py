"""Conversations and chat formats that are compared with transformers and TRL.

The templates here are ours, written after the formats; the truth in chat.json is what
the published ones give (those for training, which mark what the assistant says).
"""

import hashlib
import json
import random

import tokenizers
from tokenizers import models, pre_tokenizers

COUNT = 100
MERGES = (
    'Ġ t', 'h e', 'Ġt he', 'i n', 'Ġ Ġ', 'ĠĠ ĠĠ', 'r e', 'Ċ Ċ', 'ĊĊ Ċ', 'Ġ a', 'o n',
    'e r', 'u s', 'us er', 'a s', 'as s', 'i s', 'ass is', 't on', 'm o', 'd e',
    'mo de', 'mode l', '" :', '> Ċ', '. Ċ', 'Ġ Ċ',
)  # fmt: skip
_CUT = r' ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'

_TOOLS = r"""
{%- macro schemas() %}
    {{- '# Tools\n\nYou may call one or more functions to assist with the user ' }}
    {{- 'query.\n\nYou are provided with function signatures within ' }}
    {{- '<tools></tools> XML tags:\n<tools>' }}
    {%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}
    {{- '\n</tools>\n\nFor each function call, return a json object with function ' }}
    {{- 'name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n' }}
    {{- '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>' }}
{%- endmacro %}
{%- macro call(one) %}
    {{- '<tool_call>\n{"name": "' + one.function.name + '", "arguments": ' }}
    {{- (one.function.arguments | tojson) + '}\n</tool_call>' }}
{%- endmacro %}
{%- macro answer(i) %}
    {%- if messages[i - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
    {{- '\n<tool_response>\n' + messages[i].content + '\n</tool_response>' }}
    {%- if i + 1 == messages | length or messages[i + 1].role != 'tool' %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endmacro %}
"""
_CHATML = (
    _TOOLS
    + r"""
{%- set first = messages[0].content if messages[0].role == 'system' else DEFAULT %}
{%- if tools %}
    {{- '<|im_start|>system\n' + (first + '\n\n' if first else '') + schemas() }}
    {{- '<|im_end|>\n' }}
{%- elif first or messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + first + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant' + BEFORE }}
        {%- generation %}
        {{- ANSWER }}
        {%- for one in message.tool_calls or [] %}
            {%- if JOINED %}{{- '\n' }}{%- endif %}
            {{- call(one) }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
        {%- endgeneration %}
    {%- elif message.role == 'tool' %}
        {{- answer(loop.index0) }}
    {%- elif message.role == 'user' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
)
_THOUGHT = r"""message.content if '</think>' in message.content else
    '<think>\n\n</think>\n\n' + message.content.lstrip('\n')"""


def _chatml(default: str, before: str, answer: str, joined: str) -> str:
    words = {'DEFAULT': default, 'BEFORE': before, 'ANSWER': answer, 'JOINED': joined}
    source = _CHATML
    for word, text in words.items():
        source = source.replace(word, text)
    return source


_QWEN = "'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.'"
_PLAIN = r"'\n' + message.content if message.content or not message.tool_calls else ''"
_INSIDE = 'message.content or not loop.first'
# name: (the published template for training in TRL, ours, control tokens, stop tokens)
FORMATS = {
    'chatml': (
        'qwen3_instruct_2507_training',
        _chatml("''", r"'\n'", 'message.content', _INSIDE),
        ('<|endoftext|>', '<|im_start|>', '<|im_end|>'),
        ('<|im_end|>', '<|endoftext|>'),
    ),
    'llama3': (
        'llama3_training',
        r"""{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{- message.content.strip() + '<|eot_id|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content.strip() + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}""",
        (
            '<|begin_of_text|>',
            '<|end_of_text|>',
            '<|start_header_id|>',
            '<|end_header_id|>',
            '<|eot_id|>',
        ),
        ('<|end_of_text|>', '<|eot_id|>'),
    ),
    'gemma': (
        'gemma_training',
        r"""{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<start_of_turn>model\n' }}
        {%- generation %}{{- message.content.strip() }}{{- '<end_of_turn>\n' }}
        {%- endgeneration %}
    {%- else %}
        {{- '<start_of_turn>user\n' + message.content.strip() + '<end_of_turn>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}""",
        ('<bos>', '<eos>', '<start_of_turn>', '<end_of_turn>'),
        ('<eos>', '<end_of_turn>'),
    ),
    'qwen2.5': (
        'qwen2_5_training',
        _chatml(_QWEN, "''", _PLAIN, 'true'),
        ('<|endoftext|>', '<|im_start|>', '<|im_end|>'),
        ('<|im_end|>', '<|endoftext|>'),
    ),
    'qwen3': (
        'qwen3_training',
        _chatml("''", r"'\n'", _THOUGHT, _INSIDE),
        ('<|endoftext|>', '<|im_start|>', '<|im_end|>'),
        ('<|im_end|>', '<|endoftext|>'),
    ),
}

_WORDS = (
    'the', 'model', 'reads', 'user', 'assistant', 'Größe', 'мера', '数', 'Yé', '3.14',
    '{{', '}}', '{% raw %}', '<b>', '\\n', '"quoted"', "it's",
    '👩\u200d👧', 'e\u0301', '\t', '\n', '\n\n',
)  # fmt: skip
_EDGES = ('', ' ', '\n', '\n\n', '  \n', '> ')


def tokenizer_files(name: str, template: str | None = None) -> dict[str, bytes]:
    """The files of a byte-level BPE with a format's control tokens and template."""
    _, ours, special, stops = FORMATS[name]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    joined = [merge.replace(' ', '') for merge in MERGES]
    vocab = {word: i for i, word in enumerate([*letters, *joined])}
    pairs = [tuple(merge.split(' ')) for merge in MERGES]
    made = tokenizers.Tokenizer(models.BPE(vocab, pairs))
    # As GPT-2 cuts texts, but that new lines stay together: a prompt may end with two.
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_CUT), 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(list(special))
    config = {'eos_token': stops[0], 'pad_token': special[0]}
    config['bos_token'] = None if 'im_start' in special[1] else special[0]
    config['chat_template'] = ours if template is None else template
    config['tokenizer_class'] = 'PreTrainedTokenizerFast'
    ends = [made.token_to_id(word) for word in stops]
    return {
        'tokenizer.json': made.to_str().encode(),
        'tokenizer_config.json': json.dumps(config).encode(),
        'generation_config.json': json.dumps({'eos_token_id': ends}).encode(),
    }


def conversations(name: str) -> list[tuple[list[dict], list[dict] | None]]:
    """COUNT conversations, each with the schemas of its tools or None.

    Contents begin and end with white space, are empty, and spell what templates do;
    answers begin with no new line, which tokenizers join with that of the prompt.
    """
    rng = random.Random(f'{name} 0')
    made = []
    for _ in range(COUNT):
        tools = None
        messages = []
        if name != 'gemma' and rng.random() < 0.5:
            messages.append({'role': 'system', 'content': _text(rng)})
        calls = name not in ('gemma', 'llama3') and rng.random() < 0.4
        if calls:
            tools = [_schema(rng) for _ in range(rng.randint(1, 3))]
        for _ in range(rng.randint(1, 4)):
            messages.append({'role': 'user', 'content': _text(rng)})
            if calls and rng.random() < 0.6:
                asked = [_call(rng) for _ in range(rng.randint(1, 2))]
                said = _answer(rng) if rng.random() < 0.5 else ''
                messages.append(
                    {'role': 'assistant', 'content': said, 'tool_calls': asked}
                )
                messages += [{'role': 'tool', 'content': _text(rng)} for _ in asked]
            messages.append({'role': 'assistant', 'content': _answer(rng)})
        made.append((messages, tools))
    return made


def _text(rng: random.Random) -> str:
    words = ' '.join(rng.choice(_WORDS) for _ in range(rng.randrange(12)))
    return rng.choice(_EDGES) + words + rng.choice(_EDGES)


def _answer(rng: random.Random) -> str:
    return _text(rng).lstrip('\n')


def _call(rng: random.Random) -> dict:
    arguments = {rng.choice('abc'): rng.choice([_text(rng), 7, 1.5, None, ['x', {}]])}
    return {'type': 'function', 'function': {'name': 'find', 'arguments': arguments}}


def _schema(rng: random.Random) -> dict:
    properties = {'a': {'type': 'string', 'description': _text(rng)}}
    parameters = {'type': 'object', 'properties': properties, 'required': ['a']}
    function = {'name': 'find', 'description': _text(rng), 'parameters': parameters}
    return {'type': 'function', 'function': function}


def digest(ids: list[int], mask: list[int]) -> str:
    """16 hexadecimal digits of the ids and of what of them is learned."""
    return hashlib.sha256(json.dumps([ids, mask]).encode()).hexdigest()[:16]


# The loss of TRL: a tiny GPT-2 on the first conversations of a format that fit.
SFT, T, V = 'chatml', 160, 300
CONFIG = {
    'vocab_size': V, 'n_positions': T, 'n_embd': 20, 'n_layer': 2, 'n_head': 2,
    'bos_token_id': 0, 'eos_token_id': 0,
}  # fmt: skip
