"""Tokenizers through folders of Hugging Face: what is written is read as it was."""

import json
import random

import foreign_tokenizers
import pytest
from sentencepiece import sentencepiece_model_pb2
import tokenizers

from experiments.benchmarks import _strings
from gptjax import command
from gptjax.exchange import tokenizers as exchange
from gptjax.text import frames, gpt2, huggingface, spm, table

DOCUMENTS = ['The model reads a token, and writes the loss.\n'] * 200
OWN = ('bytes', 'masked', 'gpt2', 'published', 'bpe', 'masked bpe', 'unigram', 'char')


@pytest.fixture(scope='module')
def gpt2_files():
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters += [256 + i for i in range(256 - len(letters))]
    merges = ['Ġ t', 'h e', 'Ġt he', 'i n', 'Ġ Ġ', 'ĠĠ ĠĠ', 'r e', 'Ċ Ċ']
    words = [*map(chr, letters), *(pair.replace(' ', '') for pair in merges)]
    encoder = {word: i for i, word in enumerate([*words, '<|endoftext|>'])}
    return {
        'encoder.json': json.dumps(encoder).encode(),
        'vocab.bpe': '\n'.join(['#version: 0.2', *merges, '']).encode(),
    }


@pytest.fixture(scope='module')
def made(gpt2_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp('gpt2')
    for name, content in gpt2_files.items():
        (folder / name).write_bytes(content)

    def trained(model_type, mask=False):
        options = dict(model_type=model_type, vocab_size=330, mask=mask)
        return table.make(lambda: DOCUMENTS, 'sentencepiece', **options)

    published = {**gpt2_files, 'control.json': b'["<|endoftext|>"]'}
    return {
        'bytes': table.make(lambda: [], 'bytes'),
        'masked': table.make(lambda: [], 'bytes', mask=True),
        'gpt2': gpt2.GPT2.load(gpt2_files),
        'published': gpt2.GPT2.load(published),
        'bpe': trained('bpe'),
        'masked bpe': trained('bpe', mask=True),
        'unigram': trained('unigram'),
        'char': trained('char'),
        **foreign_tokenizers.make(DOCUMENTS, folder),
    }


@pytest.mark.parametrize('kind', [*OWN, *foreign_tokenizers.KINDS])
def test_what_is_written_is_read_as_it_was(kind, made, tmp_path):
    ours = made[kind]
    exchange.write(ours, tmp_path / 'out')
    back = exchange.read(tmp_path / 'out')
    assert type(back) is type(ours)
    again = exchange.contents(back)
    assert again == {p.name: p.read_bytes() for p in (tmp_path / 'out').iterdir()}
    for name in ('vocab_size', 'control', 'special', 'prefix', 'suffix', 'ends'):
        assert getattr(back, name) == getattr(ours, name), name
    strings = _strings.make(40)
    assert back.encode_batch(strings) == ours.encode_batch(strings)
    if kind not in ('roberta', 'bert', 'llama'):  # those lacked a tokenizer_config
        assert back.digest == ours.digest


@pytest.mark.parametrize('kind', [*OWN, 'spm', 'llama2c'])
def test_the_written_pipeline_has_equal_ids(kind, made, tmp_path):
    ours = made[kind]
    exchange.write(ours, tmp_path)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / 'tokenizer.json'))
    library.encode_special_tokens = True  # text is text, as it always is with ours
    assert library.get_vocab_size() == ours.vocab_size
    for text in ['', *_strings.make(100), *DOCUMENTS[:1]]:
        ids = library.encode(text, add_special_tokens=False).ids
        assert ids == ours.encode(text), text
        assert library.decode(ids) == ours.decode(ids)
        whole = library.encode(text, add_special_tokens=True).ids
        assert whole == [*ours.prefix, *ids, *ours.suffix]


def test_a_mask_is_a_token_of_its_own(made):
    for kind in ('masked', 'masked bpe'):
        ours = made[kind]
        mask = ours.control['<|mask|>']
        assert ours.token_bytes(mask) == b''
        assert mask not in ours.encode('<|mask|>')
        assert ours.encode_special('a<|mask|>') == [*ours.encode('a'), mask]
    for kind in ('bytes', 'bpe'):
        assert '<|mask|>' not in made[kind].control


def test_published_gpt2_has_the_published_ids(real_data, tmp_path):
    for name, other in (('encoder.json', 'vocab.json'), ('vocab.bpe', 'merges.txt')):
        content = real_data(f'gpt2_tokenizer/{name}').read_bytes()
        (tmp_path / other).write_bytes(content)
    found = exchange.read(tmp_path)
    assert found.vocab_size == 50257
    assert found.control == {'<|endoftext|>': 50256}
    assert (found.prefix, found.ends) == ((), (50256,))
    assert found.encode('Hello, World! How are you today?') == [
        15496, 11, 2159, 0, 1374, 389, 345, 1909, 30,
    ]  # fmt: skip


def test_the_fullest_file_counts(made, gpt2_files, tmp_path):
    write = {
        'vocab.txt': made['bert'].theirs['vocab.txt'],
        'merges.txt': made['roberta'].theirs['merges.txt'],
        'vocab.json': made['roberta'].theirs['vocab.json'],
        'tokenizer.model': made['spm'].files['tokenizer.model'],
        'tokenizer.json': made['qwen'].theirs['tokenizer.json'],
    }
    expected = ['bert', 'bert', 'roberta', 'spm', 'qwen']
    for (name, content), kind in zip(write.items(), expected, strict=True):
        (tmp_path / name).write_bytes(content)
        assert exchange.read(tmp_path).encode('The') == made[kind].encode('The')


