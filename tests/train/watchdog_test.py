"""The watchdog: what it ends, and what it leaves alone."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import types

import pytest

from gptjax import command
from gptjax.train import phases as phases_lib
from gptjax.train import watchdog

BLOCKED = """
import sys, time
from pathlib import Path
from gptjax.train import phases as phases_lib, watchdog
watchdog._LOOK = 0.05
folder = Path(sys.argv[1])
phases = phases_lib.Phases(folder)
phases.begin(0)
with watchdog.watching(phases, 0.4, folder / 'hang-0.txt'):
    for step in range(1, 9):
        phases.enter('data')
        phases.enter('step')
        time.sleep(0.03)
        phases.write(step)
    phases.enter('data')
    def blocked_loader():
        time.sleep(60)
    blocked_loader()
"""


def test_a_hang_ends_the_process_and_says_where_it_was(tmp_path):
    """Catches a wrong exit code or phase, stacks without the main thread, and a ledger
    without the seconds of the hang."""
    done = subprocess.run(
        [sys.executable, '-c', BLOCKED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == command.HANG, done.stderr
    kept = (tmp_path / 'hang-0.txt').read_text()
    for text in (done.stderr, kept):
        said = re.search(
            r'in phase data for (.*) s after step 8, where the limit is (.*) s;', text
        )
        assert said, text
        waited, most = map(float, said.groups())
        assert 0.4 <= most <= waited <= most + 0.2
        assert 'in blocked_loader' in text
        assert 'thread watchdog:' in text
    lines = (tmp_path / phases_lib.LEDGER).read_text().splitlines()
    last = json.loads(lines[-1])
    assert last['step'] == 8
    assert last['seconds']['data'] >= 0.4


@pytest.mark.parametrize(
    ('name', 'seen', 'expected'),
    [
        ('data', [9.0, 0.1, 0.1], 20.0),  # the first step is no measure
        ('step', [9.0, 3.0, 3.0], 30.0),
        ('collective', [9.0, 3.0, 3.0], 30.0),
        ('step', [9.0], 3600.0),  # others may still compile
        ('eval', [9.0], 3600.0),
        ('eval', [60.0, 30.0, *[0.01] * 300], 60.0),  # a long one may come again
        ('generate', [9.0, 5.0], 50.0),
        ('save', [], 3600.0),
        ('save', [1.0], 600.0),
        ('save', [100.0, 1.0], 1000.0),
        ('init', [1.0, 1.0], 3600.0),
        ('compile', [1.0, 1.0], 3600.0),
    ],
)
def test_limits(name, seen, expected):
    """Catches a limit without its floor, mean or longest, and a phase with that of
    another."""
    phases = phases_lib.Phases(None)
    for seconds in seen:
        for pace in phases.paces.values():
            pace.add(seconds)
    assert watchdog.limit(name, phases.paces, 20.0) == pytest.approx(expected)


@pytest.fixture
def ended(monkeypatch):
    """Set where the watchdog would have ended this process."""
    found = threading.Event()

    def end(code):
        found.set()
        time.sleep(0.2)  # not again and again until the test is over

    monkeypatch.setattr(os, '_exit', end)
    monkeypatch.setattr(watchdog, '_LOOK', 0.01)
    return found


def warm(phases):
    for pace in phases.paces.values():
        for _ in range(3):
            pace.add(0.001)


@pytest.mark.parametrize('off', [False, True])
def test_a_frozen_process_does_not_hang(ended, tmp_path, monkeypatch, off):
    """Catches time without progress that is taken from the clock, as SIGSTOP and a
    sleeping laptop add to it; and, `off`, a watchdog that 0 does not turn off."""
    jump = 0.0
    real = time.monotonic
    clock = types.SimpleNamespace(**vars(time), monotonic_=None)
    clock.monotonic = lambda: real() + jump
    monkeypatch.setattr(watchdog, 'time', clock)
    phases = phases_lib.Phases(None)
    warm(phases)
    with watchdog.watching(phases, 0.0 if off else 0.3, tmp_path / 'hang-0.txt'):
        phases.enter('step')
        time.sleep(0.05)
        jump = 1000.0
        assert ended.wait(0.5 if off else 20) != off  # it goes on to count
    if not off:
        text = (tmp_path / 'hang-0.txt').read_text()
        assert re.search(r'in phase step for 0\.3\d* s', text), text


def test_progress_and_long_evaluations_are_no_hang(ended, tmp_path):
    """Catches a count that does not begin anew with a phase or a batch."""
    phases = phases_lib.Phases(None)
    warm(phases)
    phases.paces['eval'].add(0.3)  # which was seen before
    with watchdog.watching(phases, 0.1, tmp_path / 'hang-0.txt'):
        for _ in range(6):
            phases.enter('data')
            time.sleep(0.02)
            phases.enter('step')
            time.sleep(0.02)
        with phases.of('eval'):
            for seconds in (0.05, 0.05, 0.3):
                time.sleep(seconds)
                phases.beat()
        assert not ended.is_set()
        assert ended.wait(20)  # in the step that goes on
    assert 'in phase step' in (tmp_path / 'hang-0.txt').read_text()
