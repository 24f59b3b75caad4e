"""One tokenizer of each kind, and text that is hard on tokenizers."""

import json
import random

import foreign_tokenizers
import pytest

from experiments.benchmarks import _strings
from gptjax.text import table

KINDS = ('bytes', 'gpt2', 'bpe', 'unigram', 'char')
FOREIGN_NAMES = {'huggingface', 'spm', 'llama2c', 'marian'}

LITERALS = (
    '<|endoftext|>',
    '<|system|>',
    '<|user|>',
    '<|assistant|>',
    '<|end|>',
    '<unk>',
    '<s>',
    '</s>',
    '<pad>',
    '<0x0A>',
    '<0xE2>',
    '\u2581',
    '\u2581\u2581',
    ' \u2581 ',
    '\u2585',
    '\u2047',
    '\x00',
    '\ufeff',
    '\ufffd',
    '\u2028',
    '\u200d',
    '\U0010ffff',
    '👩\u200d👩\u200d👧',
    '🇰🇷',
    '❤\ufe0f',
    'e\u0301',
    '\r\n',
    '\n\n',
    "it's",
    "WE'LL",
    '3.14',
    'https://a.b/c?d=e',
)
WHITE = ' \t\n\r\v\f\x1c\x85\xa0\u2003\u3000'


def _word(rng):
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(LITERALS)
    if kind == 1:
        return rng.choice(WHITE) * rng.randrange(1, 9)
    if kind == 2:
        return chr(rng.randrange(32)) * rng.randrange(1, 3)
    if kind == 3:
        return chr(rng.randrange(0x1F300, 0x1FAFF))
    first, last = rng.choice(_strings.SCRIPTS)
    letters = (chr(rng.randint(first, last)) for _ in range(5))
    return ''.join(letters) + rng.choice(['', ' '])


@pytest.fixture(scope='session')
def hard_texts():
    """300 texts of many scripts, white space, control characters and literals."""
    assert len(_strings.SCRIPTS) == 40
    rng = random.Random(0)
    words = (''.join(_word(rng) for _ in range(rng.randrange(30))) for _ in range(260))
    return ['', *LITERALS, *WHITE, *words][:300]


@pytest.fixture(scope='session')
def documents():
    """Sentences and a bit of code, made up; some spell control tokens and scripts."""
    rng = random.Random(1)
    nouns = ['model', 'token', 'loss', 'gradient', 'layer', 'batch', 'weight', 'page']
    verbs = ['reads', 'writes', 'learns', 'keeps', 'drops', 'counts', 'follows']
    made = []
    for i in range(300):
        a, b, c = (rng.choice(nouns) for _ in range(3))
        verb = rng.choice(verbs)
        made.append(
            f'The {a} {verb} a {b}, and {rng.randrange(999)} {c}s. Größe, мера.\n\n'
            f'def {verb}_{a}({b}, {c}):\n    if {b} > {c}:\n        return {i}\n'
        )
    return [*made, '<|end|> <unk> <0x0A> ' * 50, 'a\u2581b \x00 \u2585 ' * 50]


@pytest.fixture(scope='session')
def gpt2_folder(tmp_path_factory):
    """Files of a small byte-level BPE, as GPT-2 writes them."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + i for i in range(256 - len(visible))]
    encoder = {chr(c): i for i, c in enumerate([*visible, *others])}
    merges = ['Ġ t', 'h e', 'Ġt he', 'i n', 'Ġ Ġ', 'ĠĠ ĠĠ', 'r e', 'Ċ Ċ', 'Ð ¼', 'l l']
    for pair in merges:
        encoder[pair.replace(' ', '')] = len(encoder)
    encoder['<|endoftext|>'] = len(encoder)
    folder = tmp_path_factory.mktemp('gpt2')
    (folder / 'encoder.json').write_text(json.dumps(encoder))
    (folder / 'vocab.bpe').write_text('\n'.join(['#version: 0.2', *merges, '']))
    return folder


@pytest.fixture(scope='session')
def tokenizers(documents, gpt2_folder):
    """One of each kind, by kind."""
    made = {
        'bytes': table.make(lambda: documents, 'bytes'),
        'gpt2': table.make(lambda: documents, 'gpt2', path=gpt2_folder),
    }
    for model_type in ('bpe', 'unigram', 'char'):
        made[model_type] = table.make(
            lambda: documents, 'sentencepiece', model_type=model_type, vocab_size=420
        )
    assert {t.name for t in made.values()} == set(table.TOKENIZERS) - FOREIGN_NAMES
    return made


@pytest.fixture(params=KINDS)
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


@pytest.fixture(scope='session')
def foreign(documents, gpt2_folder):
    """One tokenizer of each kind that others make, by kind."""
    made = foreign_tokenizers.make(documents, gpt2_folder)
    assert {t.name for t in made.values()} == FOREIGN_NAMES
    return made


@pytest.fixture(params=foreign_tokenizers.KINDS)
def foreigner(request, foreign):
    return foreign[request.param]


@pytest.fixture
def rng():
    return random.Random(0)
