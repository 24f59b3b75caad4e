"""Runs of 1, 2 and 4 processes: their number changes, and one of them is asked to stop,
dies or stands still; alone, and under the supervisor.

Each chain goes through its episodes in one workdir, so that a start serves two checks:
that the episode before left what goes on, and the next one. Its end is compared with a
run of as many processes that nothing happened to.
"""

import hashlib
import json
import os
from pathlib import Path
import random
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

import faults
import numpy as np
import pytest
import tiny_config

from gptjax import sharding
from gptjax.train import build, checkpoint, feed, log

pytestmark = pytest.mark.timeout(1200)

CONFIG = Path(tiny_config.__file__)
STEPS = 90
COUNTS = (2, 4)
STARTED = []
# More than 1 where others use the cores: how much longer what has a limit may take.
SLACK = float(os.environ.get('GPTJAX_FAULTS_SLACK', '1'))
# Writes what lies on this process of each batch, as it is on the mesh; the last process
# asks itself to stop before a step.
RECORDER = """
import json, os, signal, sys
import numpy as np
from gptjax.train import source, verbs
from gptjax import command
real = source.Dataset.next
stop = int(os.environ.get('STOP_BEFORE', -1))
with open(os.environ['RECORD'], 'a') as record:
    def recorded(self, state, frozen):
        batch, state, told = real(self, state, frozen)
        first = self.row - self.draw
        for shard in batch['tokens'].addressable_shards:
            at = shard.index[0].indices(self.draw)[0]
            for i, row in enumerate(np.asarray(shard.data)):
                record.write(json.dumps([first + at + i, row.tolist()]) + '\\n')
        record.flush()
        last = os.environ.get('JAX_NUM_PROCESSES', '1')
        here = int(os.environ.get('JAX_PROCESS_ID', 0)) == int(last) - 1
        if here and self.row // self.draw == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch, state, told
    source.Dataset.next = recorded
    command.run(lambda: verbs.run(sys.argv[1:]))
"""


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp('raw') / 'text.txt'
    path.write_text(tiny_config.text())
    return path


def argv(raw, workdir, count, program=('-m', 'gptjax.train')):
    """The command of a run on `count` devices, as a user types it."""
    return [
        sys.executable, *program, f'--config={CONFIG}', f'--workdir={workdir}',
        f'--config.data.path={raw}', f'--config.mesh.data={count}',
        f'--config.steps={STEPS}', '--config.checkpoint.every=20',
    ]  # fmt: skip


def environment():
    """One device a process; what is compiled once is shared by all of a module."""
    flags = '--xla_force_host_platform_device_count=1'
    flags += ' --xla_backend_optimization_level=0'
    return {**os.environ, 'XLA_FLAGS': flags}


