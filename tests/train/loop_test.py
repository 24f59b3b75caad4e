"""Whole runs: what they write, how they go on, and what they refuse."""

import json
import struct

import numpy as np
import pytest
import tiny_config

from gptjax import command
from gptjax.train import build, checkpoint, log, loop


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp('raw') / 'text.txt'
    path.write_text(tiny_config.text())
    return path


def run(raw, workdir, allow=False, **settings):
    """Trains the tiny config with `settings` such as mesh__data=2."""
    config = tiny_config.get_config()
    config.data.path = str(raw)
    for name, value in settings.items():
        *sections, last = name.split('__')
        node = config
        for section in sections:
            node = node[section]
        node[last] = value
    return loop.train(build.build(config, workdir, allow))


def losses(workdir):
    return {r['step']: r['loss'] for r in log.read(workdir)}


def manifest(workdir):
    return checkpoint.Checkpoints(workdir, keep=1).newest()


@pytest.fixture(scope='module')
def straight(raw, tmp_path_factory):
    """An uninterrupted run of 12 steps."""
    workdir = tmp_path_factory.mktemp('straight')
    assert run(raw, workdir)
    return workdir


def test_a_run_writes_what_the_readme_says(straight):
    records = log.read(straight)
    assert [r['step'] for r in records] == list(range(1, 13))
    assert {
        'step', 'loss', 'eval_loss', 'tokens_per_second', 'mfu', 'learning_rate',
        'gradient_norm', 'seconds',
    } <= set(records[0])  # fmt: skip
    assert [r['step'] for r in records if r['eval_loss'] is not None] == [6, 12]
    assert records[-1]['eval_loss'] < records[0]['loss'] - 0.3
    assert records[3]['learning_rate'] == pytest.approx(3e-3)
    assert json.loads((straight / 'config.json').read_text())['steps'] == 12
    assert (straight / 'tokenizer' / 'tokenizer.json').exists()
    kept = sorted(path.name for path in (straight / 'checkpoints').iterdir())
    assert kept == ['00000008', '00000012']


def test_tensorboard_reads_the_same_numbers(straight):
    from tensorboard.compat.proto import event_pb2

    (path,) = (straight / 'tensorboard').iterdir()
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack('<Q', data[:8])
        events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    found = {
        event.step: value.simple_value
        for event in events
        for value in event.summary.value
        if value.tag == 'loss'
    }
    assert found == pytest.approx(losses(straight))


def test_a_resumed_run_ends_with_the_same_bits(raw, straight, tmp_path):
    assert run(raw, tmp_path, steps=5, optimizer__warmup_steps=4)
    # The schedule of 5 steps is another; only the first, warming up, are the same.
    for step in range(1, 5):
        assert losses(tmp_path)[step] == losses(straight)[step]
    other = tmp_path / 'other'
    assert run(raw, other, checkpoint__every=3)
    assert manifest(other)['arrays'] == manifest(straight)['arrays']


@pytest.fixture
def half(raw, tmp_path, monkeypatch):
    """A run that was interrupted after step 7."""
    seen = []

    def stop_at_seven(self, interrupted):
        seen.append(self.step)
        return self.step == 7

    monkeypatch.setattr(loop._Loop, '_agreed', stop_at_seven)
    assert not run(raw, tmp_path)
    monkeypatch.undo()
    assert seen[-1] == 7
    return tmp_path


def test_an_interrupted_run_goes_on_to_the_same_bits(raw, straight, half):
    assert manifest(half)['step'] == 7
    assert run(raw, half)
    assert manifest(half)['arrays'] == manifest(straight)['arrays']
    assert losses(half) == losses(straight)


def test_other_meshes_go_on_with_the_same_rows_and_losses(raw, straight, half):
    """8 devices from step 7, then 4, then 1; the data stream is the host's one row."""
    assert run(raw, half, steps=12, mesh__data=8)
    np.testing.assert_allclose(
        list(losses(half).values()), list(losses(straight).values()), rtol=1e-5
    )
    assert manifest(half)['host']['row'] == manifest(straight)['host']['row'] == 96
    assert run(raw, half, steps=16, mesh__data=2, mesh__fsdp=2, mesh__rules='fsdp')
    assert run(raw, half, steps=20)
    assert manifest(half)['host']['row'] == 160


