"""50 full disks, and one that is read-only: training goes on, and nothing is left over.

The real loop trains in a small tmpfs. After each step the test may fill it, at once or
a moment later and so inside a save, and makes room again some steps on. It catches a
space check that is left out (with `_RESERVE = 0` there is no save that was not begun),
leftovers that no later save deletes, and records that a full disk swallows.
"""

import os
import signal
import subprocess
import threading
import time

import faults
import jax
import numpy as np
import pytest
import tiny_config

from gptjax.train import build, checkpoint, log, loop

# Orbax gives up at the first error; TensorStore's other writes end in a closed loop.
pytestmark = pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning'
)

SIZE = 16  # MB
NOT_BEGUN, WRITTEN = 'MB free, and a save takes', 'RESOURCE_EXHAUSTED|No space left'


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / 'disk'
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', f'size={SIZE}m', 'tmpfs', str(folder)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f'no small disk can be made here: {made.stderr.strip()}')
    yield folder
    subprocess.run(['umount', '-l', str(folder)], check=True)


def config(tmp_path):
    text = tmp_path / 'text.txt'
    text.write_text(tiny_config.text())
    made = tiny_config.get_config()
    made.data.path = str(text)
    made.steps = 10**6
    made.checkpoint = dict(every=3, keep=2, failures=10**6)
    made.eval.every = 10**6
    made.run.log_every = 1
    return made


def used(folder):
    """Bytes on the disk of checkpoints, whatever their names."""
    return sum(p.stat().st_blocks * 512 for p in folder.rglob('*') if p.is_file())


def fill(disk):
    """Takes all that is free."""
    with (disk / 'filler').open('ab', buffering=0) as file:
        for size in (1 << 16, 1 << 9):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


class Episodes:
    """Called in the place of `poll`, after each step of a run."""

    def __init__(self, disk, total, begin, end):
        self.disk, self.left, self.begin, self.end = disk, total, begin, end
        self.rng = np.random.default_rng(0)
        self.given, self.failures = {}, []
        self.phase, self.wait, self.steps, self.seen = self.fills, 5, 0, 0
        self.most = 0

    def install(self, monkeypatch):
        poll, save = checkpoint.Checkpoints.poll, checkpoint.Checkpoints.save

        def polled(checkpoints):
            told = poll(checkpoints)
            if told:
                self.failures.append(told)
            self.steps += 1
            time.sleep(0.01)  # or hundreds of steps pass while one save is written
            self.wait -= 1
            if self.wait <= 0 and self.left:
                self.phase(checkpoints)
            return told

        def saved(checkpoints, step, state, *rest):
            self.given[step] = jax.tree.map(np.array, state)
            save(checkpoints, step, state, *rest)

        monkeypatch.setattr(checkpoint.Checkpoints, 'poll', polled)
        monkeypatch.setattr(checkpoint.Checkpoints, 'save', saved)

    def fills(self, checkpoints):
        if not checkpoints.steps():
            return
        self.seen = len(self.failures)
        delay = self.rng.uniform(0, 0.4) if self.rng.random() < 0.6 else 0
        self.filler = threading.Timer(delay, self.begin, [self.disk])
        self.filler.start()
        self.phase, self.wait = self.frees, int(self.rng.integers(4, 20))

    def frees(self, checkpoints):
        if self.filler.is_alive() or len(self.failures) == self.seen:
            return  # until it was felt
        self.end(self.disk)
        self.good = checkpoints.steps()[-1]
        self.phase = self.recovers

    def recovers(self, checkpoints):
        newest = checkpoints.steps()[-1]
        if newest == self.good:
            return
        checkpoints.wait()
        newest = checkpoints.steps()[-1]
        found = checkpoints.newest()
        assert found['step'] == newest
        assert checkpoints.damaged == 0
        given = self.given[newest]
        places = jax.tree.map(lambda leaf: jax.devices()[0], given)
        places = jax.tree.map(jax.sharding.SingleDeviceSharding, places)
        restored = checkpoints.restore(found, given, places, {})
        for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(given), strict=True):
            assert np.asarray(a).tobytes() == b.tobytes()
        kept = sorted(path.name for path in checkpoints.folder.iterdir())
        assert kept == [f'{step:08d}' for step in checkpoints.steps()]
        assert len(kept) <= 2
        size = used(checkpoints.folder)
        self.most = self.most or 1.5 * size
        assert size <= self.most
        self.given = {step: self.given[step] for step in checkpoints.steps()}
        self.left -= 1
        self.phase, self.wait = self.fills, int(self.rng.integers(1, 10))
        if not self.left:
            os.kill(os.getpid(), signal.SIGTERM)


def trained(episodes, tmp_path, disk, monkeypatch):
    """Trains through all episodes; what must hold at the end."""
    episodes.install(monkeypatch)
    workdir = disk / 'run'
    assert not loop.train(build.build(config(tmp_path), workdir))
    assert episodes.left == 0
    monkeypatch.undo()
    found = checkpoint.Checkpoints(workdir, keep=2).newest()
    records = log.read(workdir)
    assert [r['step'] for r in records] == list(range(1, found['step'] + 1))
    assert records[-1]['saves_failed'] == len(episodes.failures)
    assert len(list((workdir / 'checkpoints').iterdir())) == 2


def test_full_disks(tmp_path, disk, monkeypatch):
    total = faults.count(50)
    episodes = Episodes(disk, total, fill, lambda disk: (disk / 'filler').unlink())
    trained(episodes, tmp_path, disk, monkeypatch)
    not_begun = sum(NOT_BEGUN in told for told in episodes.failures)
    print(
        f'{total} episodes, {episodes.steps} steps; saves: {not_begun} not begun, '
        f'{len(episodes.failures) - not_begun} ended by the full disk'
    )
    assert total < 10 or 0 < not_begun < len(episodes.failures)


def test_a_read_only_folder(tmp_path, disk, monkeypatch):
    folder = str(disk / 'run' / 'checkpoints')

    def begin(disk):
        subprocess.run(['mount', '--bind', folder, folder], check=True)
        subprocess.run(['mount', '-o', 'remount,ro,bind', folder], check=True)

    def end(disk):
        subprocess.run(['umount', folder], check=True)

    episodes = Episodes(disk, 1, begin, end)
    trained(episodes, tmp_path, disk, monkeypatch)
    assert any('Read-only file system' in told for told in episodes.failures)
