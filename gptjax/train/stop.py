"""A run that is asked to stop: by a signal, or by a notice of the cloud.

A Spot TPU VM has some ten seconds left then. The request is noticed by a thread, also
while the main thread waits for a compiler; the main thread polls it after each step and
each batch of an evaluation, and saves.
"""

import contextlib
import os
import sys

from gptjax import command
from gptjax.train import distributed


class Asked(Exception):
    """Raised by a poll in the middle of something long, which is then given up."""


class Stop:
    """Whether a run is to stop.

    idle: nothing is unsaved, so that a process which is alone ends at once.
    """

    def __init__(self) -> None:
        self.idle = True
        self.reached = False  # a poll has said so
        self._asked = False
        self._polls = 0

    def ask(self, why: str) -> None:
        """Asks this run to stop, on all its processes; `why` is said. By any thread."""
        if self._asked:
            return
        self._asked = True
        end = self.idle and not distributed.several()
        then = 'nothing is unsaved' if end else 'saving; once more ends at once'
        with contextlib.suppress(OSError):  # the terminal may be gone
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
        if distributed.several():  # which says so once
            self.reached |= distributed.agreed(self._polls)
        else:
            self.reached = self._asked
        return self.reached
