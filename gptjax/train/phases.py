"""What a run does at this moment, and where its time went.

The main thread is in one phase at any time, so their seconds add up to the wall time.
WORKDIR/goodput.jsonl is an append-only ledger of them, at first a line a second:

    {"began": 1763.2, "time": 1765.3, "step": 12, "seconds": {"compile": 1.7, ...}}

`began` is when the process began (Unix time), which names it; `time` is when the line
was written; `seconds` were spent since the line before it; `step` is null until it is
known. "from": N says that the state of step N was there and the run goes on from it,
"complete": true besides that there was nothing to do; "saved": true that the save of
this step has begun.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import os
from pathlib import Path
import time
from typing import Any

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
# Between lines are a second, and later this share of the process' age: a few thousand
# lines a week, and what a kill leaves unwritten is no larger a part of the whole.
_EVERY, _SHARE = 1.0, 1e-3


@dataclasses.dataclass
class Pace:
    """Seconds that a unit takes: a step, a batch of an evaluation, a rollout, a save.

    skip: how many come first that say nothing, as they may compile. mean: over about
    the last hundred; it and `longest` mean something if `known`.
    """

    skip: int
    count: int = 0
    mean: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """One more unit is done."""
        self.count += 1
        if self.known:
            self.mean += (seconds - self.mean) / min(self.count - self.skip, 100)
            self.longest = max(self.longest, seconds)

    @property
    def known(self) -> bool:
        """Whether there was a unit that tells how long one takes."""
        return self.count > self.skip


class Phases:
    """The phase of one process, and the ledger of its workdir.

    workdir: None writes nothing, as on all processes but the first. age: seconds since
    the process began, which count as init. Any thread may read `name`, `entered`,
    `step` and `paces`.
    """

    def __init__(self, workdir: Path | None, age: float = 0.0):
        self.name = 'init'
        self.entered = 0  # how often a phase was entered or went on
        self.step: int | None = None  # that was dispatched last
        self.paces = _paces()
        self._whole = True  # this phase had no beat yet
        self._spent = 0.0  # on steps, when the last one was dispatched
        self._since = self._counted = time.monotonic()
        self._written = self._first = self._counted - age
        self._seconds = dict.fromkeys(NAMES, 0.0)
        self._seconds['init'] = age
        self._told = dict.fromkeys(NAMES, 0.0)
        self._began = time.time() - age
        self._file = -1
        if workdir:
            workdir.mkdir(parents=True, exist_ok=True)
            path = workdir / LEDGER
            # A kill may have cut the last line off.
            self._torn = path.exists() and path.read_bytes()[-1:] not in (b'', b'\n')
            self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
            self._line()

    def enter(self, name: str, was: str | None = None) -> None:
        """Ends the phase before, which counts as that of `was`, and begins this one."""
        self._count(was)
        self._progress(unit=self._whole)
        self.name, self._whole = name, True
        self._line_if_due()

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
        """A batch of an evaluation is done."""
        self._count()
        self._progress(unit=True)
        self._whole = False
        self._line_if_due()

    def _progress(self, unit: bool) -> None:
        if unit and self.name in ('generate', 'save', 'eval'):
            self.paces[self.name].add(self._counted - self._since)
        self._since = self._counted
        self.entered += 1

    def begin(self, step: int, complete: bool = False) -> None:
        """The state of a step is there: what was done after it is done again.

        complete: nothing is left to do. Programs are new, so the paces begin anew.
        """
        self._count()
        self._line()  # what was before
        self.step, self.paces = step, _paces()
        self._line(**{'from': step, **({'complete': True} if complete else {})})

    def training(self) -> float:
        """Seconds of training alone, without evaluation, saves and compilation."""
        self._count()
        return sum(self._seconds[name] for name in TRAINING)

    def _count(self, name: str | None = None) -> None:
        now = time.monotonic()
        self._seconds[name or self.name] += now - self._counted
        self._counted = now

    def write(self, step: int, now: bool = False, saved: bool = False) -> None:
        """Notes the step dispatched last, in a line of the ledger if one is due.

        now: it is. saved: it is, as the save of this step has begun.
        """
        spent = self.training() - self._seconds['generate']
        if step != self.step:
            self.paces['step'].add(spent - self._spent)
            self.step, self._spent = step, spent
        if saved:
            self._line(saved=True)
        elif now:
            self._line()
        else:
            self._line_if_due()

    def _line_if_due(self) -> None:
        every = max(_EVERY, _SHARE * (self._counted - self._first))
        if self._counted - self._written >= every:
            self._line()

    def last_line(self) -> None:
        """A line with what was not yet told, from any thread; the process ends."""
        self._count()
        self._line()

    def _line(self, **more: Any) -> None:
        if self._file < 0:
            return
        spent = {
            name: round(seconds - self._told[name], 6)
            for name, seconds in self._seconds.items()
            if seconds != self._told[name]
        }
        line = {'began': self._began, 'time': time.time(), 'step': self.step}
        text = json.dumps({**line, 'seconds': spent, **more}) + '\n'
        data = ('\n' * self._torn + text).encode()
        self._written = self._counted
        # In one call: wherever the process ends, and whichever thread ends it, the line
        # is there or not. On a full disk the next line tells it all.
        with contextlib.suppress(OSError):
            self._torn = os.write(self._file, data) < len(data)
            if not self._torn:
                self._told = dict(self._seconds)

    def close(self) -> None:
        """Writes what is left."""
        if self._file >= 0:
            self.last_line()
            os.close(self._file)
            self._file = -1


def _paces() -> dict[str, Pace]:
    # The first of each may compile, but for a save.
    return {'step': Pace(1), 'generate': Pace(1), 'eval': Pace(1), 'save': Pace(0)}


def process_age() -> float:
    """Seconds since this process began, where the system tells; else 0."""
    try:
        after_name = Path('/proc/self/stat').read_text().rpartition(')')[2].split()
        ticks = int(after_name[19])  # field 22, starttime, of proc(5)
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
    return max(0.0, now - ticks / 100)  # USER_HZ is 100 on every Linux
