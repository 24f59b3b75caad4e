"""A build that is killed at any moment, and run again, ends with the same bytes.

The builds run in children of a process of its own: without threads, it may fork.
"""

import subprocess
import sys

DRIVER = """
import os, random, shutil, signal, sys, time
from pathlib import Path
from gptjax.data import build

source, root = sys.argv[1], Path(sys.argv[2])
options = dict(
    corpus=dict(name='text', path=source, licence='CC0-1.0'),
    tokenizer=dict(name='bytes'),
    held_out=dict(fraction=0.3, by='document'),
    shard_tokens=1000,
)
os.fsync = lambda descriptor: None  # matters when the power fails, not to a kill
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
real = os.replace

def child(output, kill_at=None, after=False, sleep=None):
    '''Builds, killed at a rename or after a time; returns whether it finished.'''
    pid = os.fork()
    if pid == 0:
        renames = 0
        def replace(*args):
            nonlocal renames
            renames += 1
            if renames == kill_at and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args)
            if renames == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        os.replace = replace
        try:
            build.build(output, **options)
        except BaseException as error:
            print('failed:', repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    if sleep is not None:
        time.sleep(sleep)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1] == 0

def files(folder):
    return {
        p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in folder.rglob('*') if p.is_file()
    }

def finish(output):
    '''Runs again, and compares: the bytes, and that finished shards were left alone.'''
    records = list((output / '.progress').glob('*-*.json'))
    kept = {r.stem.replace('-', '/') + '.tokens' for r in records}
    before = files(output)
    assert child(output), output
    after = files(output)
    assert {k: v[0] for k, v in after.items()} == expected, output
    assert all(after[name][1] == before[name][1] for name in kept), output
    return len(kept)

began = time.monotonic()
assert child(root / 'whole')
duration = time.monotonic() - began
expected = {k: v[0] for k, v in files(root / 'whole').items()}
kept = kills = 0
for after in (False, True):
    number = 1
    while not child(root / f'{number}-{after}', number, after):
        kept += finish(root / f'{number}-{after}')
        number += 1
    kills += number - 1
stepwise = root / 'stepwise'
runs = 1
while not child(stepwise, 6, True):  # the plan, a shard and a part of the next
    runs += 1
assert {k: v[0] for k, v in files(stepwise).items()} == expected
for number in range(12):
    output = root / f'timed-{number}'
    child(output, sleep=random.uniform(0, 1.2 * duration))
    finish(output)
print('kills', kills, 'kept', kept, 'runs', runs)
"""


def test_killed_builds_end_with_the_same_bytes(texts, tmp_path):
    root = tmp_path / 'out'
    root.mkdir()
    done = subprocess.run(
        [sys.executable, '-c', DRIVER, str(texts), str(root)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, kills, _, kept, _, runs = done.stdout.split()
    assert int(kills) > 30  # before and after every rename
    assert int(kept) > 20  # finished shards that the second run left alone
    assert int(runs) > 5
