import os
import subprocess
import sys

import pytest
import sentencepiece

from gptjax import command
from gptjax.text import sentencepiece as ours

MODEL_TYPES = ('bpe', 'unigram', 'char')


def _train(texts, model_type='bpe', vocab_size=420):
    return ours.SentencePiece.make(
        lambda: texts, model_type=model_type, vocab_size=vocab_size
    )


@pytest.mark.parametrize('model_type', MODEL_TYPES)
def test_ids_are_those_of_the_library(model_type, tokenizers, documents, tmp_path):
    made = tokenizers[model_type]
    made.save(tmp_path)
    library = sentencepiece.SentencePieceProcessor(
        model_file=str(tmp_path / 'sentencepiece.model')
    )
    assert made.vocab_size == library.vocab_size()
    for text in [*documents[:100], '  Новое 世界 🌍\tx\x00']:
        ids = made.encode(text)
        assert ids == library.encode(text)
        assert library.decode(ids) == text


@pytest.mark.parametrize('model_type', MODEL_TYPES)
def test_training_is_deterministic(model_type, tokenizers, documents, tmp_path):
    made = tokenizers[model_type]
    assert _train(documents, model_type).digest == made.digest
    assert _train(documents[:200], model_type).digest != made.digest


def test_training_is_the_same_in_another_process(documents):
    code = (
        'import sys; from gptjax.text import sentencepiece\n'
        'texts = sys.stdin.read().split("\\f")\n'
        'print(sentencepiece.SentencePiece.make(lambda: texts,'
        ' model_type="unigram", vocab_size=400).digest)'
    )
    texts = documents[:100]
    done = subprocess.run(
        [sys.executable, '-c', code],
        input='\f'.join(texts),
        env={**os.environ, 'PYTHONHASHSEED': '7'},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == _train(texts, 'unigram', 400).digest
    assert done.stderr == ''  # the trainer's log is not the user's business


def test_newlines_and_indentation_are_cheap(tokenizers):
    for model_type in ('bpe', 'unigram'):
        encode = tokenizers[model_type].encode
        assert len(encode('\n')) == 1
        # The library learns no piece of spaces alone unless it is told to.
        assert len(encode(' ' * 64)) <= 24


def test_a_real_u2581_is_not_a_space(tokenizers):
    encode = tokenizers['bpe'].encode
    assert encode('a\u2581b') != encode('a b')
    assert [tokenizers['bpe'].token_bytes(i) for i in encode('\u2581')] == [
        b'\xe2',
        b'\x96',
        b'\x81',
    ]


def test_what_the_trainer_reserves_does_not_spoil_training():
    for reserved in ('\x00', '\u2581', '\u2585'):
        made = _train([f'lemma{reserved}lemma'] * 100, 'bpe', 300)
        assert len(made.encode('lemma')) == 1, ascii(reserved)
        assert made.encode(' lemma') == [*made.encode(' '), *made.encode('lemma')]


def test_a_small_text_gives_the_ids_it_can():
    for model_type in MODEL_TYPES:
        made = _train(['hello world'], model_type, vocab_size=5000)
        assert ours.FIXED < made.vocab_size < 300
        assert made.decode(made.encode('hello world, ÿ')) == 'hello world, ÿ'


def test_a_character_vocabulary_has_every_character_once():
    text = 'the quick brown fox jumps over the lazy dog' * 3000 + 'Q'
    made = _train([text], 'char', vocab_size=4096)
    assert made.vocab_size == ours.FIXED + len(set(text))
    assert len(made.encode('the Q')) == 5


def test_the_sample_is_spread_evenly_and_bounded(monkeypatch, documents):
    monkeypatch.setattr(ours, 'SAMPLE_CHARACTERS', 1000)
    texts = [f'document number {i:04}' for i in range(1000)]
    sample = [text.decode() for text in ours._sample(texts)]
    stride = texts.index(sample[1])
    assert sample == texts[::stride]
    assert 500 <= sum(map(len, sample)) <= 1000
    assert _train(documents, 'bpe', 400).digest == _train(documents, 'bpe', 400).digest


def test_long_documents_are_learned_from():
    text = ' '.join(['internationalization'] * 5000)  # far above the trainer's limit
    made = _train([text], 'bpe', 300)
    assert len(made.encode(' internationalization')) <= 3


def test_mistakes_are_named(documents):
    for texts, model_type, vocab_size, message in (
        (documents, 'bpee', 400, "unknown model_type 'bpee'; did you mean 'bpe'"),
        (documents, 'bpe', 200, 'vocab_size is 200, of which 262 are bytes'),
        (documents, 'bpe', 270, r'vocab_size is 270, .* need [34]\d\d'),
        ([], 'bpe', 400, 'no text to train on'),
        (['', ''], 'unigram', 400, 'no text to train on'),
        (['\x00', '<unk>'], 'unigram', 400, 'cannot train on this text'),
        (['a\ud800'], 'bpe', 400, 'lone surrogate'),
    ):
        with pytest.raises(command.UserError, match=message):
            _train(texts, model_type, vocab_size)


def test_a_foreign_model_is_refused(real_data):
    foreign = real_data('sentencepiece/test_model.model').read_bytes()
    with pytest.raises(command.UserError, match=r'has no <\|endoftext\|>'):
        ours.SentencePiece(foreign)
    with pytest.raises(command.UserError, match='not a SentencePiece model'):
        ours.SentencePiece(b'not a model')


def test_compresses_real_text(real_data):
    text = real_data('sentencepiece/botchan.txt').read_text()
    for model_type in ('bpe', 'unigram'):
        made = _train([text], model_type, 2000)
        assert made.vocab_size == 2000
        ids = made.encode(text)
        assert made.decode(ids) == text
        # 3.18 and 3.02 when written; a model that has learned nothing gives 1.
        assert len(text) / len(ids) > 2.9
