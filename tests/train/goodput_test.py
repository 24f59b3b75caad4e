"""Accounts of runs whose ends were scripted, against sums done by hand."""

import json
import random

import fake_clock
import pytest

from gptjax import command
from gptjax.train import goodput, phases, verbs


@pytest.fixture
def clock(monkeypatch):
    made = fake_clock.Clock()
    monkeypatch.setattr(phases, 'time', made)
    return made


class Run:
    """Processes on a clock that only they move: a step is 1 s of data and 3 of work."""

    def __init__(self, clock, folder):
        self.clock, self.folder = clock, folder

    def start(self, step, complete=False):
        self.phases = phases.Phases(self.folder, age=4.0)
        self.go_on(step, complete)

    def go_on(self, step, complete=False):
        self.phases.enter('init')
        self.clock.sleep(6)
        self.phases.begin(step, complete)
        self.step = step
        with self.phases.of('compile'):
            self.clock.sleep(0 if complete else 20)

    def steps(self, until):
        while self.step < until:
            self.step += 1
            self.phases.enter('data')
            self.clock.sleep(1)
            self.phases.enter('step')
            self.clock.sleep(3)
            self.phases.write(self.step)

    def evaluate(self):
        with self.phases.of('eval'):
            self.clock.sleep(7)
            self.phases.beat()

    def save(self):
        with self.phases.of('save'):
            self.clock.sleep(2)
        self.phases.write(self.step, saved=True)

    def account(self):
        found = goodput.account(goodput.lines(self.folder))
        assert sum(found['seconds'].values()) == found['wall']
        return found


@pytest.fixture
def run(clock, tmp_path):
    return Run(clock, tmp_path)


def test_two_kills_and_a_rollback(run, clock):
    """Catches lost work that is taken by the number of the step alone (the evaluation
    and the data of step 11 came after the save of 10), a rollback that loses nothing,
    lost work that stays in its bucket as well, and steps counted twice."""
    run.start(0)
    run.steps(10)
    run.evaluate()
    run.save()
    run.evaluate()  # at the same step, and after the save: done again
    run.phases.enter('data')
    clock.sleep(5)
    run.phases.write(10, now=True)  # killed here
    clock.sleep(50 + 4)  # the age of the next
    run.start(10)
    run.steps(13)
    clock.sleep(30 + 4)  # killed in step 14: 0 s of it were told
    run.start(10)
    run.steps(20)
    run.save()
    run.steps(25)
    run.go_on(20)  # rolled back
    run.steps(22)
    run.save()
    run.phases.close()
    found = run.account()
    lost = (7 + 5) + 3 * 4 + 5 * 4
    assert found['seconds'] == pytest.approx(
        {
            'step': 22 * 3,
            'generate': 0,
            'data': 22,
            'eval': 7,
            'save': 3 * 2,
            'compile': 4 * 20,
            'init': 3 * 10 + 6,
            'lost': lost,
            'gap': 80,
        }
    )
    assert found['starts'] == 3
    assert found['steps'] == 22 + 3 + 5
    assert found['steps_lost'] == 3 + 5
    assert found['goodput'] == pytest.approx(66 / found['wall'])


def test_a_fall_back_to_an_older_checkpoint_loses_what_two_processes_did(run, clock):
    """Catches an account that looks only at the process before."""
    run.start(0)
    run.steps(10)
    run.save()
    run.steps(20)
    run.save()
    clock.sleep(4)
    run.start(20)
    run.steps(25)
    clock.sleep(4)
    run.start(10)  # 20 was found damaged
    run.steps(30)
    run.phases.close()
    found = run.account()
    assert (found['steps'], found['steps_lost']) == (45, 15)
    assert found['seconds']['lost'] == pytest.approx(15 * 4)
    assert found['seconds']['gap'] == pytest.approx(0, abs=1e-6)


