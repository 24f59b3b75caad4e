"""Training on a mixture: resume to the same bits, and sources that join a run."""

import json

import numpy as np
import pytest
import tiny_config

from gptjax import command
from gptjax.data import build as data_build
from gptjax.train import build, checkpoint, log, loop, settings


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Three datasets of the same tokenizer: numbers, words and conversations."""
    made = {}
    for name, texts in (
        ('numbers', ['one two three ' * 60, tiny_config.text()]),
        ('words', ['the river runs to the sea. ' * 30] * 8),
    ):
        raw = tmp_path_factory.mktemp(name)
        for number, text in enumerate(texts):
            (raw / f'{number}.txt').write_text(text)
        made[name] = raw
    return {
        name: str(
            data_build.build(
                tmp_path_factory.mktemp('built') / name,
                corpus=dict(name='text', path=str(raw), licence=licence),
                tokenizer=dict(name='bytes'),
                held_out=dict(fraction=0.1, by='tail'),
                shard_tokens=4096,
            ).folder
        )
        for (name, raw), licence in zip(made.items(), ('CC0-1.0', 'MIT'), strict=True)
    }


def run(folders, workdir, **given):
    data = {'licences': ('MIT', 'CC0-1.0'), **given}
    config = tiny_config.get_config()  # as it is, for its programs are compiled already
    config.data = dict(
        mixture=(
            dict(path=folders['numbers'], weights=((0, 1), (3, 0.5))),
            dict(path=folders['words'], weights=((0, 0), (3, 0.5))),
        ),
        batch_size=8,
        loader='threads',
        **data,
    )
    return build.build(config, workdir)


def test_a_run_that_lost_steps_makes_them_again(folders, tmp_path):
    """From the middle of a block, after the weights have changed."""
    options = dict(packing='best_fit')
    arrays, losses = [], []
    for _ in range(2):
        made = run(folders, tmp_path, **options)
        assert loop.train(made)
        newest = checkpoint.Checkpoints(tmp_path, keep=1).newest()
        assert newest['step'] == 12
        arrays.append(newest['arrays'])
        losses.append([r['loss'] for r in log.read(tmp_path)])
        (tmp_path / 'checkpoints' / '00000012' / 'manifest.json').unlink()
    assert arrays[0] == arrays[1]
    assert losses[0] == losses[1]
    # Held-out loss of each source, and of both by their tokens.
    last = log.read(tmp_path)[-1]
    tokens = [len(made.datasets[i].rows('validation', 1)) for i in (0, 1)]
    both = [last['eval_loss_numbers'], last['eval_loss_words']]
    assert last['eval_loss'] == pytest.approx(np.average(both, weights=tokens))
    assert both[0] != both[1]
    # Another source is another config.
    with pytest.raises(command.UserError, match='--allow_config_change'):
        run({**folders, 'words': folders['numbers']}, tmp_path)


def test_what_is_forgotten_is_measured(folders, tmp_path, capsys, monkeypatch):
    """A model of both sources goes on with one of them, interrupted."""
    start, workdir = tmp_path / 'start', tmp_path / 'tuned'
    assert loop.train(run(folders, start))
    last = log.read(start)[-1]

    def tuned():
        config = tiny_config.get_config()
        config.model = dict(init_from=str(start), dropout=0.0)
        config.steps, config.eval.every = 6, 3
        config.data = dict(
            mixture=(
                dict(path=folders['numbers'], weights=((0, 1),)),
                dict(path=folders['words'], weights=((0, 0),)),  # evaluated, no more
            ),
            licences=('MIT', 'CC0-1.0'),
            batch_size=8,
            loader='threads',
        )
        return build.build(config, workdir)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, '_agreed', lambda self, _: self.step == 4)
        assert not loop.train(tuned())
    capsys.readouterr()
    assert loop.train(tuned())
    said = capsys.readouterr().err
    before, *records = log.read(workdir)
    assert [before['step'], *(r['step'] for r in records)] == list(range(7))
    assert (before['loss'], before['learning_rate']) == (None, None)
    for name in ('numbers', 'words'):
        key = f'eval_loss_{name}'
        assert before[key] == pytest.approx(last[key], rel=1e-5)
        for record in (records[2], records[5]):
            forgotten = record[key] - before[key]
            assert record[f'forgetting_{name}'] == pytest.approx(forgotten, abs=1e-9)
        assert f'{name} {before[key]:.4f} -> {records[5][key]:.4f}' in said
    assert 'forgetting_words' not in records[4]


@pytest.mark.parametrize('packing', [None, 'best_fit'])
def test_held_out_rows_are_those_of_all_sources(folders, tmp_path, packing):
    """However they are packed in training: so python -m gptjax.evals reads them too."""
    made = run(folders, tmp_path, packing=packing)
    assert len(made.datasets) == 2
    packed = len(made.rows) != sum(len(d.rows('train', made.T)) for d in made.datasets)
    assert packed == (packing is not None)
    found = made.eval_rows.read(np.arange(len(made.eval_rows)))
    both = [one.rows('validation', made.T) for one in made.datasets]
    assert len(made.eval_rows) == sum(map(len, both))
    for key in found:
        parts = [rows.read(np.arange(len(rows)))[key] for rows in both]
        np.testing.assert_array_equal(found[key], np.concatenate(parts))


def test_a_mixture_has_no_epochs():
    config = tiny_config.get_config()
    del config['steps']
    config.epochs, config.data.mixture = 1.0, None
    config.data.path = 'x'
    assert settings.of(config)['epochs'] == 1
    config.data = dict(
        mixture=(dict(path='x'),), batch_size=8, loader='threads', licences=('MIT',)
    )
    with pytest.raises(command.UserError, match='set steps, not epochs'):
        settings.of(config)


def test_packing_is_refused_where_it_has_no_effect(tmp_path):
    turns = [{'role': role, 'content': 'ab'} for role in ('user', 'assistant')]
    (tmp_path / 'chat.jsonl').write_text(f'{json.dumps({"messages": turns})}\n' * 20)
    config = tiny_config.get_config()
    config.data.path, config.data.packing = str(tmp_path / 'chat.jsonl'), 'best_fit'
    config.data.build.corpus.name, config.data.build.held_out.by = 'chat', 'document'
    with pytest.raises(command.UserError, match=r"'best_fit', .* no effect on chat"):
        build.build(config, tmp_path / 'run')


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (dict(licences=('MIT',)), r'numbers.*CC0-1\.0'),
        (
            dict(packing='first_fit'),
            r"packing is 'first_fit'; it needs to be 'best_fit'",
        ),
        (dict(licences=None), r'data\.mixture needs data\.licences'),
        (dict(path='x'), 'one of path and mixture'),
        (dict(build={}), r'data\.build is for a raw data\.path'),
    ],
)
def test_data_that_make_no_sense_are_refused(folders, tmp_path, data, message):
    with pytest.raises(command.UserError, match=message):
        run(folders, tmp_path, **data)
