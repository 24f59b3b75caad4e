"""What a run says: metrics.jsonl, TensorBoard events, and the line of progress."""

import io
import json
import resource
import struct
import sys

import numpy as np
import pytest
from tensorboard.compat.proto import event_pb2

from gptjax.train import log, transcripts
from gptjax.train.rewards import sample as sample_lib


def record(step, **more):
    known = dict(loss=None, eval_loss=None, tokens_per_second=None, mfu=None)
    return {'step': step, **known, **more}


def sample(prompt):
    return {'step': 2, 'prompt': prompt, 'completion': 'b', 'reward': 0.5}


def values(workdir):
    """(step, value) of all summaries."""
    (path,) = (workdir / 'tensorboard').iterdir()
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack('<Q', data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        yield from ((event.step, value) for value in event.summary.value)
        data = data[16 + length :]


def test_records_of_rollouts_are_shown_and_go_to_tensorboard(tmp_path, capsys):
    told = log.Log(tmp_path, 0, 4, quiet=False)
    told.write(record(0, eval_reward=0.25))
    lines = [json.dumps(sample(prompt)) + '\n' for prompt in 'qp']
    (tmp_path / log.SAMPLES).write_text(''.join(lines))
    told.write(record(2, loss=0.1, reward=0.5, kl=1.5, tokens_per_second=2e3))
    told.write(record(3, reward=0.5, kl=1.5))
    told.close()
    first, second, _ = capsys.readouterr().err.splitlines()
    assert first == 'step 0/4  eval reward 0.2500'
    begin, eta = second.split('  ETA ')
    assert begin == 'step 2/4  loss 0.1000  reward 0.5000  KL 1.5000  2.0k tokens/s'
    assert eta == '0:00'
    found = list(values(tmp_path))
    scalars = [(step, v.tag) for step, v in found if not v.HasField('tensor')]
    assert scalars[:3] == [(0, 'eval_reward'), (2, 'loss'), (2, 'tokens_per_second')]
    ((step, text),) = [(step, v) for step, v in found if v.HasField('tensor')]
    assert (step, text.metadata.plugin_data.plugin_name) == (2, 'text')
    assert [d.size for d in text.tensor.tensor_shape.dim] == [2, 3]
    assert list(text.tensor.string_val) == [b'q', b'b', b'0.5', b'p', b'b', b'0.5']


def test_a_run_that_begins_again_has_its_first_evaluation_once(tmp_path):
    for start in (0, 0, 2):
        told = log.Log(tmp_path, start, 4, quiet=False)
        for step in (0, 2, 3)[(start > 0) :]:
            told.write(record(step, loss=float(step)))
        told.close()
    assert [r['step'] for r in log.read(tmp_path)] == [0, 2, 2, 3]


def test_transcripts_of_a_run_that_goes_on_are_those_before_it(tmp_path):
    for start, left in ((2, [0, 2]), (0, [])):
        lines = [json.dumps({'step': step}) + '\n' for step in (0, 2, 3)]
        (tmp_path / log.SAMPLES).write_text(''.join(lines) + '{"step": ')
        transcripts.Transcripts(tmp_path, start)
        assert [r['step'] for r in log.read(tmp_path, log.SAMPLES)] == left


def test_transcripts_of_an_evaluation_that_was_cut_are_dropped(tmp_path):
    """Those of the rollout at that step stay, and of the evaluation before."""
    said = [(2, True), (3, False), (3, True)]
    lines = [json.dumps({'step': step, 'held_out': held}) for step, held in said]
    for again, left in ((False, said), (True, said[:2])):
        (tmp_path / log.SAMPLES).write_text('\n'.join(lines) + '\n')
        transcripts.Transcripts(tmp_path, 3, again=again)
        found = [(r['step'], r['held_out']) for r in log.read(tmp_path, log.SAMPLES)]
        assert found == left


@pytest.fixture
def full():
    """Lets no file grow beyond some bytes, as a full disk does, until None."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        soft = before[0] if size is None else size
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, before[1]))

    yield limit
    limit(None)


def test_what_a_full_disk_does_not_take_comes_later(tmp_path, full, monkeypatch):
    """Records, transcripts and events: what waits is whole, but for the very last."""
    monkeypatch.setattr(log, '_WAITING', 1000)
    monkeypatch.setattr(sys, 'stderr', io.StringIO())  # which may be a file
    some = [sample_lib.Sample('p', None, 'c', '', 1, ended=True)], np.ones(1), {}
    said = transcripts.Transcripts(tmp_path, 0)
    told = log.Log(tmp_path, 0, 99, quiet=False)
    full(60)
    for step in [*range(1, 40), 50]:
        if step == 50:
            full(None)
        said.write(step, False, *some)
        told.write(record(step, loss=0.5))
        if step == 39:
            assert (tmp_path / 'metrics.jsonl').stat().st_size == 60
            assert log.read(tmp_path, log.SAMPLES) == []
    said.close()
    told.close()
    for name in ('metrics.jsonl', log.SAMPLES):
        steps = [r['step'] for r in log.read(tmp_path, name)]
        assert steps == [*range(1, len(steps)), 50]
        assert 8 < len(steps) < 20
        assert len((tmp_path / name).read_bytes().splitlines()) == len(steps)
    shown = {step for step, _ in values(tmp_path)}
    assert shown == {*range(1, len(shown)), 50}


@pytest.mark.parametrize('error', [BrokenPipeError, OSError])
def test_a_run_goes_on_where_nobody_takes_what_it_says(tmp_path, monkeypatch, error):
    class Gone:
        isatty = lambda self: False  # noqa: E731

        def write(self, text):
            raise error

    monkeypatch.setattr(sys, 'stderr', Gone())
    told = log.Log(tmp_path, 0, 4, quiet=False)
    told.say('prose')
    told.write(record(1, loss=0.5))
    told.close()
    assert len(log.read(tmp_path)) == 1


def test_broken_lines_are_skipped_and_cost_no_other(tmp_path):
    """Bytes that are no text in the middle, and a last line without its end."""
    lines = [json.dumps({'step': step}).encode() for step in range(1, 5)]
    path = tmp_path / 'metrics.jsonl'
    path.write_bytes(b'\n'.join([lines[0], b'{"st\xff\0', *lines[1:]]))
    assert [r['step'] for r in log.read(tmp_path)] == [1, 2, 3, 4]
    for start, left in ((4, [1, 2, 3, 4, 5]), (2, [1, 2, 5])):
        told = log.Log(tmp_path, start, 9, quiet=False)
        told.write(record(5))
        told.close()
        assert [r['step'] for r in log.read(tmp_path)] == left


def test_a_torn_transcript_is_shown_once_it_is_whole(tmp_path):
    told = log.Log(tmp_path, 0, 4, quiet=False)
    text = json.dumps(sample('q')) + '\n'
    for step, part in enumerate((text[:9], text[9:], 'no JSON\n')):
        with (tmp_path / log.SAMPLES).open('a') as file:
            file.write(part)
        told.write(record(step))
    told.close()
    shown = [step for step, value in values(tmp_path) if value.HasField('tensor')]
    assert shown == [1]
