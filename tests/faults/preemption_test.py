"""SIGTERM a hundred times, in all phases of a run; and in other long commands.

`python preemption_test.py FOLDER SEED COUNT` is a parent that has imported all and has
no JAX backend yet: its children are lives of one run, each ended by a signal, which
differ from `python -m gptjax.train` by what they note of themselves.
"""

import collections
import importlib
import json
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

import exact
import faults
import pytest
import tiny_config

from gptjax import command
from gptjax.data import storage
from gptjax.train import begin, loop, manifest, phases, stop, verbs

STEPS = 240
# A signal comes when one of these happens for the n-th time in a life; 'time' is any.
MOMENTS = {
    'build': 12,  # a file of the dataset is about to get its name
    'init': 1,  # the run is put together
    'compile': 1,
    'data': 9,
    'done': 9,  # a step was dispatched
    'eval': 2,
    'batch': 5,  # of an evaluation
    'save': 3,  # its copy is made
    'commit': 3,  # in the background: its manifest is about to be written
}
LIMIT = 8.0  # seconds


class Life:
    """Notes what a child does, and sends it the signal that is planned."""

    def __init__(self, path, moment='', count=0, then=0.0):
        """then: seconds that a commit takes, when a second signal comes."""
        self.path, self.moment, self.left, self.then = path, moment, count, then

    def note(self, kind, step=None):
        line = json.dumps([time.monotonic(), kind, step]) + '\n'
        with self.path.open('a') as file:
            file.write(line)
        if kind == self.moment:
            self.left -= 1
            if self.left == 0:
                self.note('signal')
                os.kill(os.getpid(), signal.SIGTERM)
        if kind == 'commit':
            time.sleep(self.then)

    def watch(self):
        """From here on, in this process."""

        def around(owner, name, before=None, after=None, step=lambda *given: None):
            real = getattr(owner, name)

            def call(*given, **more):
                kind = before(given) if callable(before) else before
                if kind:
                    self.note(kind, step(given))
                result = real(*given, **more)
                if after:
                    self.note(after, step(given))
                return result

            setattr(owner, name, call)

        def at(given):
            return given[0].step

        around(loop._Loop, '_dispatch', 'begin', 'done', at)
        around(phases.Phases, 'enter', lambda given: given[1])
        around(loop._Loop, '_each', 'batch')
        around(begin, 'begin', 'init')
        around(manifest, 'write', 'commit')

        def heeded(one, name, value):
            object.__setattr__(one, name, value)
            if (name, value) == ('_asked', True):
                self.note('asked')

        stop.Stop.__setattr__ = heeded
        around(storage, 'rename', 'build')


