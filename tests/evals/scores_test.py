"""Scores against closed forms, and what a result may not leave out."""

import dataclasses
import json
import math
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from gptjax import command
from gptjax.data import build as data_build
from gptjax.data import dataset
from gptjax.evals import __main__ as main
from gptjax.evals import scores
from gptjax.train import build


@pytest.fixture(scope='module')
def trained(stages):
    return build.load(stages.pretrain)


@pytest.fixture(scope='module')
def uniform(trained):
    """All logits are 0, for the head is the embedding."""
    zeros = jax.tree.map(jnp.zeros_like, trained.params)
    return dataclasses.replace(trained, params=zeros)


def test_uniform_model_has_the_closed_form(stages, uniform):
    result = scores.score(uniform, dataset.open(stages.text))
    split = dataset.open(stages.text).manifest['splits']['validation']
    V = uniform.model.arch.V
    assert result['tokens'] == split['tokens']  # every one, once
    assert result['bytes'] == split['bytes'] == split['tokens'] - split['documents']
    # Equal addends round the same way: float32 sums of a batch are off by up to 1e-5.
    assert result['loss'] == pytest.approx(math.log(V), rel=2e-5)
    assert result['perplexity'] == pytest.approx(V, rel=1e-4)
    expected = split['tokens'] * math.log2(V) / split['bytes']
    assert result['bits_per_byte'] == pytest.approx(expected, rel=2e-5)


def test_chat_weighs_the_answers_alone(stages, uniform):
    chat = dataset.open(stages.chat)
    result = scores.score(uniform, chat)
    split = chat.manifest['splits']['validation']
    answers = sum(1 if n % 5 else 2 for n in held_out(stages.chat))  # turns
    assert result['tokens'] == split['bytes'] + answers  # an <|end|> for each
    assert result['loss'] == pytest.approx(math.log(uniform.model.arch.V), rel=2e-5)


def held_out(folder):
    """The numbers that the held-out records were made of: their lines, from 0."""
    files = (folder / 'validation').glob('*.parquet')
    records = [row for file in files for row in pq.read_table(file).to_pylist()]
    return [int(record['id'].rsplit(':', 1)[-1]) - 1 for record in records]


def test_stream_is_the_tokens_of_the_shards(stages, trained):
    rows = dataset.open(stages.text).rows('train', T=64)
    files = sorted((stages.text / 'train').glob('*.tokens'))
    assert len(files) > 1
    tokens = np.concatenate([np.fromfile(file, '<u2') for file in files])
    begin = trained.tokenizer.control['<|endoftext|>']
    np.testing.assert_array_equal(scores.stream(rows), [*tokens, begin])


def test_stream_is_whole_when_it_is_read_in_pieces(stages, monkeypatch):
    rows = dataset.open(stages.text).rows('validation', T=64)
    whole = scores.stream(rows)
    monkeypatch.setattr(scores, '_ROWS', 3)
    np.testing.assert_array_equal(scores.stream(rows), whole)


def test_ranked_right_counts_the_more_probable_answers(stages, uniform):
    """Under uniform logits 'yes' is likelier than 'unknown', and less than 'no'."""
    pairs = dataset.open(stages.pairs)
    result = scores.score(uniform, pairs)
    numbers = held_out(stages.pairs)
    assert result['pairs'] == len(numbers)
    even = sum(n % 2 == 0 for n in numbers) / len(numbers)
    assert 0.2 < even < 0.8
    assert result['ranked_right'] == pytest.approx(even, rel=1e-6)
    # Where a 'y' is all but impossible, no 'yes' is the likelier answer.
    params = jax.tree.map(jnp.zeros_like, uniform.params)
    params['norm']['bias'] += 1.0
    params['tokens'] = params['tokens'].at[ord('y')].set(-10.0)
    no_y = dataclasses.replace(uniform, params=params)
    assert scores.score(no_y, pairs)['ranked_right'] == 0.0


