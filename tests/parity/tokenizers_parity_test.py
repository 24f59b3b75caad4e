"""Exported folders in transformers: equal ids, and equal chats."""

import json

import foreign_tokenizers
import pytest
import transformers

from experiments.benchmarks import _strings
from gptjax.exchange import tokenizers as exchange
from gptjax.text import chat, gpt2, marian, spm, table

TALK = [
    {'role': 'system', 'content': 'Be kind.'},
    {'role': 'user', 'content': 'How  are\nyou?'},
    {'role': 'assistant', 'content': 'Yé, fine'},
    {'role': 'user', 'content': 'Good.'},
    {'role': 'assistant', 'content': ' Bye '},
]
OWN = ('bytes', 'masked', 'gpt2', 'published', 'bpe', 'unigram', 'char')
# It would change punctuation; MarianTokenizer makes it and never calls it.
pytestmark = pytest.mark.filterwarnings('ignore:Recommended. pip install sacremoses')
REAL = ('tok512', 'roberta-base', 'bert-base-uncased')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """One tokenizer of each kind, by kind."""
    documents = [text for text in _strings.make(60, seed=1) if '\u2581' not in text]
    plain = ['The model reads a token, and writes the loss.\n'] * 50
    documents += plain
    files = _gpt2_files()
    trained = {
        kind: table.make(
            lambda: documents, 'sentencepiece', model_type=kind, vocab_size=1500
        )
        for kind in ('bpe', 'unigram', 'char')
    }
    folder = tmp_path_factory.mktemp('gpt2')
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {
        'bytes': table.make(lambda: [], 'bytes'),
        'masked': table.make(lambda: [], 'bytes', mask=True),
        'gpt2': gpt2.GPT2.load(files),
        'published': gpt2.GPT2.load({**files, 'control.json': b'["<|endoftext|>"]'}),
        **trained,
        **foreign_tokenizers.make(plain * 4, folder),
    }


def _gpt2_files():
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters += [256 + i for i in range(256 - len(letters))]
    merges = ['Ġ t', 'h e', 'Ġt he', 'i n', 'Ġ Ġ', 'ĠĠ ĠĠ', 'r e', 'Ċ Ċ', 'Ð ¼', 'l l']
    words = [*map(chr, letters), *(pair.replace(' ', '') for pair in merges)]
    encoder = {word: i for i, word in enumerate([*words, '<|endoftext|>'])}
    lines = ['#version: 0.2', *merges, '']
    return {
        'encoder.json': json.dumps(encoder).encode(),
        'vocab.bpe': '\n'.join(lines).encode(),
    }


def _equal(ours, folder, kind=None, alike=False):
    """The tokenizer in transformers, and how many strings have other ids with it.

    alike: the order may differ. Of cuts that are as likely, as in a long run of one
    character, Unigram takes one or another: sums are of float32 here and float64 there.
    """
    exchange.write(ours, folder)
    if kind is not None:  # as the model's own config says it
        (folder / 'config.json').write_text(json.dumps({'model_type': kind}))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    spelled = [*ours.special, *theirs.get_added_vocab()]
    strings = [s for s in _strings.make(1300) if not any(w in s for w in spelled)]
    assert len(strings) > 1000
    different = 0
    for text in strings:
        ids = ours.encode(text)
        bare = theirs.encode(text, add_special_tokens=False)
        whole = theirs.encode(text)
        assert whole == [*ours.prefix, *bare, *ours.suffix]
        different += sorted(bare) != sorted(ids) if alike else bare != ids
    return theirs, different


@pytest.mark.parametrize('kind', OWN)
def test_ours_have_equal_ids_in_transformers(kind, made, tmp_path, measured):
    ours = made[kind]
    theirs, different = _equal(ours, tmp_path, alike=kind == 'unigram')
    measured(f'tokenizer {kind}: {different} of 1,000 strings differ')
    assert different == 0
    assert len(theirs) == ours.vocab_size
    text = ' The  model\n'
    assert theirs.decode(ours.encode(text)) == text
    begin = ours.control['<|endoftext|>']
    assert theirs.bos_token_id == begin
    assert theirs.eos_token_id == ours.control.get('<|end|>', begin)
    assert theirs.mask_token_id == ours.control.get('<|mask|>')


@pytest.mark.parametrize('kind', ['bytes', 'gpt2', 'bpe', 'unigram'])
def test_chats_are_equal_in_transformers(kind, made, tmp_path):
    exchange.write(made[kind], tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids, mask = chat.encode(made[kind], TALK)
    found = theirs.apply_chat_template(
        TALK, return_dict=True, return_assistant_tokens_mask=True
    )
    assert found['input_ids'] == ids
    assert found['assistant_masks'] == mask
    prompt = theirs.apply_chat_template(
        TALK[:2], add_generation_prompt=True, return_dict=True
    )
    assert prompt['input_ids'] == chat.prompt(made[kind], TALK[:2])


@pytest.mark.parametrize('kind', foreign_tokenizers.KINDS)
def test_those_of_others_too(kind, made, tmp_path, measured):
    model = kind if kind in ('roberta', 'bert', 'marian') else None
    _, different = _equal(made[kind], tmp_path, model)
    measured(f'tokenizer of others, {kind}: {different} of 1,000 strings differ')
    assert different == 0


def test_a_template_of_others_gives_their_ids(made, tmp_path):
    exchange.write(made['qwen'], tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    found = theirs.apply_chat_template(TALK, return_dict=True)
    ids, _ = chat.encode(made['qwen'], TALK)
    assert found['input_ids'] == ids
    prompt = theirs.apply_chat_template(
        TALK[:2], add_generation_prompt=True, return_dict=True
    )
    assert prompt['input_ids'] == chat.prompt(made['qwen'], TALK[:2])


@pytest.mark.parametrize('name', REAL)
def test_published_ones(name, real_data, tmp_path, measured):
    if name == 'tok512':
        path = real_data('stories260K/tok512.model')
        ours, kind = spm.SPM.make(lambda: [], path=path), None
    else:
        ours = exchange.read(real_data(f'bert_roberta_tokenizer/{name}'))
        kind = name.split('-')[0]
    _, different = _equal(ours, tmp_path, kind)
    measured(f'tokenizer {name}: {different} of 1,000 strings differ')
    assert different == 0


def test_marian(real_data, tmp_path, measured):
    """Models of both languages from real text, as published folders have them."""
    lines = real_data('tinyshakespeare/input.txt').read_text().split('\n\n')
    ours = marian.Marian(foreign_tokenizers.marian_files(lines, 4000))
    theirs, different = _equal(ours, tmp_path, 'marian')
    assert type(theirs).__name__ == 'MarianTokenizer'
    measured(f'tokenizer marian: {different} of 1,000 strings differ')
    assert different == 0
    for name, content in ours.files.items():
        assert (tmp_path / name).read_bytes() == content
    coded = [f'>>{code}<< {line}' for code in ('fra', 'xx') for line in lines[:500]]
    for text in [*lines[:1000], *coded]:
        ids = ours.encode(text)
        assert theirs(text)['input_ids'] == [*ids, *ours.suffix]
        spoken = [i for i in ids if ours.token_bytes(i) and i != theirs.unk_token_id]
        assert ours.decode(spoken).strip() == theirs.decode(spoken)
