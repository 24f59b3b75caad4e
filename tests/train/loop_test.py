"""Whole runs: what they write, how they go on, and what they refuse."""

import dataclasses
import json
from pathlib import Path
import struct

import jax
import numpy as np
import pytest
import tiny_config

from gptjax import command, core
from gptjax.data import lineage
from gptjax.data import rows as rows_lib
from gptjax.train import (
    build,
    checkpoint,
    claim,
    evaluate,
    feed,
    host,
    log,
    loop,
    record,
    replicas,
)
from gptjax.train import settings as settings_lib


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


def stopped_at(step, monkeypatch, *args, **settings):
    """Trains until an interrupt after `step`."""
    monkeypatch.setattr(loop._Loop, '_agreed', lambda self, _: self.step == step)
    assert not run(*args, **settings)
    monkeypatch.undo()


@pytest.fixture
def half(raw, tmp_path, monkeypatch):
    """A run that was interrupted after step 7, where nothing else would save."""
    stopped_at(7, monkeypatch, raw, tmp_path)
    return tmp_path


def test_an_interrupted_run_goes_on_to_the_same_bits(raw, straight, half):
    assert manifest(half)['step'] == 7
    assert run(raw, half)
    assert manifest(half)['arrays'] == manifest(straight)['arrays']
    assert losses(half) == losses(straight)