def test_what_others_changed_is_theirs(made, tmp_path):
    exchange.write(made['bytes'], tmp_path)
    path = tmp_path / 'tokenizer.json'
    library = tokenizers.Tokenizer.from_file(str(path))
    library.add_special_tokens(['<|new|>'])
    library.save(str(path))
    found = exchange.read(tmp_path)
    assert isinstance(found, huggingface.HuggingFace)
    assert found.special['<|new|>'] == 261
    assert found.encode('é') == made['bytes'].encode('é')


def test_contradictions_and_damage_are_named(made, gpt2_files, tmp_path):
    exchange.write(made['gpt2'], tmp_path / 'gpt2')
    exchange.write(made['bpe'], tmp_path / 'bpe')
    other = made['masked bpe'].files['sentencepiece.model']
    (tmp_path / 'bpe/tokenizer.model').write_bytes(other)
    qwen = tmp_path / 'qwen'
    qwen.mkdir()
    for name, ours in (('vocab.json', 'encoder.json'), ('merges.txt', 'vocab.bpe')):
        (qwen / name).write_bytes(gpt2_files[ours])
    (qwen / 'config.json').write_text('{"model_type": "qwen2"}')
    (tmp_path / 'empty').mkdir()
    for folder, message in (
        ('empty', 'holds no tokenizer'),
        ('bpe', 'are not the files'),
        ('qwen', "of 'qwen2', which cuts words"),
    ):
        with pytest.raises(command.UserError, match=message):
            exchange.read(tmp_path / folder)
    (tmp_path / 'gpt2/tokenizer_config.json').write_text('{"gptjax": ')
    with pytest.raises(command.UserError, match=r'tokenizer_config\.json is damaged'):
        exchange.read(tmp_path / 'gpt2')


def test_mutated_folders_are_refused_or_read(made, tmp_path):
    rng, refused = random.Random(0), 0
    for kind in ('gpt2', 'unigram', 'qwen', 'spm'):
        files = exchange.contents(made[kind])
        for _ in range(25):
            name = rng.choice(sorted(files))
            data = bytearray(files[name])
            data[rng.randrange(len(data))] = rng.randrange(256)
            for each, content in {**files, name: bytes(data)}.items():
                (tmp_path / each).write_bytes(content)
            try:
                exchange.read(tmp_path).encode('The model')
            except command.UserError:
                refused += 1
    assert 0 < refused < 4 * 25


def test_a_word_model_has_no_pipeline(made, tmp_path):
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(made['spm'].files['tokenizer.model'])
    model.trainer_spec.model_type = model.trainer_spec.WORD
    words = spm.SPM({'tokenizer.model': model.SerializeToString()})
    with pytest.raises(command.UserError, match='is of words'):
        exchange.write(words, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_the_token_that_a_decoder_begins_with_comes_along(made, tmp_path):
    """BART's decoder begins with </s>, which generation_config.json says alone."""
    tokenizer = made['roberta']
    exchange.write(tokenizer, tmp_path)
    assert frames.start(exchange.read(tmp_path)) == tokenizer.control['<|endoftext|>']
    end = tokenizer.control['<|end|>']
    config = {'eos_token_id': end, 'decoder_start_token_id': end}
    (tmp_path / 'generation_config.json').write_text(json.dumps(config))
    found = exchange.read(tmp_path)
    assert frames.start(found) == end
    begin = found.control['<|endoftext|>']
    assert frames.source(found, [9, 8]) == [begin, 9, 8, end]
    # Old folders have it in the config.json of the model, which counts less.
    old = tmp_path / 'config.json'
    old.write_text(json.dumps({'decoder_start_token_id': 7, 'd_model': 9}))
    assert exchange.read(tmp_path).digest == found.digest
    (tmp_path / 'generation_config.json').write_text(json.dumps({'num_beams': 4}))
    from_config = exchange.read(tmp_path)
    from_config.save(tmp_path / 'saved')
    for one in (from_config, table.load(tmp_path / 'saved')):
        assert frames.start(one) == 7
    assert 'config.json' not in exchange.contents(from_config)
    config['decoder_start_token_id'] = found.vocab_size
    (tmp_path / 'generation_config.json').write_text(json.dumps(config))
    with pytest.raises(command.UserError, match=f'has the token {found.vocab_size}'):
        exchange.read(tmp_path)


def test_a_bare_model_with_generation_settings(made, tmp_path):
    """Llama's first folders: tokenizer.model, and no tokenizer_config.json."""
    model, ends = made['spm'].files['tokenizer.model'], b'{"eos_token_id": [7, 2]}'
    ours = spm.SPM({'tokenizer.model': model, 'generation_config.json': ends})
    exchange.write(ours, tmp_path)
    back = exchange.read(tmp_path)
    assert (back.ends, back.prefix, back.suffix) == ((7, 2), ours.prefix, ours.suffix)
    strings = [text for text in _strings.make(100) if '\u2581' not in text]
    assert back.encode_batch(strings) == ours.encode_batch(strings)
