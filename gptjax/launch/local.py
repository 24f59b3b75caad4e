"""The processes of one run on this machine: started together, ended together.

A process that dies leaves the others waiting in the middle of a step. JAX notices in 20
seconds; a parent notices at once, and can also end a process that only stands still.
What each exit code leads to stands in docs/reliability.md.
"""

import argparse
from collections.abc import Sequence
import contextlib
import ctypes
import functools
import os
from pathlib import Path
import shlex
import signal
import socket
import subprocess
import sys
import time

from gptjax import command

# Of codes that are found at the same moment, the first of these says what happened:
# the others may come from a process that lost its neighbour.
_TOLD = (command.USAGE, command.NUMERICS, command.HANG, command.REQUEUE)
_FINAL = (command.DONE, command.USAGE, command.NUMERICS)  # the same would come again
_POLL = 0.05  # seconds
_GRACE = 30.0  # seconds for the others, once the first one has saved and left
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_LIBC = ctypes.CDLL(None)  # found before a fork


class Supervisor:
    """Runs `argv` as `processes` processes of one job, again and again if need be.

    restarts: how many of them may follow each other without a newer checkpoint in the
    workdir that `argv` names; without a workdir, how many there may be.
    """

    def __init__(self, argv: Sequence[str], processes: int, restarts: int):
        self._argv, self._count, self._restarts = argv, processes, restarts
        self._workdir = workdir(argv)
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._asked = ''  # the name of the signal that asked this process to stop

    def run(self) -> int:
        """The exit code of the job: that of its last attempt, as a shell shows it.

        75 after a signal; a second one ends this process and with it the others.
        Raises UserError where there is no such command.
        """
        _say(f'{self._count} x {shlex.join(self._argv)}')
        with command.heeding(command.passed, self._ask):
            return self._run()

    def _ask(self, name: str) -> None:
        self._asked = name

    def _run(self) -> int:
        reached, failed = committed(self._workdir), 0
        while not self._asked:
            self._start()
            code = self._attempt()
            if code in _FINAL:
                return code
            if (step := committed(self._workdir)) > reached:
                reached, failed = step, 0
            if failed == self._restarts and not self._asked:
                _say(f'giving up: {failed} restarts in a row without a newer step')
                return code
            # Asked again before it made a step: the notice it heeds may last.
            pauses = code != command.REQUEUE or failed > 0
            end = time.monotonic() + min(2.0**failed, 30.0) * pauses
            failed += 1
            if not self._asked:
                _say(f'restart {failed} of {self._restarts} from step {step}')
            while time.monotonic() < end and not self._asked:
                time.sleep(_POLL)
        return command.REQUEUE

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            address = f'127.0.0.1:{free.getsockname()[1]}'
        for rank in range(self._count):
            several = {
                'JAX_COORDINATOR_ADDRESS': address,
                'JAX_NUM_PROCESSES': str(self._count),
                'JAX_PROCESS_ID': str(rank),
            }
            try:
                # A session of its own: Ctrl-C in the terminal reaches this process
                # alone, and what a rank has started can be ended with it.
                self._running[rank] = subprocess.Popen(
                    self._argv,
                    env={**os.environ, **(several if self._count > 1 else {})},
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    preexec_fn=functools.partial(_end_with, os.getpid()),
                )
            except OSError as error:
                raise command.UserError(f'{self._argv[0]}: {error.strerror}') from None

    def _attempt(self) -> int:
        """Waits until all have ended, or ends them; the code of what came first."""
        verdict, told, deadline = command.DONE, False, float('inf')
        while self._running:
            if self._asked and not told:
                told = True
                _say(f'{self._asked}: waiting for all to save')
                for process in self._running.values():
                    process.send_signal(signal.SIGTERM)
            ended = self._ended()
            if ended and verdict == command.DONE:
                rank, verdict = min(ended.items(), key=_order)
                patient = self._asked or verdict in (*_FINAL, command.REQUEUE)
                grace = _GRACE if patient else 0.0
                deadline = time.monotonic() + grace
                others = f'; {len(self._running)} others have {grace:.0f} s'
                _say(f'process {rank} {_how(verdict)}{others if self._running else ""}')
            if time.monotonic() >= deadline:
                for rank in self._running:
                    self._kill(rank)
            if time.monotonic() >= deadline + _GRACE:  # in the kernel, say, on a device
                pids = ', '.join(str(one.pid) for one in self._running.values())
                raise command.Failure(f'{pids} outlive SIGKILL', command.HANG)
            time.sleep(_POLL)
        return verdict if verdict >= 0 else 128 - verdict

    def _ended(self) -> dict[int, int]:
        """Processes that are found ended with an error, and their codes."""
        found = {}
        for rank, process in list(self._running.items()):
            code = process.poll()
            if code is not None:
                self._kill(rank)  # what it has left running
                del self._running[rank]
                if code:
                    found[rank] = code
        return found

    def _kill(self, rank: int) -> None:
        """Ends a process, also a stopped one, and all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._running[rank].pid, signal.SIGKILL)


def workdir(argv: Sequence[str]) -> Path | None:
    """The folder that a command names with --workdir, if it does."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--workdir', type=Path)
    found: Path | None = parser.parse_known_args(argv)[0].workdir
    return found


def committed(folder: Path | None) -> int:
    """The newest step that is saved in a workdir; 0 for none."""
    saved = folder.glob('checkpoints/*/manifest.json') if folder else ()
    names = (path.parent.name for path in saved)
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _end_with(parent: int) -> None:
    """In a child, before its command: it is killed when its parent dies (on Linux)."""
    if sys.platform == 'linux':
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # which has died already
        os._exit(128 + signal.SIGKILL)


def _order(ended: tuple[int, int]) -> int:
    return _TOLD.index(ended[1]) if ended[1] in _TOLD else len(_TOLD)


def _how(code: int) -> str:
    return f'ended with {code}' if code > 0 else f'died: {signal.strsignal(-code)}'


def _say(what: str) -> None:
    print(f'launch: {what}', file=sys.stderr, flush=True)