def test_a_flipped_bit_is_noticed_and_the_step_before_taken(
    raw, straight, half, capsys
):
    checkpoints = half / 'checkpoints'
    files = manifest(half)['files']
    name = max(files, key=lambda name: files[name]['size'])
    path = checkpoints / '00000007' / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert manifest(half)['step'] == 4
    assert f'checkpoint 7 is damaged: {name} has changed' in capsys.readouterr().err
    assert run(raw, half)
    assert manifest(half)['arrays'] == manifest(straight)['arrays']
    assert losses(half) == losses(straight)


def test_a_save_without_manifest_does_not_count(raw, straight, half):
    (half / 'checkpoints' / '00000007' / 'manifest.json').unlink()
    assert run(raw, half)
    assert manifest(half)['arrays'] == manifest(straight)['arrays']


def test_no_whole_checkpoint_is_an_error_not_a_fresh_start(raw, half):
    for path in (half / 'checkpoints').glob('*/manifest.json'):
        path.write_text('{')
    with pytest.raises(command.UserError, match=r'no checkpoint in .* is whole'):
        run(raw, half)


def test_early_stopping_keeps_the_best_step(raw, tmp_path):
    """A learning rate that destroys the model: the first evaluation is the best."""
    assert run(
        raw, tmp_path, steps=12, eval__every=1, eval__patience=3, checkpoint__keep=1,
        optimizer__learning_rate=1.0, optimizer__warmup_steps=6,
    )  # fmt: skip
    records = log.read(tmp_path)
    best = min(records, key=lambda r: r['eval_loss'])
    assert records[-1]['step'] == best['step'] + 3 < 12
    assert build.load(tmp_path).step == best['step']
    assert run(raw, tmp_path, steps=12, eval__every=1, eval__patience=3,
               checkpoint__keep=1, optimizer__learning_rate=1.0,
               optimizer__warmup_steps=6)  # fmt: skip
    assert len(log.read(tmp_path)) == len(records)


def test_a_finished_run_does_nothing(raw, straight, capsys):
    before = (straight / 'metrics.jsonl').read_bytes()
    assert run(raw, straight)
    assert 'is complete at step 12' in capsys.readouterr().err
    assert (straight / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'optimizer__b3': 1}, r"unknown option optimizer\.b3; did you mean 'b[12]'"),
        ({'data__batch_size': 6, 'mesh__data': 4}, r'is 6, which 4 data shards do not'),
        ({'compute__accumulate': 3}, 'which 3 microbatches on 1 data shards'),
        ({'model__V': 100}, r'model\.V is 100; set model\.V to at least 261'),
        ({'model__depth': 3}, r'unknown option model\.depth'),
        ({'objective__name': 'dpo'}, r'objective lacks beta|is a dataset of text'),
        ({'data__path': '/nowhere.txt'}, '/nowhere.txt'),
        ({'data__loader': 'grain'}, "unknown data.loader 'grain'"),
        ({'evil': 1}, "unknown setting 'evil'; did you mean 'eval'"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_by_name(raw, tmp_path, settings, message):
    with pytest.raises(command.UserError, match=message):
        run(raw, tmp_path, **settings)
    assert not (tmp_path / 'config.json').exists()


def test_a_workdir_of_another_config_is_refused(raw, straight):
    with pytest.raises(command.UserError, match=r'optimizer\.b1: 0\.9 -> 0\.8'):
        run(raw, straight, optimizer__b1=0.8)
    config = json.loads((straight / 'config.json').read_text())
    assert config['optimizer']['b1'] == 0.9


def test_fine_tuning_starts_from_the_weights_of_a_workdir(raw, straight, tmp_path):
    model = dict(init_from=str(straight), dropout=0.0)
    still = dict(optimizer__learning_rate=1e-9, optimizer__final_learning_rate=0.0)
    assert run(raw, tmp_path, model=model, **still)
    last = log.read(straight)[-1]['eval_loss']
    assert log.read(tmp_path)[0]['loss'] < log.read(straight)[0]['loss'] - 0.3
    assert log.read(tmp_path)[-1]['eval_loss'] == pytest.approx(last, rel=1e-3)
