"""Traces of named steps: what is in them, and that they change nothing."""

import re

import jax
import pytest
import tiny_config

from gptjax import command
from gptjax.train import log, profile, program, verbs


def config_file(folder, data):
    """A config of one layer on the bytes of a text, in a file."""
    path = folder / 'config.py'
    path.write_text(
        'import tiny_config\n\n'
        'def get_config():\n'
        '    config = tiny_config.get_config()\n'
        '    config.model.update(D=16, F=32, L=1, T=16)\n'
        '    config.compute.update(scan_unroll=1, accumulate=2)\n'
        f'    config.data.path = {str(data)!r}\n'
        '    config.steps = 8\n'
        '    return config\n'
    )
    return path


@pytest.fixture(scope='module')
def train(tmp_path_factory):
    """Trains in a folder of its own, with flags; the workdir."""
    folder = tmp_path_factory.mktemp('config')
    (folder / 'text.txt').write_text(tiny_config.text())
    file = config_file(folder, folder / 'text.txt')

    def run(name, *flags):
        workdir = folder / name
        verbs.run([f'--config={file}', f'--workdir={workdir}', *flags])
        return workdir

    return run


def traces(workdir):
    return sorted((workdir / profile.FOLDER).rglob('*.xplane.pb'))


@pytest.mark.long
def test_a_trace_has_the_named_steps_and_stages_and_changes_no_loss(train, capfd):
    """A trace that begins or ends a step off fails, one that begins before the step
    before is done (its operations would be in it), a scope that is taken away, and a
    loop that loses an update to the trace."""
    plain, workdir = train('plain'), train('traced', '--profile=3:5')
    for name in ('loss', 'gradient_norm', 'eval_loss'):
        values = [[one[name] for one in log.read(run)] for run in (plain, workdir)]
        assert values[0] == values[1]
    assert 'steps 3 to 5 are in' in capfd.readouterr().err
    (path,) = traces(workdir)
    runs, steps = set(), []
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if event.name == profile.STEP:
                    steps.append(stats['step_num'])
                elif stats.get('hlo_module') == 'jit_train_step':
                    runs.add(stats['run_id'])
    assert steps == [3, 4, 5]
    assert len(runs) == 3
    scopes = set(re.findall(rb'jit\(train_step\)/[^"\x00-\x1f]*', path.read_bytes()))
    stages = {program.stage(scope.decode(errors='replace')).part for scope in scopes}
    assert set(program.STAGES) - stages == {'cross'}  # of encoder-decoders
    assert not traces(plain)


def test_a_run_that_goes_on_traces_what_is_left(tmp_path, monkeypatch, capfd):
    """A supervisor gives the same flags again: no reason to end."""
    calls = []
    monkeypatch.setattr(profile, 'start', lambda folder: calls.append('start'))
    monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append('stop'))

    def go_on(first, last):
        trace = profile.Profile(4, 6, tmp_path, 8)
        for step in range(first, last + 1):
            with trace.around(step, lambda: jax.numpy.zeros(())):
                calls.append(step)
        trace.close()
        told, done = capfd.readouterr().err, list(calls)
        calls.clear()
        return done, told

    done, told = go_on(5, 8)
    assert done == ['start', 5, 6, 'stop', 7, 8]
    assert 'steps 5 to 6 are in' in told
    done, told = go_on(3, 5)  # and is stopped
    assert done == [3, 'start', 4, 5, 'stop']
    assert 'steps 4 to 5 are in' in told
    done, told = go_on(7, 8)
    assert done == [7, 8]
    assert 'this process did not do steps 4 to 6' in told


@pytest.mark.parametrize('text', ['', '5', '5:5', '6:5', '0:3', 'a:b', '-1:3', '1:2:3'])
def test_what_is_no_range_is_refused(train, text):
    with pytest.raises(command.UserError, match='is no range of steps'):
        train('refused', f'--profile={text or ":"}')


def test_steps_beyond_the_end_are_refused(train):
    with pytest.raises(command.UserError, match='beyond the 8 steps'):
        train('beyond', '--profile=7:9')


def test_shares_of_operations_that_run_together(tmp_path, monkeypatch):
    """Against sums by hand: two at once share the time, what waits has what no other
    has, a loop what is left in it."""
    events = [
        profile._Event('loop', 0, 100, 0),
        profile._Event('dot', 10, 50, 0),
        profile._Event('add', 30, 50, 0),
        profile._Event('dot', 50, 80, 1),  # for another thread
        profile._Event('add', 60, 70, 0),
        profile._Event('copy', 120, 130, 0),
    ]
    monkeypatch.setattr(profile, '_events', lambda folder, module: events)
    found = profile.spent(tmp_path, 'jit_train_step', {'loop'})
    ns = {name: round(seconds * 1e9, 6) for name, seconds in found.of.items()}
    assert ns == {'loop': 30, 'dot': 20 + 10 + 10 + 10, 'add': 10 + 10, 'copy': 10}
    assert found.times == {'loop': 1, 'dot': 1, 'add': 2, 'copy': 1}
    assert found.seconds == pytest.approx(130e-9)
