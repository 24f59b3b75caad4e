"""A step done once more: the same bits, the documents it read, and nothing written."""

import json
import shutil

import numpy as np
import pytest
import tiny_config

from gptjax import command
from gptjax.data import dataset, ledger, storage
from gptjax.data import rows as rows_lib
from gptjax.train import build, log, loop, replay


def config(path):
    made = tiny_config.get_config()
    made.model.update(D=16, F=32, L=1, T=16)
    made.compute.scan_unroll = 1
    made.data.path = str(path)
    made.data.build.held_out = dict(fraction=0.2, by='document')
    made.steps = 11
    return made


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp('raw') / 'lines.jsonl'
    lines = tiny_config.text().splitlines()[:60]
    path.write_text('\n'.join(json.dumps({'text': line}) for line in lines))
    return path


@pytest.fixture(scope='module')
def run(raw, tmp_path_factory):
    """A run of 11 steps with checkpoints of 8 and 11."""
    workdir = tmp_path_factory.mktemp('run')
    assert loop.train(build.build(config(raw), workdir))
    return workdir


def content(folder):
    """Of every file: its bytes and the time of its last change."""
    return {
        str(path): (path.stat().st_mtime_ns, storage.file_digest(path))
        for path in folder.rglob('*')
        if path.is_file()
    }


@pytest.mark.parametrize(('step', 'start'), [(11, 8), (8, 0)])
def test_a_step_comes_out_as_it_did_and_leaves_no_trace(run, capsys, step, start):
    """Rows of another step, or a state a step off, change the loss, and fail here."""
    before = content(run)
    replay.replay(run, step)
    told = capsys.readouterr().out
    assert content(run) == before
    record = next(r for r in log.read(run) if r['step'] == step)
    assert f'step {step} of {run}, begun from step {start}' in told
    for name in ('loss', 'gradient_norm', 'learning_rate'):
        assert f'{name} {record[name]!r} (recorded: {record[name]!r})' in told
    assert told.splitlines()[-1].endswith('(as in its checkpoint)')


def test_the_documents_are_those_of_the_rows_that_were_read(run, capsys, monkeypatch):
    """Against a spy on the rows; those of the step before or after fail."""
    read = []
    original = rows_lib.TextRows.read

    def spy(self, indices, epochs=None):
        read.append(np.array(indices))
        return original(self, indices, epochs)

    monkeypatch.setattr(rows_lib.TextRows, 'read', spy)
    replay.replay(run, 10)
    told = capsys.readouterr().out
    built = dataset.open(run / 'data')
    rows = built.rows('train', 16)
    found = [
        entry.id
        for entry in ledger.entries(built, 'train')
        if np.isin(rows.rows_of(entry.place, entry.place + entry.tokens), read[1]).any()
    ]
    assert [
        line.split('  ')[3] for line in told.splitlines()[2 : 2 + len(found)]
    ] == found
    lines = [line for line in told.splitlines() if 'CC0-1.0' in line]
    assert len(lines) == len(found)
    assert all(line.split('  ')[4].lstrip('\'"')[0].isdigit() for line in lines)


def test_what_differs_is_named_and_ends_with_77(run, tmp_path):
    """The last bit of a recorded loss, and a setting that was changed."""
    one, other = tmp_path / 'one', tmp_path / 'other'
    for copy in (one, other):
        shutil.copytree(run, copy)
    records = log.read(run)
    records[9]['loss'] = float(np.nextafter(np.float32(records[9]['loss']), 9))
    text = ''.join(json.dumps(record) + '\n' for record in records)
    (one / 'metrics.jsonl').write_text(text)
    with pytest.raises(
        command.Failure, match='10 is not what it was: loss was'
    ) as error:
        replay.replay(one, 10)
    assert error.value.code == command.NUMERICS
    settings = json.loads((other / 'config.json').read_text())
    settings['optimizer']['weight_decay'] = 0.2
    (other / 'config.json').write_text(json.dumps(settings))
    with pytest.raises(command.Failure, match='arrays of checkpoint 11') as error:
        replay.replay(other, 11)
    assert 'learning_rate' not in str(error.value)


def test_a_step_that_is_not_there_is_refused(run, tmp_path):
    for step in (0, 12, -1):
        with pytest.raises(command.UserError, match='has steps 1 to 11'):
            replay.replay(run, step)
    (tmp_path / 'config.json').write_text('{"imported": {}}')
    with pytest.raises(command.UserError, match='imported weights'):
        replay.replay(tmp_path, 1)