@pytest.mark.long
def test_other_meshes_go_on_with_the_same_rows_and_losses(raw, tmp_path, monkeypatch):
    """7 steps on 1 device, then 20 each on 8, 4 (FSDP) and 1 again."""
    steps = dict(steps=67, checkpoint__every=100, eval__every=100)
    assert run(raw, tmp_path / 'straight', **steps)
    moved = tmp_path / 'moved'
    stopped_at(7, monkeypatch, raw, moved, **steps)
    stopped_at(27, monkeypatch, raw, moved, **steps, mesh__data=8)
    fsdp = dict(mesh__data=2, mesh__fsdp=2, mesh__rules='fsdp')
    stopped_at(47, monkeypatch, raw, moved, **steps, **fsdp)
    assert run(raw, moved, **steps)
    expected, found = losses(tmp_path / 'straight'), losses(moved)
    assert list(found) == list(expected) == list(range(1, 68))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)
    assert manifest(moved)['host']['row'] == 67 * 8


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
        (
            {'objective__name': 'preference'},
            r'objective lacks loss, reference',
        ),
        ({'data__path': '/nowhere.txt'}, '/nowhere.txt'),
        ({'data__loader': 'grain'}, "unknown data.loader 'grain'"),
        ({'data__longer': 'cute'}, "unknown data.longer 'cute'"),
        ({'checkpoint__keep': 0}, r'checkpoint\.keep is 0; .* at least 1'),
        ({'eval__every': 0}, r'eval\.every is 0'),
        ({'steps': 0}, 'steps is 0; set it to a number above 0'),
        ({'evil': 1}, "unknown setting 'evil'; did you mean 'eval'"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_by_name(raw, tmp_path, settings, message):
    with pytest.raises(command.UserError, match=message):
        run(raw, tmp_path, **settings)
    assert not (tmp_path / 'config.json').exists()


def test_a_bad_setting_is_told_before_raw_text_is_built(raw, tmp_path):
    """Building may take hours."""
    with pytest.raises(command.UserError, match=r'guard\.sigma is -1'):
        run(raw, tmp_path, guard=dict(sigma=-1.0))
    assert not list(tmp_path.iterdir())


def test_nothing_compiles_after_the_first_step(raw, tmp_path, monkeypatch):
    """Fails if the batch, the state or a look at metrics brings another program."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(
            name.endswith('backend_compile_duration')
        )
    )
    dispatch, counts = loop._Loop._dispatch, {}

    def counted(self, *given):
        dispatch(self, *given)
        counts[self.step] = sum(compiled)

    monkeypatch.setattr(loop._Loop, '_dispatch', counted)
    run(raw, tmp_path, steps=8, eval__every=8, checkpoint__every=8)
    assert counts[8] == counts[2]
    assert sum(compiled) > 0


def test_types_at_the_top_of_a_config_are_checked():
    settings = tiny_config.get_config().to_dict()
    settings_lib.check_sections(settings)
    unfrozen = {k: v for k, v in settings['optimizer'].items() if k != 'freeze'}
    with pytest.raises(command.UserError, match='optimizer lacks freeze'):
        settings_lib.check_sections({**settings, 'optimizer': unfrozen})
    for name, wrong in (('seed', '0'), ('steps', 1.5)):
        with pytest.raises(command.UserError, match=f'{name} is .* needs to be int'):
            settings_lib.check_sections({**settings, name: wrong})


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
    first, *records = log.read(tmp_path)
    assert (first['step'], first['loss']) == (0, None)
    assert first['eval_loss'] == pytest.approx(last, rel=1e-5)
    assert [r['step'] for r in records] == list(range(1, 13))
    assert records[0]['loss'] < log.read(straight)[0]['loss'] - 0.3
    assert records[-1]['eval_loss'] == pytest.approx(last, rel=1e-3)


def test_a_damaged_future_is_given_up_not_kept(raw, half, monkeypatch):
    """Steps 4 and 7, of which 7 is damaged: the next save must not delete 4's like."""
    manifest_file = half / 'checkpoints' / '00000007' / 'manifest.json'
    manifest_file.write_text(
        manifest_file.read_text().replace('"row": 56', '"row": 57')
    )
    stopped_at(5, monkeypatch, raw, half, checkpoint__keep=1)
    kept = sorted(path.name for path in (half / 'checkpoints').iterdir())
    assert kept == ['00000005', '00000007.corrupt']
    assert manifest(half)['host']['row'] == 40


def test_patience_given_later_counts_from_then(raw, half, monkeypatch):
    """Not at once, though more evaluations than that were without a better loss."""
    held = host.resumed
    monkeypatch.setattr(
        host,
        'resumed',
        lambda *given: dataclasses.replace(held(*given), without_gain=9, best_step=2),
    )
    assert run(raw, half, eval__every=1, eval__patience=8)
    assert build.load(half).step == 12


def test_an_address_is_no_workdir(raw):
    with pytest.raises(command.UserError, match='is an address; mount the bucket'):
        run(raw, Path('gs://bucket/run'))


def test_two_runs_cannot_hold_one_workdir(raw, tmp_path):
    with (
        claim.claimed(tmp_path),
        pytest.raises(command.UserError, match=r'is held by pid .* on host'),
    ):
        run(raw, tmp_path)


def test_the_reference_of_preferences_must_not_change(raw, straight, tmp_path):
    """DPO on a model that is then trained further cannot go on."""
    base, pairs = tmp_path / 'base', tmp_path / 'pairs.jsonl'
    assert run(raw, base, steps=4)
    pairs.write_text(
        '\n'.join(
            json.dumps({'prompt': f'{n}?', 'chosen': f'{n}!', 'rejected': '-'})
            for n in range(40)
        )
    )
    settings = dict(
        model=dict(init_from=str(base), dropout=0.0),
        objective=dict(
            name='preference', loss=dict(name='sigmoid', beta=0.1), reference='stored'
        ),
        data__build__corpus=dict(name='pairs', licence='CC0-1.0'),
        data__build__held_out=dict(fraction=0.2, by='document'),
    )
    assert run(pairs, tmp_path / 'dpo', **settings, steps=6)
    before, first = log.read(tmp_path / 'dpo')[:2]
    for loss in (before['eval_loss'], first['loss']):
        assert loss == pytest.approx(np.log(2), abs=1e-5)
    assert run(pairs, tmp_path / 'dpo', **settings, steps=8)
    assert run(raw, base, steps=5)
    with pytest.raises(command.UserError, match='has been trained further'):
        run(pairs, tmp_path / 'dpo', **settings, steps=10)


def test_what_is_cut_is_counted_in_the_lineage(tmp_path):
    talks = tmp_path / 'chat.jsonl'
    asked = [('a' * 50, 'b'), ('a', 'b' * 50), ('a', 'b')] * 10
    with talks.open('w') as file:
        for question, answer in asked:
            said = {'role': 'assistant', 'content': answer}
            talk = [{'role': 'user', 'content': question}, said]
            file.write(json.dumps({'messages': talk}) + '\n')
    config = tiny_config.get_config()
    config.data.path = str(talks)
    config.data.build.corpus.name = 'chat'
    config.data.build.held_out = dict(fraction=0.2, by='document')
    config.data.longer = 'drop'
    made = build.build(config, tmp_path / 'run')
    record.write(made, step=0, row=0)
    (part,) = lineage.read(tmp_path / 'run')['trained_on']
    counts = part['counts']['']
    assert (part['longer'], counts) == ('drop', made.rows.counts)
    documents = made.datasets[0].manifest['splits']['train']['documents']
    assert counts['conversations'] == documents < 30
    assert counts['unlearned'] == counts['longer'] > 9


def test_held_out_rows_without_weight_are_an_error():
    """Such as the few that `eval.rows` takes."""

    class Feeder(feed.Feed):
        def __init__(self):
            pass

        def once(self, rows, limit=0):
            return [{}]

    class Rows:
        dtypes = rows_lib.DTYPES

        def __len__(self):
            return 5

        def read(self, indices, epochs=None):
            return {}

    nothing = core.Loss(terms={'loss': (0.0, 0.0)}, metrics={})
    with pytest.raises(command.UserError, match=r'nothing to evaluate: 5 .* model\.T'):
        evaluate.evaluate(lambda *_: nothing, {}, {}, Feeder(), Rows(), 2)


@pytest.mark.parametrize('longer', ['cut', 'drop'])
def test_rows_without_weight_are_an_error(tmp_path, longer):
    """Questions that fill the context leave no answer to learn."""
    chats = tmp_path / 'chat.jsonl'
    asked = {'role': 'user', 'content': 'a' * 50}
    chat = {'messages': [asked, {'role': 'assistant', 'content': 'b'}]}
    chats.write_text('\n'.join([json.dumps(chat)] * 20))
    with pytest.raises(command.UserError, match=r'train split has nothing.* model\.T'):
        run(
            chats, tmp_path / 'run', data__longer=longer,
            data__build__corpus=dict(name='chat', licence='CC0-1.0'),
            data__build__held_out=dict(fraction=0.5, by='document'),
        )  # fmt: skip


def test_replicas_are_compared_before_a_save(raw, tmp_path, monkeypatch):
    """Every third step, and step 6, at which the check fails, is not saved."""
    at = []

    def check(self, state, frozen, batch, step):
        at.append(step)
        if step == 6:
            raise command.Failure('device 3', command.NUMERICS)

    monkeypatch.setattr(replicas.Replicas, 'check', check)
    with pytest.raises(command.Failure, match='device 3'):
        run(raw, tmp_path, guard=dict(replicas=3), checkpoint__every=2)
    assert at == [0, 3, 6]
    assert manifest(tmp_path)['step'] == 4