@pytest.fixture
def pretrained(stages, tmp_path):
    """A copy of the workdir, to write into."""
    return shutil.copytree(stages.pretrain, tmp_path / 'pretrain')


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, 'argv', ['evals', *map(str, flags)])
    main.main()


def test_command_writes_what_it_prints(pretrained, monkeypatch, capsys):
    run(monkeypatch, '--workdir', pretrained, '--trigram')
    printed = capsys.readouterr().out
    path = pretrained / 'evals' / 'text.json'
    result = json.loads(path.read_text())
    assert list(result) == sorted(result)
    assert (result['kind'], result['step'], result['split']) == (
        'text',
        4,
        'validation',
    )
    assert result['trigram_bits_per_byte'] < result['bits_per_byte']  # after 4 steps
    for name in ('loss', 'bits_per_byte', 'trigram_bits_per_byte'):
        assert f'{result[name]:.4f}' in printed
    assert str(path) in printed
    assert scores.read(pretrained) == [result]


def test_another_dataset_of_the_same_tokenizer(stages, pretrained, monkeypatch):
    run(monkeypatch, '--workdir', pretrained, '--data', stages.chat)
    assert json.loads((pretrained / 'evals' / 'chat.json').read_text())['loss'] > 0


def test_a_dataset_of_the_same_name_replaces_nothing(
    stages, pretrained, tmp_path, monkeypatch
):
    run(monkeypatch, '--workdir', pretrained)
    own = (pretrained / 'evals' / 'text.json').read_text()
    (tmp_path / 'other').mkdir()
    other = shutil.copytree(stages.chat, tmp_path / 'other' / 'text')
    for _ in range(2):
        run(monkeypatch, '--workdir', pretrained, '--data', other)
    assert (pretrained / 'evals' / 'text.json').read_text() == own
    first, second = scores.read(pretrained)
    digest = dataset.open(other).manifest['digest']
    assert {first['dataset_digest'], second['dataset_digest']} > {digest}
    assert (pretrained / 'evals' / f'text-{digest[:12]}.json').exists()


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--answers=3'], '--answers is for a dataset of chat'),
        (['--data', 'CHAT', '--trigram'], '--trigram is for a dataset of text'),
        (['--data', 'CHAT', '--answers=0'], '--answers is 0'),
        (['--data', 'nowhere'], 'nowhere holds no dataset'),
        (['--data', __file__], r'scores_test\.py holds no dataset'),
    ],
)
def test_wrong_flags_are_user_errors(stages, monkeypatch, flags, message):
    flags = [stages.chat if flag == 'CHAT' else flag for flag in flags]
    with pytest.raises(command.UserError, match=message):
        run(monkeypatch, '--workdir', stages.pretrain, *flags)


def test_missing_workdir_and_missing_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(command.UserError, match='no workdir'):
        run(monkeypatch, '--workdir', tmp_path / 'none')
    with pytest.raises(command.UserError, match='no checkpoint'):
        run(monkeypatch, '--workdir', tmp_path)


def test_dataset_of_another_tokenizer(stages, tmp_path, monkeypatch):
    data_build.build(
        tmp_path / 'other',
        corpus=dict(name='text', path=str(stages.folder / 'text.jsonl'), licence='MIT'),
        tokenizer=dict(name='sentencepiece', model_type='bpe', vocab_size=300),
        held_out=dict(fraction=0.1, by='document'),
        shard_tokens=4000,
    )
    with pytest.raises(command.UserError, match='has another tokenizer'):
        run(monkeypatch, '--workdir', stages.pretrain, '--data', tmp_path / 'other')


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / 'evals').mkdir()
    (tmp_path / 'evals' / 'text.json').write_text('{"kind": "te')
    with pytest.raises(command.UserError, match=r'text\.json is damaged'):
        scores.read(tmp_path)


def test_rewards_are_those_of_a_run_that_has_some(stages):
    for answers, message in ((None, 'give --answers=N too'), (2, 'has no rewards')):
        with pytest.raises(command.UserError, match=message):
            scores.run(stages.sft, None, False, answers, rewards=stages.sft)
