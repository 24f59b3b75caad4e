"""The supervisor over tiny commands: what it starts again, what it does not, and who
is left running."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from gptjax.launch import local

# Each process writes its id, its part of the environment and its attempt, then does
# what SCRIPT says with `rank` and `attempt`.
PREFIX = """
import os, signal, sys, time
from pathlib import Path
def note(name, text=''):
    partial = Path(f'{name}.partial')
    partial.write_text(str(text))
    partial.rename(name)
rank = int(os.environ.get('JAX_PROCESS_ID', 0))
attempt = len(list(Path('.').glob(f'pid-{rank}-*')))
def save(step):
    folder = Path(f'run/checkpoints/{step:08d}')
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'manifest.json').write_text('{}')
def asked(signum, frame):
    note(f'asked-{rank}-{signum}-{time.monotonic_ns()}')
    time.sleep(0.2)
    sys.exit(75)
signal.signal(signal.SIGTERM, asked)
signal.signal(signal.SIGINT, asked)
note(f'pid-{rank}-{attempt}', os.getpid())
note(f'port-{rank}-{attempt}', os.environ.get('JAX_COORDINATOR_ADDRESS'))
def together():
    while len(list(Path('.').glob(f'pid-*-{attempt}'))) < 2:
        time.sleep(0.01)
"""


def start(folder, script, *flags, processes=2):
    return subprocess.Popen(
        [
            sys.executable, '-m', 'gptjax.launch', 'local',
            f'--processes={processes}', *flags, '--',
            sys.executable, '-S', '-c', PREFIX + script, '--workdir=run',
        ],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(Path(local.__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def run(folder, script, *flags, processes=2):
    """The exit code, and what the supervisor said."""
    job = start(folder, script, *flags, processes=processes)
    _, told = job.communicate(timeout=60)
    assert 'Traceback' not in told
    return job.returncode, told


def wait_for(folder, pattern, count=1):
    end = time.monotonic() + 20
    while len(found := list(folder.glob(pattern))) < count:
        assert time.monotonic() < end, pattern
        time.sleep(0.01)
    return found


def left(folder):
    """Processes that were started there and are still running a moment later."""

    def runs(pid):
        try:
            return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2][1] != 'Z'
        except FileNotFoundError:
            return False

    pids = [int(path.read_text()) for path in folder.glob('pid-?-?')]
    end = time.monotonic() + 5
    while any(map(runs, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    return [pid for pid in pids if runs(pid)]


def attempts(folder):
    return len(list(folder.glob('pid-0-?')))


def test_each_process_knows_its_place(tmp_path):
    """Catches: a rank without its number, or an address of its own."""
    script = 'note(f"told-{rank}", os.environ["JAX_NUM_PROCESSES"])'
    code, told = run(tmp_path, script, processes=3)
    assert code == 0
    assert [(tmp_path / f'told-{i}').read_text() for i in range(3)] == ['3'] * 3
    ports = {(tmp_path / f'port-{i}-0').read_text() for i in range(3)}
    assert len(ports) == 1
    assert ports.pop().startswith('127.0.0.1:')
    assert told.count('launch:') == 1


def test_one_process_is_told_nothing(tmp_path):
    """Catches: a single process that waits for a coordinator."""
    code, _ = run(tmp_path, 'sys.exit("JAX_PROCESS_ID" in os.environ)', processes=1)
    assert code == 0
    assert (tmp_path / 'port-0-0').read_text() == 'None'


@pytest.mark.parametrize('last', [2, 77])
def test_what_would_come_again_is_not_started_again(tmp_path, last):
    """Catches: a restart after a mistake of the user, or bad numbers."""
    code, told = run(tmp_path, f'together(); sys.exit({last})')
    assert code == last
    assert attempts(tmp_path) == 1
    assert f'ended with {last}' in told


def test_a_dead_process_ends_the_others_and_all_start_again(tmp_path):
    """Catches: a restart of the dead one alone, on the old port; a stopped process,
    which heeds no SIGTERM, left over."""
    script = """
together()
if attempt == 1:
    sys.exit(0)
os.kill(os.getpid(), signal.SIGSTOP if rank else signal.SIGKILL)
"""
    code, told = run(tmp_path, script)
    assert code == 0
    assert 'process 0 died: Killed; 1 others have 0 s' in told
    assert 'restart 1 of 3 from step 0' in told
    assert (tmp_path / 'pid-1-1').exists()
    assert not left(tmp_path)
    ports = [(tmp_path / f'port-1-{i}').read_text() for i in range(2)]
    assert ports[0] != ports[1]


def test_restarts_without_progress_are_bounded(tmp_path):
    """Catches: a count that never ends, or that progress does not reset; a folder that
    is no whole checkpoint taken for progress."""
    script = """
