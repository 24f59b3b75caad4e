"""Reading texts: each alone, by the plain forward pass, is what a batch must give."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_family

from gptjax import command
from gptjax.generate import reader as reader_lib
from gptjax.generate import terminal
from gptjax.model import transformer
from gptjax.text import frames, table

TEXTS = ['a text of some more length', '', 'ä 漢 🙂']


@pytest.fixture(scope='module')
def tokenizer():
    return table.make(lambda: [], name='bytes', mask=True)


def reader_of(tokenizer, family='bert', **head):
    arch = tiny_family.arch(family, T=32, V=384).with_head(**head)
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    return reader_lib.Reader(model, tiny_family.params(model), tokenizer)


def alone(reader, tokenizer, text):
    """The hidden states of one text, without padding."""
    ids, _ = frames.example(tokenizer, tokenizer.encode(text))
    row = jnp.asarray(ids)[None]
    batch = dict(tokens=row, positions=jnp.arange(len(ids))[None], segments=row * 0 + 1)
    x, _ = transformer.hidden(reader._model, reader._params, batch)
    return x, batch['segments']


def test_classes_of_a_batch_are_those_of_each_text_alone(tokenizer):
    reader = reader_of(tokenizer, kind='classes', classes=3, pooler=True, bias=False)
    found = reader.classify(TEXTS)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    for text, shares in zip(TEXTS, found, strict=True):
        hidden = alone(reader, tokenizer, text)
        logits = transformer.classify(reader._model, reader._params, *hidden)[0]
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(shares, expected, rtol=1e-4)


def test_rewards_and_embeddings_too(tokenizer):
    reader = reader_of(tokenizer, 'llama', kind='reward')
    for text, reward, vector in zip(
        TEXTS, reader.rewards(TEXTS), reader.embed(TEXTS, 'mean'), strict=True
    ):
        x, segments = alone(reader, tokenizer, text)
        expected = transformer.rewards(reader._model, reader._params, x, segments)
        np.testing.assert_allclose(reward, expected[0], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(vector, x[0].mean(0), rtol=1e-3, atol=1e-5)
    with pytest.raises(command.UserError, match='has seen nothing'):
        reader.embed(TEXTS, 'cls')
    with pytest.raises(command.UserError, match="a head of 'reward'"):
        reader.classify(TEXTS)


def test_each_mask_gets_its_likeliest_words(tokenizer):
    reader = reader_of(tokenizer, kind='masked')
    text = 'a<|mask|>c <|mask|>'
    ids, _ = frames.example(tokenizer, tokenizer.encode_special(text))
    assert ids.count(tokenizer.control['<|mask|>']) == 2
    row = jnp.asarray(ids)[None]
    batch = dict(tokens=row, positions=jnp.arange(len(ids))[None], segments=row * 0 + 1)
    logits = transformer.forward(reader._model, reader._params, batch)[0]
    for place, fills in zip([2, 5], reader.fill(text), strict=True):
        shares = np.exp(logits[place, : tokenizer.vocab_size])
        shares /= shares.sum()
        best = np.argsort(-shares)[:5]
        assert [word for word, _ in fills] == [
            tokenizer.decode([i]) for i in best.tolist()
        ]
        np.testing.assert_allclose([p for _, p in fills], shares[best], rtol=1e-4)
    with pytest.raises(command.UserError, match=r'has no mask \(<\|mask\|>\)'):
        reader.fill('nothing hidden')


def test_a_long_text_is_cut_with_a_warning_and_ends_as_it_should(tokenizer, capsys):
    reader = reader_of(tokenizer, kind='none')
    cut = reader.embed(['y' * 40], 'mean')
    assert 'text 1 has 10 tokens more than the context of 32' in capsys.readouterr().err
    np.testing.assert_array_equal(cut, reader.embed(['y' * 30], 'mean'))


def test_the_terminal_prints_one_line_of_json_a_text(tokenizer, tmp_path, capsys):
    reader = reader_of(tokenizer, kind='classes', classes=2, pooler=True, bias=False)
    trained = types.SimpleNamespace(
        model=reader._model,
        params=reader._params,
        tokenizer=tokenizer,
        labels=['bad', 'good'],
    )
    file = tmp_path / 'texts'
    file.write_text('one\ntwo ä\n')
    terminal.read(trained, ['zero'], [], file, None)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line['text'] for line in lines] == ['zero', 'one', 'two ä']
    shares = reader.classify(['zero', 'one', 'two ä'])
    assert [line['label'] for line in lines] == [
        trained.labels[i] for i in shares.argmax(1)
    ]
    terminal.read(trained, ['zero'], [], None, 'cls')
    [line] = capsys.readouterr().out.splitlines()
    assert len(json.loads(line)['embedding']) == 16
    with pytest.raises(command.UserError, match='there is no text'):
        terminal.read(trained, [], [], None, None)
    with pytest.raises(command.UserError, match='cannot be read'):
        terminal.read(trained, [], [], tmp_path, None)
    with pytest.raises(command.UserError, match='1 texts and 2 second ones'):
        terminal.read(trained, ['a'], ['b', 'c'], None, None)


def test_a_pair_has_the_types_of_its_texts(tokenizer):
    reader = reader_of(tokenizer, kind='classes', classes=3, pooler=True, bias=False)
    [found] = reader.classify(['one'], ['two'])
    ids, types = frames.example(tokenizer, *map(tokenizer.encode, ('one', 'two')))
    row = jnp.asarray(ids)[None]
    batch = dict(tokens=row, positions=jnp.arange(len(ids))[None], segments=row * 0 + 1)
    batch['types'] = jnp.asarray(types)[None]
    x, _ = transformer.hidden(reader._model, reader._params, batch)
    args = reader._model, reader._params, x, batch['segments']
    logits = transformer.classify(*args)[0]
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(), rtol=1e-4)
    [other] = reader.classify(['one' + 'two'])
    assert not np.allclose(found, other, rtol=0.01)
