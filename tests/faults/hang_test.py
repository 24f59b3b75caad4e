"""Runs that hang, and runs that only seem to.

`python hang_test.py FOLDER` is a parent that has imported all and has no JAX backend
yet: its children train, and are made to hang. It prints what became of each.
"""

import json
import os
from pathlib import Path
import signal
import sys
import time
import traceback

import exact
import faults
import jax
import jax.numpy as jnp
import pytest
import tiny_config

from gptjax import command
from gptjax.train import build, loop, manifest, phases, source, verbs, watchdog
from gptjax.train import step as step_lib

STEPS = 24  # evaluated every 6, saved every 4
AT = 15  # the step before which it hangs
# Name of a case: `run.watchdog`, and the phase that is to be named.
HANGS = {
    'loader': (20.0, 'data'),  # the default
    'device': (2.0, 'step'),
    'evaluation': (2.0, 'eval'),
    'save': (2.0, 'save'),
    'background': (2.0, 'save'),  # the one before
}
# What takes long and goes on.
QUIET = {'plain': 1.0, 'callback': 1.0, 'slow_evaluations': 1.0, 'stopped': 1.0}


def blocked():
    """The innermost function of ours in what the stacks are to show; only once."""
    if Path('blocked').exists():
        return
    Path('blocked').write_text(f'{time.time()}')
    time.sleep(1000)


def hang(case):
    """From here on this process hangs, or is slow."""
    following, write = source.Dataset.next, manifest.write
    each, train_step = loop._Loop._each, step_lib.train_step
    save, entered = loop._Loop._save, phases.Phases.enter
    watchdog._SAVE = 2.0

    def next_batch(self, state, frozen):
        if self.row == AT * self.draw:
            blocked()
        return following(self, state, frozen)

    def at(step):
        if case == 'device' and step == AT:
            blocked()
        return jnp.float32(0)

    def device(state, *given, **more):
        zero = jax.pure_callback(at, jax.ShapeDtypeStruct((), jnp.float32), state.step)
        state, metrics = train_step(state, *given, **more)
        return state, {**metrics, 'loss': metrics['loss'] + zero}

    def slow_batch(self):
        if case == 'slow_evaluations':
            time.sleep(1.5)
        elif self.step > AT:
            blocked()
        each(self)

    def enter(self, name, was=None):
        entered(self, name, was)
        if name == 'save' and self.step and self.step > AT:
            blocked()

    def commit(*given):
        blocked()
        write(*given)

    if case == 'loader':
        source.Dataset.next = next_batch
    elif case in ('device', 'callback'):
        step_lib.train_step = device
    elif case in ('evaluation', 'slow_evaluations'):
        loop._Loop._each = slow_batch
    elif case == 'save':
        phases.Phases.enter = enter
    elif case == 'background':
        manifest.write = commit
    elif case == 'stopped':

        def stopped(self):
            save(self)
            if self.step == 16:  # stopped by the parent, which sees this file
                Path('stop').touch()
                while not Path('continued').exists():
                    time.sleep(0.01)  # progress, for its part, is none

        loop._Loop._save = stopped


CONFIG = f"""
import tiny_config

def get_config(least):
    config = tiny_config.get_config()
    config.steps = {STEPS}
    config.run.watchdog = float(least)
    return config
"""


def flags(root, workdir, least):
    return [
        f'--config={root / "config.py"}:{least}',
        f'--workdir={workdir}',
        f'--config.data.path={root / "text.txt"}',
    ]


def child(root, case, least):
    """Trains in a process of its own, in a folder that is named as the case."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.chdir(root / case)
        with open('errors', 'w') as errors:
            os.dup2(errors.fileno(), 2)
        hang(case)
        verbs.run(flags(root, 'run', least))
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def one(root, case, least):
    """A case, and if it hung, the same command once more."""
    folder = root / case
    folder.mkdir()
    pid = child(root, case, least)
    if case == 'stopped':
        until = time.monotonic() + 60
        while not (folder / 'stop').exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(pid, signal.SIGCONT)
        (folder / 'continued').touch()
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
    took = 0.0
    if (folder / 'blocked').exists():
        took = time.time() - float((folder / 'blocked').read_text())
        pid = child(root, case, least)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return {'codes': codes, 'took': took}


def main(root):
    (root / 'text.txt').write_text(tiny_config.text())
    (root / 'config.py').write_text(CONFIG)
    cases = {**{name: least for name, (least, _) in HANGS.items()}, **QUIET}
    told = {name: one(root, name, least) for name, least in cases.items()}
    print(json.dumps(told))


@pytest.fixture(scope='module')
def ended(tmp_path_factory):
    root = tmp_path_factory.mktemp('hang')
    return root, faults.told(__file__, root)


def facts(root, case):
    given = flags(root, root / case / 'run', 0.0)
    config = command.load_config(given[0].partition('=')[2], given[2:])
    made = build.build(config, root / case / 'run')
    return exact.told(made.workdir), exact.digests(made)


@pytest.mark.parametrize('case', HANGS)
def test_a_hang_is_found_and_the_run_goes_on(ended, case):
    """Catches phases that are named wrongly, or entered again while nothing happens; a
    watchdog that waits for the thread that hangs (`_end` in it), that counts the
    background save as progress, or whose limit is 10 x too long; and a run that does
    not go on with the same bits."""
    root, told = ended
    errors = (root / case / 'errors').read_text()
    kept = root / case / 'run' / 'hang-0.txt'
    assert told[case]['codes'] == [command.HANG, 0], errors
    least, phase = HANGS[case]
    assert told[case]['took'] < (60 if case == 'loader' else 20)
    assert told[case]['took'] > 0.9 * least
    text = kept.read_text()
    assert text.count('hang: ') == 1
    assert f'in phase {phase} for' in text
    assert 'in blocked' in text
    assert 'thread MainThread:' in text
    # A program that calls back is another one, with other last bits.
    like = 'callback' if case == 'device' else 'plain'
    assert facts(root, case) == facts(root, like)
    ledger = (root / case / 'run' / phases.LEDGER).read_bytes()
    assert all(json.loads(line) for line in ledger.splitlines())


@pytest.mark.parametrize('case', QUIET)
def test_what_goes_on_is_left_alone(ended, case):
    """Catches limits that do not learn how long a batch takes, and time in which the
    process was stopped that counts (`waited += now - last`)."""
    root, told = ended
    errors = (root / case / 'errors').read_text()
    assert told[case]['codes'] == [0], errors
    assert not (root / case / 'run' / 'hang-0.txt').exists()
    if case != 'callback':
        assert facts(root, case) == facts(root, 'plain')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
