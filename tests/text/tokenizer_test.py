"""What every tokenizer promises, checked for each entry of the table."""

import pathlib

import numpy as np
import pytest

from gptjax import command
from gptjax.text import table
from gptjax.text import tokenizer as tokenizer_lib


def test_any_text_comes_back_and_gives_no_control_token(tokenizer, hard_texts):
    forbidden = set(tokenizer.control.values())
    for text in hard_texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not forbidden & set(ids), text


def test_characters_of_all_planes_come_back(tokenizer):
    codes = [*range(0x3000), *range(0x3000, 0x110000, 397), 0x10FFFF]
    text = ''.join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_batch_is_its_texts_one_by_one(tokenizer, hard_texts):
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.encode_batch(hard_texts) == [
        tokenizer.encode(text) for text in hard_texts
    ]


def test_every_id_is_bytes_and_control_tokens_are_none(tokenizer, hard_texts):
    assert tuple(tokenizer.control) == tokenizer_lib.CONTROL
    assert len(set(tokenizer.control.values())) == 5
    for token in tokenizer.control.values():
        assert tokenizer.token_bytes(token) == b''
    for text in hard_texts:
        ids = tokenizer.encode(text)
        assert b''.join(map(tokenizer.token_bytes, ids)) == text.encode()
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    assert {bytes([byte]) for byte in range(256)} <= set(pieces)


def test_decode_takes_any_ids(tokenizer):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, tokenizer.vocab_size, 500)
    expected = b''.join(tokenizer.token_bytes(int(token)) for token in ids)
    assert tokenizer.decode(ids.tolist()) == expected.decode('utf-8', 'replace')
    end = tokenizer.control['<|end|>']
    assert tokenizer.decode([end, *tokenizer.encode('x'), end]) == 'x'
    for outside in (-1, tokenizer.vocab_size):
        with pytest.raises(command.UserError, match=f'{outside} is not an id'):
            tokenizer.decode([outside])


def test_half_a_character_is_refused(tokenizer):
    for text in ('ab\ud83d', '\udc00'):
        with pytest.raises(command.UserError, match='lone surrogate'):
            tokenizer.encode(text)
        with pytest.raises(command.UserError, match='lone surrogate'):
            tokenizer.encode_batch(['fine', text])


def test_follows_the_protocol(tokenizer):
    assert isinstance(tokenizer, tokenizer_lib.Tokenizer)


def test_saved_and_loaded_it_is_the_same(tokenizer, hard_texts, tmp_path):
    tokenizer.save(tmp_path / 'run' / 'tokenizer')
    for loaded in (
        table.load(tmp_path / 'run' / 'tokenizer'),
        table.make(lambda: [], 'folder', path=tmp_path / 'run'),
        table.make(lambda: [], 'folder', path=str(tmp_path / 'run' / 'tokenizer')),
    ):
        assert type(loaded) is type(tokenizer)
        assert loaded.digest == tokenizer.digest
        assert loaded.vocab_size == tokenizer.vocab_size
        assert loaded.control == tokenizer.control
        assert loaded.encode_batch(hard_texts) == tokenizer.encode_batch(hard_texts)


def test_digests_tell_tokenizers_apart(tokenizers):
    assert len({made.digest for made in tokenizers.values()}) == len(tokenizers)


def test_a_killed_save_is_seen_and_can_be_run_again(tokenizers, tmp_path, monkeypatch):
    replace, made = pathlib.Path.replace, tokenizers['gpt2']

    def kill_after(count):
        left = iter(range(count))

        def killed(self, target):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return replace(self, target)

        return killed

    for count in range(3):
        monkeypatch.setattr(pathlib.Path, 'replace', kill_after(count))
        with pytest.raises(KeyboardInterrupt):
            made.save(tmp_path)
        monkeypatch.undo()
        with pytest.raises(command.UserError, match=r'holds no tokenizer\.json'):
            table.load(tmp_path)
    made.save(tmp_path)
    assert table.load(tmp_path).digest == made.digest


def test_a_damaged_folder_says_which_file(tokenizers, tmp_path):
    tokenizers['bpe'].save(tmp_path)
    model, description = tmp_path / 'sentencepiece.model', tmp_path / 'tokenizer.json'
    whole, described = model.read_bytes(), description.read_text()
    for damage, message in (
        (lambda: model.write_bytes(whole[:-1] + b'x'), r'\.model is damaged'),
        (model.unlink, r'names sentencepiece\.model, which cannot be read'),
        (lambda: description.write_text(described[:20]), r'tokenizer\.json is damaged'),
        (lambda: description.write_text('[1]'), r'tokenizer\.json is damaged'),
        (
            lambda: description.write_text('{"name": "bitez", "files": {}}'),
            "unknown tokenizer 'bitez'; did you mean 'bytes'",
        ),
        (
            lambda: description.write_text('{"name": "gpt2", "files": {}}'),
            r'names no encoder\.json',
        ),
        (description.unlink, r'holds no tokenizer\.json'),
    ):
        model.write_bytes(whole)
        description.write_text(described)
        damage()
        with pytest.raises(command.UserError, match=message):
            table.load(tmp_path)


def test_unknown_names_and_options_are_refused():
    for name, options, message in (
        ('sentencepeace', {}, "did you mean 'sentencepiece'"),
        ('bytes', {'vocab_size': 256}, r'unknown option tokenizer\.vocab_size'),
        ('sentencepiece', {'model_type': 'bpe'}, 'tokenizer lacks vocab_size'),
        ('gpt2', {'path': '/nowhere'}, r'/nowhere holds no encoder\.json'),
        ('folder', {'path': '/nowhere'}, r'/nowhere holds no tokenizer\.json'),
    ):
        with pytest.raises(command.UserError, match=message):
            table.make(lambda: ['text'], name, **options)