def start(command, count=1, **extra):
    """The processes of a run without a supervisor, as a scheduler starts them."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    ranks = []
    for i in range(count):
        several = {
            'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
            'JAX_NUM_PROCESSES': str(count),
            'JAX_PROCESS_ID': str(i),
        }
        own = {name: value.format(i) for name, value in extra.items()}
        ranks.append(popen(command, **(several if count > 1 else {}), **own))
    return ranks


def popen(command, **extra):
    process = subprocess.Popen(
        command, env={**environment(), **extra}, stderr=subprocess.PIPE, text=True
    )
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def none_left():
    """Ends what a test that failed has left running."""
    yield
    for process in STARTED:
        process.kill()
        process.wait()
        process.stderr.close()
    STARTED.clear()


def codes(ranks, seconds):
    """The exit codes, in order, and the seconds until the last one ended."""
    began = time.monotonic()
    errors = []
    for rank in ranks:
        left = max(0.1, seconds - (time.monotonic() - began))
        errors.append(rank.communicate(timeout=left)[1])
    took = time.monotonic() - began
    return [rank.returncode for rank in ranks], took, errors


def finish(ranks, code=0):
    found, _, errors = codes(ranks, 300)
    assert found == [code] * len(ranks), '\n'.join(errors)


def steps(workdir):
    return [record['step'] for record in log.read(workdir)]


def wait_for(workdir, step, *running):
    """Waits until the step is in metrics.jsonl, while these processes run."""
    end = time.monotonic() + 300
    while not any(found >= step for found in steps(workdir)):
        assert all(one.poll() is None for one in running), 'ended early'
        assert time.monotonic() < end
        time.sleep(0.01)


def saved(workdir):
    """The newest checkpoint: its step, and the digest of each array."""
    checkpoints = checkpoint.Checkpoints(workdir, keep=1)
    newest = checkpoints.newest()
    checkpoints.close()
    return newest['step'], newest['arrays']


def assert_same(workdir, straight):
    """The bits of all arrays, and of each loss on the way."""
    assert saved(workdir) == saved(straight)
    expected = [(r['step'], r['loss'], r['eval_loss']) for r in log.read(straight)]
    found = [(r['step'], r['loss'], r['eval_loss']) for r in log.read(workdir)]
    assert found == expected


@pytest.fixture(scope='module')
def straight(raw, tmp_path_factory):
    """For 1, 2 and 4 processes a workdir of a run that nothing happened to."""
    made = {}

    def find(count):
        if count not in made:
            made[count] = tmp_path_factory.mktemp(f'straight{count}') / 'run'
            finish(start(argv(raw, made[count], count), count))
        return made[count]

    return find


# The number of processes changes.


def part(index, count):
    """The sharding of process `index` of `count`, which share 8 devices."""
    devices = range(8 // count * index, 8 // count * (index + 1))

    def rows(shape):
        size = shape[0] // 8
        return {d: (slice(d * size, d * size + size),) for d in devices}

    made = mock.Mock(spec=sharding.Sharding)
    made.named.return_value.addressable_devices_indices_map = rows
    return made


def test_the_stream_does_not_depend_on_the_number_of_processes(raw, tmp_path):
    """Its digest is one, whatever the number and wherever it changes.

    Catches: rows drawn by each process on its own; a start row in units of the rows of
    a process; an epoch's end that depends on who reads.
    """
    config = tiny_config.get_config()
    config.data.path = str(raw)
    rows = build.build(config, tmp_path).rows
    size, batches = 16, 40
    assert size * batches > 1.5 * len(rows)  # over the end of an epoch

    def read(counts, lengths):
        digest = hashlib.sha256()
        row = 0
        for count, length in zip(counts, lengths, strict=True):
            feeds = [feed.Feed(part(i, count), size) for i in range(count)]
            streams = []
            for one in feeds:
                one.put = lambda local: local
                streams.append(one.stream(rows, 5, row, 'threads'))
            for _ in range(length):
                tokens = {}
                for one, stream in zip(feeds, streams, strict=True):
                    local = next(stream)['tokens']
                    assert not tokens.keys() & set(one.owned)
                    tokens |= dict(zip(one.owned, local, strict=True))
                assert sorted(tokens) == list(range(size))
                for at in range(size):
                    digest.update(np.ascontiguousarray(tokens[at]).tobytes())
            for stream in streams:
                stream.close()
            row += size * length
        return digest.hexdigest()

    whole = read([1], [batches])
    draw = random.Random(0)
    assert read([2], [batches]) == read([4], [batches]) == whole
    for at in range(1, batches):
        counts = draw.sample([1, 2, 4], 2)
        assert read(counts, [at, batches - at]) == whole, (counts, at)


def test_a_run_of_1_2_4_and_1_processes_is_one_run(raw, straight, tmp_path):
    """What lies on the mesh, row by row, is the stream of one process; and the losses
    are those of one process to 1e-5.

    Catches: as above, in real processes; a batch put on the mesh in another order; a
    row of the stream that is kept for each process.
    """
    workdir, record = tmp_path / 'run', tmp_path / 'record'
    stops = [*sorted(random.Random(1).sample(range(8, STEPS - 8), 3)), -1]
    for number, (count, stop) in enumerate(zip([1, 2, 4, 1], stops, strict=True)):
        command = argv(raw, workdir, count, program=('-c', RECORDER))
        ranks = start(
            command, count, STOP_BEFORE=str(stop), RECORD=f'{record}-{number}-{{}}'
        )
        finish(ranks, 0 if stop < 0 else 75)
        if stop >= 0:  # steps of milliseconds, of which some pass until all have heard
            assert stop <= saved(workdir)[0] < stop + 8
    found = {}
    for path in sorted(tmp_path.glob('record-*')):
        for line in path.read_text().splitlines():
            row, tokens = json.loads(line)
            # A row may be read ahead of a stop, and again; it is the same.
            assert found.setdefault(row, tokens) == tokens
    record_1 = tmp_path / 'alone'
    command = argv(raw, tmp_path / 'alone-run', 1, program=('-c', RECORDER))
    finish(start(command, 1, RECORD=str(record_1)))
    alone = dict(map(json.loads, record_1.read_text().splitlines()))

    def digest(stream):
        ordered = json.dumps([stream[row] for row in range(STEPS * 8)])
        return hashlib.sha256(ordered.encode()).hexdigest()

    assert digest(found) == digest(alone)
    losses = [[r['loss'] for r in log.read(one)] for one in (workdir, straight(1))]
    assert len(losses[0]) == STEPS
    np.testing.assert_allclose(*losses, rtol=1e-5)


# One of several is asked to stop, dies or stands still.


def moments(number, seed):
    """Steps at which something happens, apart from each other and from the end."""
    draw, width = random.Random(seed), (STEPS - 15) // number
    return [5 + i * width + draw.randrange(width - 4) for i in range(number)]


@pytest.mark.parametrize('count', COUNTS)
def test_one_signal_saves_the_same_step_on_all(raw, straight, tmp_path, count):
    """Without a supervisor; whichever process hears of it, and of which signal.

    Catches: a process that stops alone, or a step later; one that a second save of the
    same step hangs; a save that is not exact; an end that waits for a timeout.
    """
    heard = [(0, 'SIGTERM'), (count - 1, 'SIGINT'), (count - 1, 'SIGTERM')]
    heard = [*heard, (0, 'SIGINT')][: faults.count(4)]
    for step, (rank, name) in zip(moments(len(heard), count), heard, strict=True):
        ranks = start(argv(raw, tmp_path, count), count)
        wait_for(tmp_path, step, *ranks)
        ranks[rank].send_signal(signal.Signals[name])
        reached = max(steps(tmp_path))
        found, took, errors = codes(ranks, 60 * SLACK)
        assert found == [75] * count, '\n'.join(errors)
        print(f'{name} to {rank} of {count}: all ended in {took:.1f} s')
        assert took <= 8 * SLACK
        assert reached <= saved(tmp_path)[0] < STEPS
    finish(start(argv(raw, tmp_path, count), count))
    assert_same(tmp_path, straight(count))


@pytest.mark.parametrize('count', COUNTS)
def test_a_lost_process_ends_the_others(raw, straight, tmp_path, count):
    """Without a supervisor: killed within 30 s, stopped within 60 s.

    Catches: JAX's own 100 s; a wait for the lost one at the end of the others, or in
    the save that they begin; a workdir that stays claimed.
    """
    lost = [(0, 'SIGKILL'), (count - 1, 'SIGKILL'), (0, 'SIGSTOP')]
    lost = [*lost, (count - 1, 'SIGSTOP')][: faults.count(4)]
    for step, (rank, name) in zip(moments(len(lost), count), lost, strict=True):
        ranks = start(argv(raw, tmp_path, count), count)
        wait_for(tmp_path, step, *ranks)
        ranks[rank].send_signal(signal.Signals[name])
        others = [one for i, one in enumerate(ranks) if i != rank]
        limit = SLACK * (30 if name == 'SIGKILL' else 60)
        found, took, errors = codes(others, limit)
        ranks[rank].kill()
        print(f'{name} of {rank} of {count}: {found} in {took:.1f} s')
        # 76 by the watchdog, 1 by an error of the collective, else JAX's abort.
        assert set(found) <= {76, 1, -signal.SIGABRT}, '\n'.join(errors)
    finish(start(argv(raw, tmp_path, count), count))
    assert_same(tmp_path, straight(count))


def children(process):
    """The ranks below a supervisor, in the order of their numbers."""
    path = Path(f'/proc/{process.pid}/task/{process.pid}/children')
    return [int(pid) for pid in path.read_text().split()]


def supervise(command, count):
    launch = ['-m', 'gptjax.launch', 'local', f'--processes={count}', '--']
    return popen([sys.executable, *launch, *command])


@pytest.mark.parametrize('count', COUNTS)
def test_the_supervisor_goes_on_to_the_same_bits(raw, straight, tmp_path, count):
    """Over a killed and a stopped process, one that was asked to stop, and a signal to
    the supervisor itself.

    Catches: a restart of one process alone; a stopped one left behind with the workdir;
    a restart from an older step; a signal that is taken for a crash.
    """
    happens = [(0, 'SIGKILL'), (count - 1, 'SIGSTOP'), (0, 'SIGTERM')]
    happens = [*happens, (count - 1, 'SIGKILL'), (0, 'SIGSTOP')][: faults.count(5)]
    happens.append((None, 'SIGTERM'))
    job = supervise(argv(raw, tmp_path, count), count)
    for step, (rank, name) in zip(moments(len(happens), count), happens, strict=True):
        wait_for(tmp_path, step, job)
        ranks = children(job)
        assert len(ranks) == count
        if rank is not None:
            began = time.monotonic()
            os.kill(ranks[rank], signal.Signals[name])
            while set(children(job)) & set(ranks):
                assert time.monotonic() < began + 60 * SLACK, name
                time.sleep(0.02)
            print(f'{name} of {rank} of {count}: {time.monotonic() - began:.1f} s')
    job.send_signal(signal.SIGTERM)
    _, told = job.communicate(timeout=60)
    print(told)
    assert job.returncode == 75, told
    assert told.count(': restart ') == len(happens) - 1
    job = supervise(argv(raw, tmp_path, count), count)
    _, told = job.communicate(timeout=300)
    assert job.returncode == 0, told
    assert_same(tmp_path, straight(count))
