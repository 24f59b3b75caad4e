"""What a run says: metrics.jsonl, TensorBoard events, and the line of progress."""

import json
import struct

from tensorboard.compat.proto import event_pb2

from gptjax.train import log, transcripts


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
