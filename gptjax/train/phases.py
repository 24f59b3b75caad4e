"""What a run does at this moment, and where its time went.

The main thread is in one phase at any time, so their seconds add up to the wall time.
WORKDIR/goodput.jsonl is an append-only ledger of them, about a line a second:

    {"began": 1763.2, "time": 1765.3, "step": 12, "seconds": {"compile": 1.7, ...}}

`began` is when the process began (Unix time), which names it; `time` is when the line
was written; `seconds` were spent since the line before it.
"""

from collections.abc import Iterator
import contextlib
import json
from pathlib import Path
import time

LEDGER = 'goodput.jsonl'
NAMES = (
    'init',  # from the start of the process on, raw data being built as well
    'compile',
    'data',  # waiting for a batch while the devices have nothing to do
    'generate',  # a rollout and its rewards
    'step',
    'collective',  # the same, where several processes wait for each other
    'save',
    'eval',
)
TRAINING = ('data', 'generate', 'step', 'collective')
_EVERY = 1.0  # seconds between lines


class Phases:
    """The phase of one process, and the ledger of its workdir.

    workdir: None writes nothing, as on all processes but the first. age: seconds since
    the process began, which count as init. `name` and `here` may be read by any thread.
    """

    def __init__(self, workdir: Path | None, age: float = 0.0):
        self.name = 'init'
        self.entered = 0  # how often a phase was entered or went on
        self._since = self._counted = time.monotonic()
        self._seconds = dict.fromkeys(NAMES, 0.0)
        self._seconds['init'] = age
        self._told = dict.fromkeys(NAMES, 0.0)
        self._began = time.time() - age
        self._file = None
        if workdir:
            workdir.mkdir(parents=True, exist_ok=True)
            self._file = (workdir / LEDGER).open('a')
        self._written = -_EVERY

    def enter(self, name: str, was: str | None = None) -> None:
        """Ends the phase before, which counts as that of `was`, and begins this one."""
        self._count(was)
        self.name = name
        self.beat()

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """A phase inside another one, which goes on afterwards."""
        before = self.name
        self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def beat(self) -> None:
        """There is progress: a step or a batch is done."""
        self._since = time.monotonic()
        self.entered += 1

    def here(self) -> float:
        """Seconds in this phase without progress."""
        return time.monotonic() - self._since

    def training(self) -> float:
        """Seconds of training alone, without evaluation, saves and compilation."""
        self._count()
        return sum(self._seconds[name] for name in TRAINING)

    def _count(self, name: str | None = None) -> None:
        now = time.monotonic()
        self._seconds[name or self.name] += now - self._counted
        self._counted = now

    def write(self, step: int, now: bool = False) -> None:
        """A line of the ledger, if the last one is a second old, or it has to be."""
        if self._file is None:
            return
        if not now and time.monotonic() - self._written < _EVERY:
            return
        self._count()
        self._written = self._counted
        spent = {
            name: round(seconds - self._told[name], 6)
            for name, seconds in self._seconds.items()
            if seconds != self._told[name]
        }
        self._told = dict(self._seconds)
        line = {'began': self._began, 'time': time.time(), 'step': step}
        self._file.write(json.dumps({**line, 'seconds': spent}) + '\n')
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def process_age() -> float:
    """Seconds since this process began, where the system tells; else 0."""
    try:
        after_name = Path('/proc/self/stat').read_text().rpartition(')')[2].split()
        ticks = int(after_name[19])  # field 22, starttime, of proc(5)
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
    return max(0.0, now - ticks / 100)  # USER_HZ is 100 on every Linux