def live(folder, workdir, life):
    """Forks a child that trains; returns its process id."""
    if pid := forked():
        return pid
    errors = os.open(folder / 'errors', os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(errors, 2)
    life.watch()
    argv = [
        f'--config={tiny_config.__file__}',
        f'--workdir={workdir}',
        f'--config.data.path={folder / "text.txt"}',
        f'--config.steps={STEPS}',
    ]
    command.run(heedful(lambda: verbs.run(argv)))
    sys.exit(0)


def forked():
    """os.fork, with signals blocked in the child."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, command.SIGNALS)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def heedful(main):
    """A command that takes signals from now on, which came since the fork as well."""

    def unblocked():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, command.SIGNALS)
        main()

    return unblocked


def newest(workdir):
    """The newest step, by no means that begin a backend: that is for the children."""
    names = (path.parent.name for path in workdir.glob('checkpoints/*/manifest.json'))
    return max((int(name) for name in names if name.isdecimal()), default=0)


class Chain:
    """One run after the other, whose lives end by signals."""

    def __init__(self, folder, seed):
        self.folder, self.random = folder, random.Random(seed)
        (folder / 'text.txt').write_text(tiny_config.text())
        self.straight, self.runs, self.number = folder / 'straight', 0, 0
        began = time.monotonic()
        assert self.ended(live(folder, self.straight, self.life())) == 0
        first = next(t for t, kind, _ in self.notes() if kind == 'step')
        self.start = first - began
        # Another one finds the programs of the first: its start is what lives have.
        self.workdir = folder / 'run-0'

    def life(self, *plan):
        self.number += 1
        return Life(self.folder / f'notes-{self.number}', *plan)

    def notes(self):
        path = self.folder / f'notes-{self.number}'
        found = path.read_text().splitlines() if path.exists() else ()
        return [json.loads(line) for line in found]

    def ended(self, pid, signals=()):
        """The exit code of a life, which gets these signals: (wait, number)."""
        for wait, number in signals:
            time.sleep(wait)
            self.sent = time.monotonic()
            os.kill(pid, number)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.left = time.monotonic()
        return code

    def errors(self):
        return (self.folder / 'errors').read_text()

    def interrupt(self, moment):
        """One life and its signal; what there is to tell of it, None if it came to
        its end before that."""
        before = newest(self.workdir)
        if moment == 'time':
            pid = live(self.folder, self.workdir, self.life())
            wait = self.random.uniform(0, 1.5 * self.start)
            code = self.ended(pid, [(wait, signal.SIGTERM)])
        else:
            count = self.random.randint(1, MOMENTS[moment])
            plan = self.life(moment, count)
            code = self.ended(live(self.folder, self.workdir, plan))
        notes, told = self.notes(), self.errors()
        sent = [t for t, kind, _ in notes if kind == 'signal'] or [self.sent]
        assert 'Traceback' not in told, told
        # The last step was there; then the interpreter is torn down.
        if newest(self.workdir) == STEPS and code in (0, -signal.SIGTERM):
            self.compare()
            return None
        assert code == command.REQUEUE, (moment, code, told)
        saved = newest(self.workdir)
        heeded = [t for t, kind, _ in notes if kind == 'asked']
        now = heeded[0] if heeded else sent[0]
        begun = [n + 1 for t, kind, n in notes if kind == 'begin' and t <= now]
        done = [n for t, kind, n in notes if kind == 'done' and t <= sent[0]]
        # What was dispatched is kept, and at most the step at hand and the next come.
        assert max([before, *done]) <= saved, (moment, notes[-9:])
        assert saved <= max([before, *begun]) + bool(begun), (moment, notes[-9:])
        phase = [kind for t, kind, _ in notes if t <= sent[0] and kind != 'signal']
        seconds = self.left - sent[0]
        assert seconds < LIMIT, (moment, seconds, notes[-9:])
        return phase[-1] if phase else 'start', seconds

    def interrupt_twice(self):
        """A second signal, while what the first one asked for is under way."""
        before = newest(self.workdir)
        life = self.life('commit', 1, 5.0)
        pid = live(self.folder, self.workdir, life)
        while not any(kind == 'signal' for _, kind, _ in self.notes()):
            time.sleep(0.02)
        code = self.ended(pid, [(1.2, signal.SIGTERM)])
        assert code == 128 + signal.SIGTERM, self.errors()
        assert self.left - self.sent < 2
        assert newest(self.workdir) == before

    def compare(self):
        """The run that was interrupted against the one that was not."""
        ours, theirs = (
            manifest.check(one / 'checkpoints' / f'{STEPS:08d}')
            for one in (self.workdir, self.straight)
        )
        assert ours['arrays'] == theirs['arrays']
        for one in (ours, theirs):
            del one['host']['seconds'], one['host']['environment']
        assert ours['host'] == theirs['host']
        assert exact.told(self.workdir) == exact.told(self.straight)
        self.runs += 1
        self.workdir = self.folder / f'run-{self.runs}'

    def finish(self):
        code = self.ended(live(self.folder, self.workdir, self.life()))
        assert code == 0, self.errors()
        self.compare()


def main(folder, seed, count):
    os.fsync = lambda descriptor: None  # matters when the power fails
    chain = Chain(Path(folder), int(seed))
    told = []
    while len(told) < int(count):
        turn = len(told) % (2 * len(MOMENTS))
        moment = [*MOMENTS][turn] if turn < len(MOMENTS) else 'time'
        if moment == 'build' and chain.workdir.exists():
            chain.finish()  # a fresh one has data to build
        if found := chain.interrupt(moment):
            told.append((moment, *found))
    chain.interrupt_twice()
    chain.finish()
    others = Others(chain)
    for name in others.commands:
        for _ in range(max(1, int(count) // 10)):
            told.append((name, 'other', others.interrupt(name)))
    print(json.dumps({'told': told, 'runs': chain.runs}))


class Others:
    """Other long commands, which end by a signal and do the rest when called again."""

    def __init__(self, chain):
        self.chain, self.folder = chain, chain.folder
        for name in ('evals.scores', 'exchange.workdir', 'generate.terminal'):
            importlib.import_module(f'gptjax.{name}')  # once, not in every child
        texts, built = self.folder / 'texts', self.folder / 'built'
        texts.mkdir()
        for number, line in enumerate(tiny_config.text().splitlines()):
            (texts / f'{number}.txt').write_text(line)
        data, sample = self.folder / 'data.py', self.folder / 'sample.py'
        data.write_text(CONFIG.format(DATA.format(texts=texts)))
        of = SAMPLE.format(workdir=chain.straight, data=built)
        sample.write_text(CONFIG.format(of))
        run = f'--workdir={chain.straight}'
        self.commands = {
            'data': ['data', f'--config={data}', '--output=OUT'],
            'evals': ['evals', run, '--trigram'],
            'generate': ['generate', run, '--prompt=1: one', '--max_tokens=24'],
            'sample': ['train', 'sample', f'--config={sample}', '--output=OUT.jsonl'],
            'exchange': ['exchange', 'export', run, '--output=OUT'],
        }
        built_by = [one.replace('OUT', str(built)) for one in self.commands['data']]
        assert chain.ended(self.started(built_by)) == 0, chain.errors()
        self.expected, self.seconds = {}, {}
        for name in self.commands:
            began = time.monotonic()
            assert chain.ended(self.started(self.argv(name, 'whole'))) == 0
            self.seconds[name] = time.monotonic() - began
            self.expected[name] = self.made(name, 'whole')

    def argv(self, name, output):
        output = str(self.folder / f'{name}-{output}')
        return [one.replace('OUT', output) for one in self.commands[name]]

    def made(self, name, output):
        """What a command has printed and written."""
        stem = f'{name}-{output}'
        return (self.folder / 'said').read_text().replace(stem, ''), {
            str(path.relative_to(self.folder)).replace(stem, ''): path.read_bytes()
            for path in self.folder.glob(f'{stem}*/**/*')
            if path.is_file()
        }

    def started(self, argv):
        if pid := forked():
            return pid
        for number, name in ((1, 'said'), (2, 'errors')):
            file = os.open(self.folder / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(file, number)
        sys.argv = argv
        verb = importlib.import_module(f'gptjax.{argv[0]}.__main__')
        command.run(heedful(verb.main))
        sys.exit(0)

    def interrupt(self, name):
        """Seconds until a command has ended, whose time of the signal is random."""
        self.chain.number += 1
        argv = self.argv(name, self.chain.number)
        wait = self.chain.random.uniform(0, 0.9 * self.seconds[name])
        number = self.chain.random.choice((signal.SIGTERM, signal.SIGINT))
        code = self.chain.ended(self.started(argv), [(wait, number)])
        seconds, told = self.chain.left - self.chain.sent, self.chain.errors()
        torn_down = -signal.SIGTERM, -signal.SIGINT
        assert code in (0, command.REQUEUE, *torn_down), (name, code, told)
        assert 'Traceback' not in told, told
        assert seconds < LIMIT, (name, seconds)
        again, told = self.chain.ended(self.started(argv)), self.chain.errors()
        # An import that was done when the signal came finds its folder there.
        assert again == 0 or (again == 2 and 'is not empty' in told), told
        assert self.made(name, self.chain.number) == self.expected[name]
        return seconds


CONFIG = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({})
"""
DATA = """dict(
    corpus=dict(name='text', path='{texts}', licence='CC0-1.0'),
    tokenizer=dict(name='bytes'),
    held_out=dict(fraction=0.1, by='document'),
    shard_tokens=512,
)"""
SAMPLE = """dict(
    seed=0,
    workdir='{workdir}',
    data=dict(path='{data}', split='train', prompts=4, prompt_tokens=8),
    sampling=dict(n=2, max_tokens=4, temperature=1.0, top_k=0, top_p=1.0),
    rewards=(dict(name='length', weight=1.0, least=4, most=9, slope=0.25),),
    keep=dict(best=1, above=None),
)"""


if __name__ == '__main__':
    main(*sys.argv[1:])


LIVES = 100  # signals to training


@pytest.fixture(scope='module')
def told(tmp_path_factory):
    """What two parents, at a time, have to tell of the signals that they sent."""
    folder = tmp_path_factory.mktemp('preempted')
    env = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join(sys.path),
        'XLA_FLAGS': '--xla_force_host_platform_device_count=1 '
        '--xla_backend_optimization_level=0',
    }
    parents = []
    for seed in range(2):
        (folder / str(seed)).mkdir()
        argv = [folder / str(seed), str(seed), str(faults.count(LIVES // 2))]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        parents.append(
            subprocess.Popen([sys.executable, __file__, *argv], env=env, **pipes)
        )
    ends = [(*parent.communicate(), parent.returncode) for parent in parents]
    for said, errors, code in ends:
        assert code == 0, errors + said
    return [json.loads(said) for said, _, _ in ends]


def test_signals_at_any_moment_save_and_go_on(told):
    """Each parent checks, for every signal: exit code 75 within 8 s, no traceback; the
    newest checkpoint has all that had been dispatched, and ends with the step at hand
    when the request was heeded, or the next one; and the run that was interrupted some
    twenty times ends with the bits, host values and metrics of the undisturbed one. A
    second signal in a save ends at once, and the newest checkpoint is what it was.

    Fails if `_agreed` is not polled in an evaluation or after a step, if `owed` is not
    made again, if a row is read twice, or if `idle` is set too long.
    """
    signals = [one for part in told for one in part['told'] if one[1] != 'other']
    assert len(signals) >= faults.count(LIVES)
    seconds = sorted(one[-1] for one in signals)
    phases = collections.Counter(one[1] for one in signals)
    runs = sum(part['runs'] for part in told)
    print(
        f'{len(signals)} signals to {runs} runs, seconds to the exit: median '
        f'{seconds[len(seconds) // 2]:.2f}, most {seconds[-1]:.2f}; {dict(phases)}'
    )
    if faults.count(LIVES) == LIVES:
        assert {'init', 'compile', 'eval', 'batch', 'done', 'commit'} <= phases.keys()


def test_other_commands_end_and_do_the_rest(told):
    """Each: 75, no traceback, and the same output when it is called again.

    Fails if `command.run` leaves SIGTERM as it is, or if a file that is half written
    has its name.
    """
    others = [one for part in told for one in part['told'] if one[1] == 'other']
    seconds = collections.defaultdict(list)
    for name, _, spent in others:
        seconds[name].append(round(spent, 2))
    print({name: max(spent) for name, spent in seconds.items()}, len(others))
    assert len(seconds) == 5
