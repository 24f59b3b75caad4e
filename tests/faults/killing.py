"""Kills training at any moment: a process that forks runs which it kills with SIGKILL.

    python killing.py FOLDER KILLS SEED

This process has imported everything and has no backend of JAX, so it may fork. Prints
one line of JSON: how many kills hit which part of a run, and what the runs came to.
"""

from collections import Counter
import contextlib
import dataclasses
import hashlib
import json
import mmap
import os
from pathlib import Path
import random
import signal
import struct
import sys
import threading
import time
import traceback

import exact
import jax
import numpy as np
import tensorboard.compat.proto.event_pb2  # once, not in every child
import tensorboard.summary.writer.record_writer  # noqa: F401
import tiny_config

from gptjax import core
from gptjax.data import build as data_build
from gptjax.data import ledger
from gptjax.train import build, checkpoint, loop, phases, source
from gptjax.train import manifest as manifest_lib

SAID = 'said.txt'
STEPS, ROWS = 40, 4
# First rows of two batches whose loss is no number: the run goes back and skips them.
BAD = [12 * ROWS, 29 * ROWS]
PARTS = ('start', 'build', 'step', 'save', 'eval', 'compaction', 'rollback')
# Events in a part from which the one to be killed at is drawn: those of some steps.
REACH = {'build': 60, 'step': 20, 'save': 120, 'eval': 3, 'compaction': 60,
         'rollback': 30}  # fmt: skip
PLAN = ('save', 'compaction', 'eval', 'step', 'save', 'rollback', 'eval', 'step')
CHANGES = ('os.rename', 'os.remove', 'os.rmdir', 'os.mkdir', 'shutil.rmtree')


def config(raw):
    made = tiny_config.get_config()
    made.steps = STEPS
    made.model.update(T=16, D=16, F=32, N=2, K=2, L=1, dropout=0.1)
    made.data.update(path=str(raw), batch_size=ROWS)
    made.data.build.shard_tokens = 1500
    made.compute.scan_unroll = 1
    made.checkpoint = dict(every=2, keep=1)
    made.eval = dict(every=5, rows=12, patience=0)
    made.guard = dict(patience=2)
    made.run = dict(log_every=1, watchdog=0.0)
    return made


class Seen:
    """What a child does, as its parent sees it: memory that both have."""

    def __init__(self):
        self._shared = mmap.mmap(-1, 16)
        self._main = self._beside = (
            0  # of the thread that trains; of the one that saves
        )

    def clear(self):
        self._shared[:] = bytes(16)

    @property
    def part(self):
        """Where the child is; that it saves says more than at which step meanwhile."""
        return PARTS[self._shared[0]]

    @contextlib.contextmanager
    def within(self, part, beside=False):
        before = self._beside if beside else self._main
        self.note(part, beside)
        try:
            yield
        finally:
            self.note(PARTS[before], beside)

    def note(self, part, beside=False):
        if beside:
            self._beside = PARTS.index(part)
        else:
            self._main = PARTS.index(part)
        self._shared[0] = self._beside or self._main

    @property
    def trains(self):
        """Whether the child has dispatched a step."""
        return bool(self._shared[1])

    @trains.setter
    def trains(self, whether):
        self._shared[1] = whether

    @property
    def began(self):
        """The step that the child went on from, once it knows; else None."""
        known, step = struct.unpack('ii', self._shared[8:])
        return step if known else None

    @began.setter
    def began(self, step):
        self._shared[8:] = struct.pack('ii', 1, step)


def child(seen, raw, workdir, part, number, delay):
    """Trains; killed `delay` seconds after event `number` in a part; 0 is never."""
    events = 0

    def event():
        nonlocal events
        events += seen.part == part
        if events == number and seen.part == part:
            kill = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
            kill.start() if delay else kill.function(*kill.args)

    watch(seen, event)
    made = build.build(config(raw), workdir)
    loss_fn = made.loss_fn

    def with_bad(params, frozen, batch, key):
        loss = loss_fn(params, frozen, batch, key)
        bad = batch['bad'].sum() if 'bad' in batch else 0
        terms = {name: (total + bad, n) for name, (total, n) in loss.terms.items()}
        return core.Loss(terms, loss.metrics)

    assert loop.train(dataclasses.replace(made, loss_fn=with_bad))


