"""A run that hangs says where, and ends with exit code 76, to be started again.

A thread looks twice a second whether the main thread has entered a phase or finished a
batch of an evaluation. How long it may go without that depends on the phase:

    data, step, collective   the largest of `least` seconds, 10 x the mean time of a
                             step, 2 x the longest
    generate, eval           the same of a rollout or a batch
    save                     10 minutes, or 10 x the longest
    init, compile            an hour; also of the others until there is a unit that
                             was not the first, in which programs compile

The longest counts because units differ: after a thousand short batches their mean has
forgotten a long one.

A look that comes late counts as if it were in time: then this process was frozen itself
(Ctrl-Z, a laptop that slept). What keeps Python's interpreter lock stops this thread as
well; the other processes of the run, or its supervisor, have to notice that.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import os
from pathlib import Path
import sys
import threading
import time
import traceback
from typing import Any

from gptjax import command
from gptjax.train import phases as phases_lib

_LOOK = 0.5  # seconds
_COMPILE, _SAVE = 3600.0, 600.0


@contextlib.contextmanager
def watching(phases: phases_lib.Phases, least: float, path: Path) -> Iterator[None]:
    """Ends the process where a phase is stuck; `least` seconds of 0 are off.

    path: of the file to which the stacks are added, one for each process.
    """
    ended = threading.Event()
    given = phases, least, path, ended
    thread = threading.Thread(target=_watch, args=given, name='watchdog', daemon=True)
    if least:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if least:
            thread.join()


def limit(name: str, paces: dict[str, phases_lib.Pace], least: float) -> float:
    """Seconds that a phase may go without progress."""
    pace = paces[name if name in paces else 'step']
    if name in ('init', 'compile') or not pace.known:
        return _COMPILE
    if name == 'save':
        return max(least, _SAVE, 10 * pace.longest)
    return max(least, 10 * pace.mean, 2 * pace.longest)


def _watch(
    phases: phases_lib.Phases, least: float, path: Path, ended: threading.Event
) -> None:
    last, entered, waited = time.monotonic(), -1, 0.0
    while not ended.wait(_LOOK):
        now = time.monotonic()
        waited += min(now - last, _LOOK)
        last = now
        name = phases.name
        most = limit(name, phases.paces, least)
        if phases.entered != entered:
            entered, waited = phases.entered, 0.0
        elif waited > most:
            at = 'the start' if phases.step is None else f'step {phases.step}'
            _end(
                f'hang: no progress in phase {name} for {waited:.1f} s after {at}, '
                f'where the limit is {most:.1f} s; stacks are in {path}',
                phases,
                path,
            )


def _end(text: str, phases: phases_lib.Phases, path: Path) -> None:
    """Tells all, each in a thread: a pipe or a disk may be just what is stuck."""
    now = time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())
    report = f'{text}\n{_stacks()}'

    def keep() -> None:
        with path.open('a') as file:
            file.write(f'{now} {report}\n')

    told = functools.partial(os.write, 2, f'\n{report}'.encode())
    tasks: list[Callable[[], Any]] = [told, keep, phases.last_line]
    threads = [threading.Thread(target=task, daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5.0)
    os._exit(command.HANG)


def _stacks() -> str:
    """Where every thread is, the innermost call first, without reading any source.

    faulthandler keeps the interpreter's lock while it writes: into a pipe that is full,
    it would keep the process from ending.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():
        lines.append(f'thread {names.get(ident, ident)}:')
        for inner, line in traceback.walk_stack(frame):
            code = inner.f_code
            lines.append(f'  {code.co_filename}:{line} in {code.co_qualname}')
    return '\n'.join(lines) + '\n'
