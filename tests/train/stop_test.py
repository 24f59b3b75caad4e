"""Runs and commands that are asked to stop, in the middle of anything."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import tiny_config

from gptjax import command
from gptjax.train import build, checkpoint, log, loop, start

# Each child of this process, which imports next to nothing, is one command. What it
# prints is the exit code of a shell, and the seconds since the last signal.
COMMANDS = """
import hashlib, os, signal, sys, time
from gptjax import command

command._UNWINDING, command._TOGETHER = 0.5, 0.3
out, into = os.pipe()

def ready():
    os.write(into, b'.')

def waits():
    ready()
    time.sleep(60)

def compiles():  # it is in C for long, and Python has no say
    ready()
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)

def swallows():
    try:
        waits()
    except KeyboardInterrupt:
        time.sleep(60)

def unwinds():
    try:
        waits()
    finally:
        time.sleep(0.2)
        os.write(1, b'unwound ')

def serves():  # with handlers of its own
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    waits()

def ended(main, *signals):
    pid = os.fork()
    if pid == 0:
        try:
            command.run(main)
        except SystemExit as end:
            os._exit(end.code)
        os._exit(1)
    os.read(out, 1)
    time.sleep(0.05)
    for wait, number in signals:
        time.sleep(wait)
        os.kill(pid, number)
    began = time.monotonic()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(main.__name__, code, round(time.monotonic() - began, 1), flush=True)

T, I, U = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1
for number in (T, I, U):
    ended(waits, (0, number))
ended(compiles, (0, T))
ended(swallows, (0, T))
ended(unwinds, (0, T), (0.05, T), (0, I))  # twice by one sender
command._UNWINDING = 60
ended(compiles, (0, T), (0.4, I))
ended(compiles, (0, T), (0.4, T))
ended(serves, (0, T))
"""


def test_signals_end_a_command_wherever_it_is():
    """Fails if a compiler can hold it, if what is unwound is interrupted, if a second
    signal waits, or if the handlers of a server are passed by."""
    done = subprocess.run(
        [sys.executable, '-c', COMMANDS], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ''
    found = done.stdout.splitlines()
    seconds = [float(line.split()[-1]) for line in found]
    assert [line.rsplit(' ', 1)[0] for line in found] == [
        *['waits 75'] * 3,
        'compiles 75',
        'swallows 75',
        'unwound unwinds 75',
        'compiles 130',
        'compiles 143',
        'serves 0',
    ]
    assert max(seconds) < 5


def asked_by(*signals, handler=command.passed):
    """What `heeding` calls for real signals to this process."""
    found = []
    with command.heeding(handler, found.append):
        for number in signals:
            os.kill(os.getpid(), number)
        until = time.monotonic() + 0.5
        while not found and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.01)
    return found


def test_handlers_and_descriptors_are_given_back():
    """Fails if the pipe, its thread or a handler stays."""

    def held():
        handlers = [signal.getsignal(number) for number in command.SIGNALS]
        return handlers, len(os.listdir('/proc/self/fd')), threading.active_count()

    before = held()
    for _ in range(100):
        with command.heeding(command.passed, print):
            pass
    for _ in range(100):
        if held() == before:
            break
        time.sleep(0.01)
    assert held() == before
    assert asked_by(signal.SIGUSR1, signal.SIGTERM, signal.SIGINT) == ['SIGUSR1']


def test_threads_have_no_signals(raw, tmp_path):
    """A run in a thread of somebody's program trains; it just takes no signals."""
    done = []
    thread = threading.Thread(target=lambda: done.append(run(raw, tmp_path, steps=4)))
    thread.start()
    thread.join()
    assert done == [True]


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp('raw') / 'text.txt'
    path.write_text(tiny_config.text())
    return path


def run(raw, workdir, steps=8, patience=0):
    config = tiny_config.get_config()
    config.data.path, config.steps = str(raw), steps
    config.checkpoint.every, config.eval = 100, dict(every=2, rows=0, patience=patience)
    return loop.train(build.build(config, workdir))


def lines(workdir):
    timed = {'seconds', 'tokens_per_second', 'mfu'}
    found = log.read(workdir)
    return [{k: v for k, v in line.items() if k not in timed} for line in found]


def host(workdir):
    values = checkpoint.Checkpoints(workdir, keep=1).newest()['host']
    return {
        name: value
        for name, value in values.items()
        if name not in ('seconds', 'environment')
    }


def interrupted(raw, workdir, monkeypatch, method, step, **settings):
    """A run that gets SIGTERM when `method` is called with the state of `step`."""
    real, asked = getattr(loop._Loop, method), []

    def signals(self, *args, **more):
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
            while not self.stop._asked:
                time.sleep(0.001)
            asked.append(step)
        return real(self, *args, **more)

    monkeypatch.setattr(loop._Loop, method, signals)
    assert not run(raw, workdir, **settings)
    monkeypatch.undo()
    assert asked == [step]
    return checkpoint.Checkpoints(workdir, keep=1).newest()['step']


@pytest.fixture(scope='module')
def straight(raw, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('straight')
    assert run(raw, workdir)
    return workdir


@pytest.mark.parametrize(
    ('method', 'step', 'saved'),
    [
        ('_dispatch', 4, 5),  # which dispatches step 5
        ('_means', 4, 4),
        ('_save', 8, 8),
    ],
)
def test_the_step_at_hand_is_saved(
    raw, straight, tmp_path, monkeypatch, method, step, saved
):
    """Fails if a poll is missed, and if a cut evaluation is not made again."""
    if method == '_save':  # the end is near: it is reached
        with pytest.raises(AssertionError):
            interrupted(raw, tmp_path, monkeypatch, method, step)
        monkeypatch.undo()
    else:
        assert interrupted(raw, tmp_path, monkeypatch, method, step) == saved
        assert run(raw, tmp_path)
    assert lines(tmp_path) == lines(straight)
    assert host(tmp_path) == host(straight)


def test_a_last_evaluation_that_was_cut_counts(raw, tmp_path, monkeypatch):
    """The run stops early at an evaluation, which is cut: the checkpoint must learn
    which one is the best. Fails if what was owed is not put into the manifest."""
    monkeypatch.setattr(
        loop._Loop, '_means', lambda self: {'loss': 1.0 + self.step, 'weight': 1.0}
    )
    patience = dict(patience=2)
    assert run(raw, tmp_path / 'straight', **patience)  # until step 6
    real = loop._Loop._evaluate

    def cut(self):
        if self.step == 6 and not self.host.owed:
            raise loop.stop_lib.Asked
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, '_evaluate', cut)
        assert not run(raw, tmp_path / 'cut', **patience)
    assert run(raw, tmp_path / 'cut', **patience)
    assert lines(tmp_path / 'cut') == lines(tmp_path / 'straight')
    assert host(tmp_path / 'cut') == host(tmp_path / 'straight')
    for name in ('straight', 'cut'):
        assert start.saved(tmp_path / name)[0]['step'] == 2
