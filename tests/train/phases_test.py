"""The ledger of phases, on a clock of its own."""

import errno
import itertools
import json
import os

import fake_clock
import pytest

from gptjax.train import phases as phases_lib


@pytest.fixture
def clock(monkeypatch):
    made = fake_clock.Clock()
    monkeypatch.setattr(phases_lib, 'time', made)
    return made


def ledger(folder):
    return [
        json.loads(x) for x in (folder / phases_lib.LEDGER).read_text().splitlines()
    ]


def test_the_seconds_of_every_line_add_up_to_its_time(clock, tmp_path):
    """Catches a phase that is counted twice or not at all: `_count` left out of
    `enter` or `beat`, `was` ignored, seconds told twice."""
    phases = phases_lib.Phases(tmp_path, age=3.0)
    clock.sleep(2)
    phases.begin(0)
    for step in range(1, 5):
        phases.enter('data')
        clock.sleep(0.25)
        phases.enter('step', was='step' if step > 2 else 'data')
        clock.sleep(0.5)
        if step == 3:
            with phases.of('eval'):
                for _ in range(3):
                    clock.sleep(1.5)
                    phases.beat()
        phases.write(step)
    with phases.of('save'):
        clock.sleep(4)
    phases.write(4, saved=True)
    clock.sleep(0.125)
    phases.close()
    lines, total, sums = ledger(tmp_path), 0.0, {}
    for line in lines:
        total += sum(line['seconds'].values())
        assert line['began'] + total == pytest.approx(line['time'], abs=1e-5)
        for name, seconds in line['seconds'].items():
            sums[name] = sums.get(name, 0) + seconds
    assert sums == pytest.approx(
        {'init': 5, 'data': 0.5, 'step': 2.625, 'eval': 4.5, 'save': 4}
    )
    assert lines[0]['step'] is None
    assert [x['from'] for x in lines if 'from' in x] == [0]
    assert [x['step'] for x in lines if 'saved' in x] == [4]


def test_a_line_that_a_kill_cut_off_spoils_no_other(clock, tmp_path):
    """Catches a ledger that is opened without a look at its end."""
    path = tmp_path / phases_lib.LEDGER
    path.write_text('{"began":1,"ti')
    phases_lib.Phases(tmp_path).close()
    first, *rest = path.read_text().splitlines()
    assert first == '{"began":1,"ti'
    assert [json.loads(line)['began'] for line in rest] == [1000.0, 1000.0]


def test_what_a_full_disk_kept_from_the_ledger_is_told_later(
    clock, tmp_path, monkeypatch
):
    """Catches a run that ends for its ledger's sake, or forgets these seconds."""
    phases = phases_lib.Phases(tmp_path)
    write = os.write
    for taken in (None, 7):  # no byte, and some of the line

        def full(file, data, taken=taken):
            if taken is None:
                raise OSError(errno.ENOSPC, 'no space')
            return write(file, data[:taken])

        monkeypatch.setattr(os, 'write', full)
        clock.sleep(5)
        phases.write(1, now=True)
    monkeypatch.setattr(os, 'write', write)
    phases.close()
    lines = (tmp_path / phases_lib.LEDGER).read_text().splitlines()
    assert json.loads(lines[-1])['seconds'] == {'init': 10}
    assert len(lines) == 3


def test_lines_become_rarer_as_a_process_grows_old(clock, tmp_path):
    """Catches a line for every step, and one a second for ever."""
    phases = phases_lib.Phases(tmp_path)
    phases.begin(0)
    for step in range(1, 1001):
        phases.write(step)
        clock.sleep(0.01)
    assert 10 <= len(ledger(tmp_path)) <= 13
    for step in range(1001, 6001):
        phases.write(step)
        clock.sleep(10)  # 14 hours
    phases.close()
    times = [line['time'] for line in ledger(tmp_path)]
    assert max(b - a for a, b in itertools.pairwise(times)) < 70
    assert len(times) < 3000


def test_paces_leave_out_what_compiles(clock):
    """Catches a first unit that counts, and the rest after the last batch of an
    evaluation that counts as one."""
    phases = phases_lib.Phases(None)
    phases.begin(0)
    for first in (100, 0):
        with phases.of('eval'):
            clock.sleep(first + 3)
            phases.beat()
            clock.sleep(0.001)
        with phases.of('generate'):
            clock.sleep(first + 4)
        with phases.of('save'):
            clock.sleep(first + 5)
    for step in range(1, 4):
        phases.enter('data')
        clock.sleep(1 if step > 1 else 60)
        phases.enter('step')
        clock.sleep(1)
        with phases.of('eval'):
            clock.sleep(3)
            phases.beat()
        phases.write(step)
        phases.write(step, saved=True)
    found = {name: (pace.mean, pace.longest) for name, pace in phases.paces.items()}
    assert found['eval'] == pytest.approx((3, 3))
    assert found['generate'] == pytest.approx((4, 4))
    assert found['save'][1] == pytest.approx(105)
    assert found['step'] == pytest.approx((2, 2))
    phases.begin(2)  # after a rollback everything compiles again
    assert not any(pace.known for pace in phases.paces.values())
