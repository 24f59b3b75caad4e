"""A run that is asked to stop: by a signal, or by a notice of the cloud.

A Spot TPU VM has some ten seconds left then. The request is noticed by a thread, also
while the main thread waits for a compiler; the main thread polls it after each step and
each batch of an evaluation, and saves.
"""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType

from gptjax import command
from gptjax.train import distributed

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # the last is Slurm's


class Asked(Exception):
    """Raised by a poll in the middle of something long, which is then given up."""


class Stop:
    """Notes the first signal; a second one ends the process at once.

    idle: nothing is unsaved, so that a process which is alone ends at once.
    """

    def __init__(self) -> None:
        self.idle = True
        self._asked = False
        self._polls = 0

    def __enter__(self) -> 'Stop':
        # The system's handler writes the number of the signal into a pipe, whatever
        # the main thread does; Python's own handler would have to wait for it.
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)
        self._wakeup = signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _pass) for number in SIGNALS}
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._in)  # which ends the thread

    def _watch(self) -> None:
        while number := os.read(self._out, 1):
            if number[0] not in SIGNALS:
                continue
            if self._asked:
                os._exit(128 + number[0])
            self.ask(signal.Signals(number[0]).name)
        os.close(self._out)

    def ask(self, why: str) -> None:
        """Asks this run to stop, on all its processes; `why` is said."""
        if self._asked:
            return
        self._asked = True
        end = self.idle and not distributed.several()
        then = 'nothing is unsaved' if end else 'saving; once more ends at once'
        print(f'{why}: {then}', file=sys.stderr, flush=True)
        if end:
            os._exit(command.REQUEUE)
        distributed.notify()

    def agreed(self) -> bool:
        """Whether to stop now, the same answer on every process.

        Each calls this at the same places; the calls are counted, and all stop at the
        one after the last that any of them had reached when it was asked.
        """
        self._polls += 1
        if distributed.several():
            return distributed.agreed(self._polls)
        return self._asked


def _pass(signum: int, frame: FrameType | None) -> None:
    """The thread acts."""