if attempt in (1, 3):
    save(attempt)
Path('run/checkpoints/00000009').mkdir(parents=True, exist_ok=True)
sys.exit(75)
"""
    code, told = run(tmp_path, script, '--restarts=2', processes=1)
    assert code == 75
    # Steps 1 and 3 are saved at the second and fourth attempt; then two more in vain.
    assert attempts(tmp_path) == 6
    assert 'restart 1 of 2 from step 3' in told
    assert 'giving up: 2 restarts in a row without a newer step' in told


def test_the_code_of_a_dead_process_is_that_of_a_shell(tmp_path):
    script = 'os.kill(os.getpid(), signal.SIGKILL)'
    code, _ = run(tmp_path, script, '--restarts=0', processes=1)
    assert code == 137


def test_the_others_may_save_when_one_was_asked_to_stop(tmp_path):
    """Catches: a kill of processes that are writing their part."""
    script = """
together()
if attempt == 0:
    time.sleep(0.5 * rank)
    note(f'saved-{rank}')
    sys.exit(75)
"""
    code, told = run(tmp_path, script)
    assert code == 0
    assert (tmp_path / 'saved-1').exists()
    assert '1 others have 30 s' in told


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_each_process_once(tmp_path, number):
    """Catches: two signals, of which the second means at once; a restart afterwards."""
    job = start(tmp_path, 'time.sleep(60)')
    wait_for(tmp_path, 'port-*', 2)
    job.send_signal(number)
    _, told = job.communicate(timeout=20)
    assert job.returncode == 75
    assert len(list(tmp_path.glob(f'asked-?-{signal.SIGTERM:d}-*'))) == 2
    assert len(list(tmp_path.glob('asked-*'))) == 2
    assert attempts(tmp_path) == 1
    assert f'{number.name}: waiting for all to save' in told


def test_ctrl_c_in_a_terminal_reaches_the_supervisor_alone(tmp_path):
    """Catches: processes in the group of the terminal, which hear of it twice."""
    job = start(tmp_path, 'time.sleep(60)', processes=1)
    (pid,) = wait_for(tmp_path, 'pid-0-0')
    wait_for(tmp_path, 'port-0-0')
    assert os.getpgid(int(pid.read_text())) != os.getpgid(job.pid)
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=20)
    assert job.returncode == 75


def test_a_second_signal_ends_all_at_once(tmp_path):
    script = 'signal.signal(signal.SIGTERM, lambda *_: note("deaf")); note("ready")\n'
    job = start(tmp_path, script + 'while True: time.sleep(1)', processes=1)
    wait_for(tmp_path, 'ready')
    job.send_signal(signal.SIGTERM)
    wait_for(tmp_path, 'deaf')
    job.send_signal(signal.SIGTERM)  # the same request, as timeout(1) sends it
    time.sleep(1.1)
    assert job.poll() is None
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=20)
    assert job.returncode == 143
    assert not left(tmp_path)


@pytest.mark.skipif(sys.platform != 'linux', reason='needs PR_SET_PDEATHSIG')
def test_a_killed_supervisor_leaves_no_process_behind(tmp_path):
    job = start(tmp_path, 'time.sleep(60)')
    wait_for(tmp_path, 'port-*', 2)
    job.kill()
    job.communicate()
    assert not left(tmp_path)


def test_mistakes_are_one_message(tmp_path):
    command = [sys.executable, '-m', 'gptjax.launch', 'local']
    for flags, message in [
        (['--processes=2'], 'no command'),
        (['--processes=0', '--', 'x'], '--processes is at least 1'),
        (['--processes=1', '--', './no-such'], './no-such: No such file'),
    ]:
        done = subprocess.run([*command, *flags], capture_output=True, text=True)
        assert done.returncode == 2
        assert message in done.stderr
        assert 'Traceback' not in done.stderr


def test_workdir_and_step_of_a_command(tmp_path):
    find = local.workdir
    assert find(['python', '-m', 'x', '--workdir=a/b', '--y']) == Path('a/b')
    assert find(['python', '--config.x=1', '--workdir', 'c']) == Path('c')
    assert find(['python', '-c', 'pass']) is None
    assert local.committed(None) == local.committed(tmp_path) == 0
    for name in ('00000004', '00000008.corrupt'):
        (tmp_path / 'checkpoints' / name).mkdir(parents=True)
        (tmp_path / 'checkpoints' / name / 'manifest.json').touch()
    assert local.committed(tmp_path) == 4