def watch(seen, event):
    """Has each change of a file, phase and batch call `event`, and notes the part."""
    ensure = data_build.ensure
    enter, beat = phases.Phases.enter, phases.Phases.beat
    begun, trouble = loop._Loop.__init__, loop._Trouble.__init__
    dispatch = loop._Loop._dispatch
    following, finish = source.Dataset.next, checkpoint.Checkpoints._finish
    delete = checkpoint.Checkpoints.delete_others
    back = False

    def audit(name, given):
        opened = name == 'open' and isinstance(given[1], str) and given[1][0] in 'wa'
        if opened or name in CHANGES:
            event()

    def synced(descriptor):  # the disk itself need not have it: no power fails
        event()

    def entered(self, name, was=None):
        enter(self, name, was)
        if not back:
            part = {'data': 'step', 'init': 'start', 'compile': 'start'}
            seen.note(part.get(name, name))
        event()

    def beaten(self):
        beat(self)
        event()

    def in_trouble(self, *given):
        nonlocal back
        back = True
        seen.note('rollback')
        event()
        trouble(self, *given)

    def went_on(self, *given):
        nonlocal back
        begun(self, *given)
        event()
        back = False
        if seen.began is None:
            seen.began = self.step

    def dispatched(self, *given):
        dispatch(self, *given)
        seen.trains = True

    def next_batch(self, state, frozen):
        batch, state, told = following(self, state, frozen)
        first = self.row - self.draw
        bad = any(start <= first < start + 2 * ROWS for start in BAD)
        value = np.full(ROWS, np.nan if bad else 0, np.float32)
        place = self._run.model.sharding.named(('batch',))
        return {**batch, 'bad': jax.device_put(value, place)}, state, told

    def ensured(path, folder, spec):
        done = (Path(folder) / data_build.RAW).exists()
        with seen.within('start' if done else 'build'):
            return ensure(path, folder, spec)

    def finished(self, *given):
        with seen.within('save', beside=True):
            finish(self, *given)

    def deleted(self, *given):
        with seen.within('compaction', beside=True):
            delete(self, *given)

    os.fsync, data_build.ensure = synced, ensured
    phases.Phases.enter, phases.Phases.beat = entered, beaten
    loop._Loop.__init__, loop._Trouble.__init__ = went_on, in_trouble
    loop._Loop._dispatch = dispatched
    source.Dataset.next, checkpoint.Checkpoints._finish = next_batch, finished
    checkpoint.Checkpoints.delete_others = deleted
    sys.addaudithook(audit)


def fork(function, *given):
    """The number of a child that does this, and says what it has to say in SAID."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        said = os.open(SAID, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        function(*given)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(pid, seconds=300.0):
    """The status of a child that has ended by then, else None."""
    until = time.monotonic() + seconds
    while not (found := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > until:
            return None
        time.sleep(0.001)
    return found[1]


class Chain:
    """One workdir, in which runs are killed until one comes to its end."""

    def __init__(self, raw, workdir):
        self.raw, self.workdir = raw, workdir
        self.newest, self.kills = 0, 0

    def run(self, seen, part='start', number=0, delay=0.0, patience=None):
        """One run, killed in a part or after a time; whether it was killed.

        patience: seconds after its first step, or, if negative, from its start on.
        """
        seen.clear()
        pid = fork(child, seen, self.raw, self.workdir, part, number, delay)
        status = None
        if patience is not None:
            while patience >= 0 and not seen.trains and status is None:
                status = wait(pid, 0.002)
            if status is None and (status := wait(pid, abs(patience))) is None:
                os.kill(pid, signal.SIGKILL)
        status = wait(pid) if status is None else status
        assert status in (0, signal.SIGKILL), Path(SAID).read_text()[-4000:]
        self._check(seen, status == 0)
        self.kills += status != 0
        return status != 0

    def _check(self, seen, whole):
        """No step that was there is lost, none is torn, and the run began with it."""
        if seen.began is not None:
            assert seen.began == self.newest, (seen.began, self.newest)
        folder = self.workdir / 'checkpoints'
        steps = [int(path.name) for path in folder.glob('*') if path.name.isdecimal()]
        for step in steps:
            manifest_lib.check(folder / f'{step:08d}')  # raises Damaged
        newest = max(steps, default=0)
        assert newest >= self.newest, (newest, self.newest)
        self.newest = newest
        if whole:
            assert [p.name for p in folder.iterdir()] == [f'{STEPS:08d}']


def facts(workdir):
    """All that must be as in a run that was not killed."""
    data = workdir / 'data'
    made = {
        path.relative_to(data).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in data.rglob('*')
        if path.is_file()
    }
    return exact.told(workdir), made


def same(raw, straight, others):
    """Fails if a workdir does not hold what `straight` does."""
    expected = exact.digests(build.build(config(raw), straight))
    for workdir in others:
        assert facts(workdir) == facts(straight), workdir
        found = exact.digests(build.build(config(raw), workdir))
        assert found == expected, workdir


def moment(draw, turn, chain, pace):
    """Where the next run is killed: at an event of a part, or at a time."""
    if not (chain.workdir / 'data' / data_build.RAW).exists() and chain.kills < 2:
        part = 'build'
    elif turn % 2:
        part = PLAN[turn // 2 % len(PLAN)]
    elif draw.random() < 0.2:
        return dict(patience=-draw.uniform(0, pace['start']))
    else:
        return dict(patience=draw.uniform(0, 12 * pace['step']))
    delay = draw.choice((0.0, draw.uniform(0, 0.003)))
    return dict(part=part, number=draw.randint(1, REACH[part]), delay=delay)


def main(folder, kills, seed):
    os.chdir(folder)
    raw, seen, draw = folder / 'text.txt', Seen(), random.Random(seed)
    ledger.Rows().encode()  # imports much
    straight = Chain(raw, folder / 'straight')
    began = time.monotonic()
    assert not straight.run(seen)
    took = time.monotonic() - began
    pace = {'start': took / 3, 'step': took / STEPS / 2}
    hits, chains, turn = Counter(), [], 0
    while sum(hits.values()) < kills:
        if not chains or chains[-1].newest == STEPS:
            chains.append(Chain(raw, folder / f'{len(chains)}'))
        if chains[-1].run(seen, **moment(draw, turn, chains[-1], pace)):
            hits[seen.part] += 1
            turn += 1
    if chains[-1].newest < STEPS:
        assert not chains[-1].run(seen)
    workdirs = [chain.workdir for chain in chains]
    assert wait(fork(same, raw, straight.workdir, workdirs)) == 0, Path(
        SAID
    ).read_text()
    print(json.dumps({'hits': hits, 'chains': [c.kills for c in chains]}))


if __name__ == '__main__':
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