def test_ledgers_that_are_cut_and_out_of_order_tell_the_same(run, clock, tmp_path):
    """Catches a reader that stops at the first bad line, and one that takes the lines
    as they come: a process that was frozen may write its last one late."""
    run.start(0)
    run.steps(4)
    run.save()
    run.steps(6)
    clock.sleep(10)
    run.start(4)
    run.steps(9)
    run.phases.close()
    path = tmp_path / phases.LEDGER
    straight, lines = run.account(), path.read_text().splitlines()
    own = [x for x in lines if json.loads(x)['began'] == json.loads(lines[0])['began']]
    late = [x for x in lines if x not in own] + own
    path.write_text('\n'.join(['{"began": 17', *late[:5], 'nul\0', *late[5:], '{"be']))
    assert run.account() == straight


def test_a_run_that_is_started_again_for_nothing_ended_before(run, clock):
    """Catches a wall time that goes on until someone tries the command again."""
    run.start(0)
    run.steps(10)
    run.save()
    run.phases.close()
    before = run.account()
    clock.sleep(1e6)
    run.start(10, complete=True)
    run.phases.close()
    assert run.account() == before


def test_a_save_whose_line_is_missing(run, clock, tmp_path):
    """Catches a run taken as lost from its beginning where one line of it is."""
    run.start(0)
    run.steps(10)
    run.save()
    run.steps(12)
    clock.sleep(4)
    run.start(10)
    run.phases.close()
    path = tmp_path / phases.LEDGER
    lines = [x for x in path.read_text().splitlines(True) if 'saved' not in x]
    path.write_text(''.join(lines))
    found = run.account()
    assert found['seconds']['lost'] == pytest.approx(7)  # its first second is not seen
    assert found['steps_lost'] == 2


@pytest.mark.parametrize('jump', [-3600.0, 3600.0])
def test_a_clock_that_is_set(run, clock, jump):
    """Catches a negative gap, and parts that do not add up to the whole."""
    run.start(0)
    run.steps(5)
    clock.wall += jump
    run.steps(10)
    run.phases.close()
    found = run.account()
    assert found['seconds']['step'] == pytest.approx(30)
    assert found['seconds']['gap'] == pytest.approx(max(0, jump))


def test_random_runs_add_up(clock, tmp_path):
    """Against a count kept beside: the lost seconds are those after the last save."""
    draw = random.Random(0)
    for trial in range(10):
        run = Run(clock, tmp_path / str(trial))
        saved = lost = steps_lost = gap = 0
        for _ in range(draw.randint(2, 6)):
            run.start(saved)
            for _ in range(draw.randint(0, 4)):
                run.steps(run.step + draw.randint(1, 5))
                if draw.random() < 0.5:
                    run.save()
                    saved = run.step
            steps_lost += run.step - saved
            wait = draw.randint(0, 100)
            gap += wait
            clock.sleep(4 + wait)
        run.start(saved)
        run.phases.close()
        lost = 4 * steps_lost
        found = run.account()
        assert found['seconds']['lost'] == pytest.approx(lost)
        assert found['seconds']['gap'] == pytest.approx(gap, abs=1e-3)
        assert found['steps_lost'] == steps_lost
        assert found['seconds']['step'] == pytest.approx(3 * saved)


def test_the_command(run, tmp_path, capsys):
    """Catches a table whose columns are of other rows, and a traceback where there is
    no ledger."""
    with pytest.raises(command.UserError, match=r'has no goodput\.jsonl'):
        verbs.run(['goodput', f'--workdir={tmp_path}'])
    (tmp_path / phases.LEDGER).write_text('{"began"')
    with pytest.raises(command.UserError, match='no whole line'):
        verbs.run(['goodput', f'--workdir={tmp_path}'])
    run.start(0)
    run.steps(10)
    run.phases.close()
    verbs.run(['goodput', f'--workdir={tmp_path}', '--json'])
    assert json.loads(capsys.readouterr().out) == run.account()
    verbs.run(['goodput', f'--workdir={tmp_path}'])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ['step', '30.0', '42.86%'] in rows
    assert ['wall', '70.0', '100.00%'] in rows
