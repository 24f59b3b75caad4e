"""Batches that grow: which rows they are of, how a run goes on, and its lineage."""

import contextlib

import jax
import numpy as np
import pytest
import tiny_config

from gptjax import command
from gptjax.data import lineage, pipeline
from gptjax.train import build, checkpoint, log, loop, record, source
from gptjax.train import phases as phases_lib
from gptjax.train import settings as settings_lib
from gptjax.train import state as state_lib

RAMP = ((3, 8), (6, 16))
SIZES = [4, 4, 4, 8, 8, 8, 16, 16]


def config(tmp_path, **data):
    raw = tmp_path / 'text.txt'
    raw.write_text(tiny_config.text())
    made = tiny_config.get_config()
    made.steps = len(SIZES)
    made.data.update(dict(path=str(raw), batch_size=4, batch_ramp=RAMP, **data))
    return made


@pytest.fixture
def run(tmp_path):
    return build.build(config(tmp_path), tmp_path / 'run')


def test_batches_of_a_ramp_are_the_rows_in_order(run):
    """From the start and from its middle. Mutation: a size that is a step late."""
    nothing = state_lib.State(0, None, None, None, {})
    assert [run.data.rows_at(n) for n in range(len(SIZES))] == SIZES
    for start in (0, 2, 5):
        row = sum(SIZES[:start])
        made = source.make(run, start, row, (), phases_lib.Phases(None))
        with contextlib.closing(made):
            for size in SIZES[start:]:
                batch, *_ = made.next(nothing, {})
                wanted = pipeline.batch(run.rows, seed=0, batch_size=size, row=row)
                np.testing.assert_array_equal(batch['tokens'], wanted['tokens'])
                row += size
                assert (made.row, made.draw) == (row, size)


def test_a_lineage_says_where_sizes_change(run):
    """Past rows that were skipped, too."""
    record.write(run, 0, 0, skips=[(12, 20)])
    parts = lineage.read(run.workdir)['trained_on']
    found = [tuple(part[k] for k in ('step', 'row', 'batch_size')) for part in parts]
    assert found == [(0, 0, 4), (3, 12, 8), (6, 44, 16)]
    record.write(run, 5, 60)
    parts = lineage.read(run.workdir)['trained_on']
    assert [part['row'] for part in parts] == [0, 12, 60, 68]


@pytest.mark.long
def test_a_run_goes_on_in_the_middle_of_a_ramp(run, tmp_path, monkeypatch):
    assert loop.train(run)
    parts = tmp_path / 'parts'
    monkeypatch.setattr(loop._Loop, '_agreed', lambda self, _: self.step == 5)
    assert not loop.train(build.build(config(tmp_path), parts))
    monkeypatch.undo()
    assert loop.train(build.build(config(tmp_path), parts))
    found = [
        checkpoint.Checkpoints(workdir, keep=1).newest()
        for workdir in (run.workdir, parts)
    ]
    assert found[0]['arrays'] == found[1]['arrays']
    assert [one['host']['row'] for one in found] == [sum(SIZES)] * 2
    losses = [[r['loss'] for r in log.read(w)] for w in (run.workdir, parts)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == len(SIZES)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(batch_ramp=((3, 8), (3, 16))), 'it is a list of'),
        (dict(batch_ramp=((0, 8),)), 'of rising steps from 1 on'),
        (dict(batch_ramp=((3, 9),)), 'data.batch_ramp is 9, which 4 data shards'),
        (dict(batch_ramp=(1_000, 1_024)), r'is \[1000, 1024\]; it is a list of'),
        (dict(batch_ramp=((1_000,),)), 'it is a list of'),
        (dict(batch_ramp=(('3', 8),)), 'it is a list of'),
        (dict(batch_ramp='3, 8'), 'it is a list of'),
    ],
)
def test_a_ramp_that_cannot_be_is_refused(tmp_path, changes, message):
    """Mutation: one of other than pairs of numbers is unpacked, a traceback."""
    made = config(tmp_path)
    with made.data.ignore_type():
        made.data.update(changes)
    made.mesh.data = 4
    with pytest.raises(command.UserError, match=message):
        build.build(made, tmp_path / 'run')


def test_epochs_have_no_ramp(tmp_path):
    made = config(tmp_path)
    del made.steps
    made.epochs = 1.0
    with pytest.raises(command.UserError, match='which needs steps, not epochs'):
        settings_lib.of(made)


def test_a_batch_of_another_size_lies_as_the_first():
    batch = {'tokens': jax.numpy.ones((4, 3), jax.numpy.int32)}
    resized = loop._resized(batch, 8)['tokens']
    assert (resized.shape, resized.dtype) == ((8, 3), batch['tokens'].dtype)
    assert resized.sharding == batch['tokens'].sharding
