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
# prints is the exit code, negative for a signal.
COMMANDS = """
import hashlib, os, signal, sys, time
from gptjax import command

command._UNWINDING, command._TOGETHER = 0.2, 60
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
        time.sleep(0.1)
        os.write(1, b'unwound ')

def collects():  # what is raised in here is lost
    class Last:
        def __del__(self):
            os.kill(os.getpid(), T)
            time.sleep(0.01)
    ready()
    Last()
    time.sleep(60)

def serves():  # with handlers of its own
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    waits()

def ended(main, *signals):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # what heeds nothing ends too
        try:
            command.run(main)
        except SystemExit as end:
            os._exit(end.code)
        os._exit(1)
    os.read(out, 1)
    time.sleep(0.02)
    for wait, number in signals:
        time.sleep(wait)
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        os.kill(pid, number)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(main.__name__, code, flush=True)

T, I, U = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1
for number in (T, I, U):
    ended(waits, (0, number))
ended(compiles, (0, T))
ended(swallows, (0, T))
ended(unwinds, (0, T), (0.02, T), (0, I))  # twice by one sender
command._UNWINDING, command._TOGETHER = 60, 0.1
ended(collects)
ended(compiles, (0, T), *[(0.15, I)] * 99)  # some come too early on a busy machine
ended(compiles, (0, T), *[(0.15, T)] * 99)
ended(serves, (0, T))
"""


def test_signals_end_a_command_wherever_it_is():
    """Fails if a compiler can hold it, if what is unwound is interrupted, if a second
    signal waits, or if the handlers of a server are passed by."""
    done = subprocess.run(
        [sys.executable, '-c', COMMANDS], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ''
    assert done.stdout.splitlines() == [
        *['waits 75'] * 3,
        'compiles 75',
        'swallows 75',
        'unwound unwinds 75',
        'collects 75',
        'compiles 130',
        'compiles 143',
        'serves 0',
    ]


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


def test_a_thread_takes_no_signals():
    """A run in a thread of somebody's program: handlers are of the main one alone."""
    done = []

    def run_in_thread():
        with command.heeding(command.passed, print):
            done.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run_in_thread)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGTERM)] != [command.passed]


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp('raw') / 'text.txt'
    path.write_text(tiny_config.text())
    return path


@pytest.fixture(scope='module', autouse=True)
def worse():
    """Evaluations become worse and worse: the first one is the best."""
    real = loop._Loop._means

    def means(self):
        return {**real(self), 'loss': 1.0 + self.step}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Loop, '_means', means)
        yield


def run(raw, workdir):
    config = tiny_config.get_config()
    config.data.path, config.steps = str(raw), 8
    config.checkpoint.every, config.eval = 100, dict(every=2, rows=16, patience=2)
    return loop.train(build.build(config, workdir))


def left(workdir):
    """What a run left of itself, but for times: lines, host values, the best step."""
    timed = {'seconds', 'tokens_per_second', 'mfu'}
    lines = [
        {name: value for name, value in line.items() if name not in timed}
        for line in log.read(workdir)
    ]
    host = checkpoint.Checkpoints(workdir, keep=1).newest()['host']
    del host['seconds']
    return lines, host, start.saved(workdir)[0]['step']


@pytest.fixture(scope='module')
def straight(raw, tmp_path_factory):
    """It stops early, after the evaluation of step 6."""
    workdir = tmp_path_factory.mktemp('straight')
    assert run(raw, workdir)
    assert left(workdir)[2] == 2
    return left(workdir)


@pytest.mark.parametrize(
    ('method', 'step', 'saved'),
    [
        ('_dispatch', 4, 5),  # of step 5
        ('_each', 6, 6),  # the first batch of the last evaluation
    ],
)
def test_the_step_at_hand_is_saved(
    raw, straight, tmp_path, monkeypatch, method, step, saved
):
    """SIGTERM comes when a method is called. Fails if a poll is missed, if a cut
    evaluation is not made again, or if the checkpoint does not learn its outcome."""
    real, asked = getattr(loop._Loop, method), []

    def signals(self, *args):
        if self.step == step and not asked:
            asked.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
            while not self.stop._asked:
                time.sleep(0.001)
        return real(self, *args)

    monkeypatch.setattr(loop._Loop, method, signals)
    assert not run(raw, tmp_path)
    assert checkpoint.Checkpoints(tmp_path, keep=1).newest()['step'] == saved
    assert run(raw, tmp_path)
    assert left(tmp_path) == straight
