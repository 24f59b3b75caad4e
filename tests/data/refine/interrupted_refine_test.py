"""A run that is killed at any moment, and run again, ends with the same bytes."""

import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

import pytest
import toy_pipeline

from gptjax import command
from gptjax.data.refine import runner

SCRIPT = Path(toy_pipeline.__file__)


class Killed(BaseException):
    pass


@pytest.fixture
def raw(tmp_path):
    rng = random.Random(0)
    folder = tmp_path / 'raw'
    folder.mkdir()
    for name in 'abc':
        lines = [
            f'{{"id": "{name}{n}", "source": "s/{n}", "licence": "MIT", '
            f'"text": "{" ".join(rng.choices(["hum", "dim", "lo-fi"], k=9))}"}}\n'
            for n in range(40)
        ]
        (folder / f'{name}.jsonl').write_text(''.join([*lines, 'bad\n']))
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_it_may_end_before_and_after_each_rename(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda descriptor: None)
    options = toy_pipeline.options(raw)
    runner.refine(tmp_path / 'whole', **options)
    expected = contents(tmp_path / 'whole')
    real, left = os.replace, [0]

    def replace(*paths):
        for rename in (None, real):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            if rename:
                rename(*paths)

    monkeypatch.setattr(os, 'replace', replace)
    again = tmp_path / 'again'  # ends after every 17 of these, and goes on
    ends = 0
    while True:
        left[0] = 17
        try:
            runner.refine(again, **options)
            break
        except Killed:
            ends += 1
            manifests = list(again.glob('manifest.json'))
            assert not manifests or contents(again).items() >= expected.items()
    assert ends > 10
    assert contents(again) == expected
    for at in range(1, 10_000, 23):  # and from the beginning, once
        output = tmp_path / f'at-{at}'
        left[0] = at
        try:
            runner.refine(output, **options)
        except Killed:
            left[0] = 0
            runner.refine(output, **options)
        else:
            break
        assert contents(output) == expected
    assert at > 100


def start(raw, output):
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, SCRIPT, raw, output, '2'],
        env={**os.environ, 'PYTHONPATH': str(root)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_three_kills_of_processes_end_with_the_same_bytes(raw, tmp_path):
    """The clean run is of one process, the others are of two."""
    runner.refine(tmp_path / 'whole', **toy_pipeline.options(raw))
    output, rng = tmp_path / 'killed', random.Random()
    for phase in ('toy.exact: round', 'toy.neighbours: documents', 'writing'):
        run = start(raw, output)
        for line in run.stderr:
            if line.startswith(phase):
                break
        time.sleep(rng.uniform(0, 0.02))
        run.kill()  # the parent alone: its workers notice
        run.wait()
        run.stderr.close()
    again = start(raw, output)
    assert again.wait() == 0, again.stderr.read()
    again.stderr.close()
    assert contents(output) == contents(tmp_path / 'whole')


def gone(group):
    """Whether a group of processes ends soon."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_ctrl_c_ends_a_run_and_its_workers_quietly(raw, tmp_path):
    """As a terminal sends it: to all. Fails if a worker outlives it, or says much."""
    run = start(raw, tmp_path / 'out')
    assert run.stderr.readline().startswith('reading')
    os.killpg(run.pid, signal.SIGINT)
    assert 'Traceback' not in run.stderr.read()
    assert run.wait() == command.REQUEUE
    run.stderr.close()
    assert gone(run.pid)
