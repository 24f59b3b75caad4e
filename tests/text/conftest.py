"""One tokenizer of each kind, and text that is hard on tokenizers."""

import json
import random

import foreign_tokenizers
import pytest

from gptjax.text import table

KINDS = ('bytes', 'gpt2', 'bpe', 'unigram', 'char')
FOREIGN_NAMES = {'huggingface', 'spm', 'llama2c'}

# First and last letter of a stretch of 40 scripts, Latin to Etruscan.
SCRIPTS = [
    (0x61, 0x7A), (0xE0, 0xFF), (0x100, 0x17F), (0x250, 0x2AF), (0x3B1, 0x3C9),
    (0x430, 0x44F), (0x561, 0x587), (0x5D0, 0x5EA), (0x621, 0x64A), (0x710, 0x72C),
    (0x780, 0x7A5), (0x7CA, 0x7EA), (0x905, 0x939), (0x985, 0x9B9), (0xA05, 0xA39),
    (0xA85, 0xAB9), (0xB05, 0xB39), (0xB85, 0xBB9), (0xC05, 0xC39), (0xC85, 0xCB9),
    (0xD05, 0xD39), (0xD85, 0xDC6), (0xE01, 0xE2E), (0xE81, 0xEAE), (0xF40, 0xF6C),
    (0x1000, 0x1021), (0x10D0, 0x10F0), (0x1100, 0x11FF), (0x1200, 0x135A),
    (0x13A0, 0x13F4), (0x1401, 0x166C), (0x1681, 0x169A), (0x16A0, 0x16EA),
    (0x1780, 0x17A2), (0x1820, 0x1878), (0x3041, 0x3096), (0x30A1, 0x30FA),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x10300, 0x1031F),
]  # fmt: skip
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
    first, last = rng.choice(SCRIPTS)
    letters = (chr(rng.randint(first, last)) for _ in range(5))
    return ''.join(letters) + rng.choice(['', ' '])


@pytest.fixture(scope='session')
def hard_texts():
    """300 texts of many scripts, white space, control characters and literals."""
    assert len(SCRIPTS) == 40
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
