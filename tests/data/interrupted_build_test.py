"""A build that is killed at any moment, and run again, ends with the same bytes.

The builds run in a process of its own: without threads, it may fork.
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
    shard_tokens=1500,
)
ledger.Rows().encode()  # imports much: once, not in every child
os.fsync = lambda descriptor: None  # matters when the power fails, not to a kill
real_replace, real_open = os.replace, Path.open

def watch(event):
    '''Calls `event` when a file was opened to be written, and is empty, and where a
    rename is due.'''
    def replace(*args):
        event()
        real_replace(*args)
    def open(path, mode='r', *args, **options):
        file = real_open(path, mode, *args, **options)
        if 'w' in mode:
            event()
        return file
    os.replace, Path.open = replace, open

def child(output, kill_at=None, sleep=None):
    '''Builds; killed at an event or after a time. Returns whether it finished.'''
    pid = os.fork()
    if pid == 0:
        events = 0
        def event():
            nonlocal events
            events += 1
            if events == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        watch(event)
        try:
            build.build(output, **options)
            os._exit(0)
        finally:
            os._exit(1)
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
    build.build(output, **options)
    after = files(output)
    assert {k: v[0] for k, v in after.items()} == expected, output
    assert all(after[name][1] == before[name][1] for name in kept), output
    return len(kept)

began = time.monotonic()
assert child(root / 'whole')
duration = time.monotonic() - began
expected = {k: v[0] for k, v in files(root / 'whole').items()}
runs = 1
while not child(root / 'stepwise', 13):  # the plan, a shard and a part of the next
    runs += 1
timed = [root / f'timed-{trial}' for trial in range(8)]
for output in timed:
    child(output, sleep=random.uniform(0, 1.2 * duration))

moments = []
def keep():  # what a kill would leave now
    moments.append(root / f'at-{len(moments)}')
    shutil.copytree(root / 'watched', moments[-1])
watch(keep)
build.build(root / 'watched', **options)
os.replace, Path.open = real_replace, real_open
kept = sum(map(finish, [*moments, *timed, root / 'stepwise']))
print(len(moments), kept, runs)
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
    moments, kept, runs = map(int, done.stdout.split())
    assert moments > 30  # two for each file
    assert kept > 20  # finished shards that the second run left alone
    assert runs > 3
