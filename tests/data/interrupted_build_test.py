"""A build that is killed at any moment, and run again, ends with the same bytes.

The builds run in children of a process of its own: without threads, it may fork.
"""

import subprocess
import sys

DRIVER = """
import os, random, shutil, signal, sys, time
from pathlib import Path
from gptjax.data import build, ledger

source, root = sys.argv[1], Path(sys.argv[2])
options = dict(
    corpus=dict(name='text', path=source, licence='CC0-1.0'),
    tokenizer=dict(name='bytes'),
    held_out=dict(fraction=0.3, by='document'),
    shard_tokens=1000,
)
ledger.Rows().encode()  # imports much: once, not in every child
os.fsync = lambda descriptor: None  # matters when the power fails, not to a kill
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
real_replace, real_open = os.replace, Path.open

def child(output, kill_at=None, sleep=None):
    '''Builds; killed at an event or after a time. Returns whether it finished.

    Events: a file has been opened to be written, and is empty; a rename is due; done.
    '''
    pid = os.fork()
    if pid == 0:
        events = 0
        def event():
            nonlocal events
            events += 1
            if events == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        def replace(*args):
            event()
            real_replace(*args)
            event()
        def open(path, mode='r', *args, **options):
            file = real_open(path, mode, *args, **options)
            if 'w' in mode:
                event()
            return file
        os.replace, Path.open = replace, open
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
kept = 0
number = 1
while not child(root / f'at-{number}', number):
    kept += finish(root / f'at-{number}')
    number += 1
stepwise = root / 'stepwise'
runs = 1
while not child(stepwise, 17):  # the plan, a shard and a part of the next
    runs += 1
assert {k: v[0] for k, v in files(stepwise).items()} == expected
for trial in range(12):
    output = root / f'timed-{trial}'
    child(output, sleep=random.uniform(0, 1.2 * duration))
    finish(output)
print('kills', number - 1, 'kept', kept, 'runs', runs)
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
    assert int(kills) > 50  # three for each file
    assert int(kept) > 20  # finished shards that the second run left alone
    assert int(runs) > 5
