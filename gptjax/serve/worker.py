"""The one thread that runs the models, and the bounded queue in front of it.

The event loop never runs JAX: it hands a job over and awaits pieces. A job that nobody
waits for any more ends between two pieces of its stream.
"""

import asyncio
import collections
from collections.abc import AsyncIterator, Sequence
import logging
import threading

from gptjax.generate import engine as engine_lib

log = logging.getLogger(__name__)


class Busy(Exception):
    """The queue is full."""


class Stopping(Exception):
    """The server is going down."""


class Job:
    """Requests to one model, and the pieces that come back to the event loop."""

    def __init__(
        self,
        engine: engine_lib.Engine,
        requests: Sequence[engine_lib.Request],
    ) -> None:
        self.engine = engine
        self.requests = requests
        self._cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, engine_lib.Piece] | Exception | None]
        self._events = asyncio.Queue()  # bounded by the tokens of the requests

    async def pieces(self) -> AsyncIterator[tuple[int, engine_lib.Piece]]:
        """Pieces, each with the index of its request; raises what the engine raised."""
        while (event := await self._events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    def cancel(self) -> None:
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def run(self) -> None:
        """The work, on the thread of the worker."""
        try:
            for event in () if self.cancelled else self.engine.run(self.requests):
                if self.cancelled:
                    break
                self._send(event)
            self._send(Stopping() if self.cancelled else None)
        except Exception as error:
            log.exception('a generation failed')
            self._send(error)

    def _send(self, event: tuple[int, engine_lib.Piece] | Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the event loop has closed: the server is going down
            self.cancel()


class Worker:
    """Runs jobs one after another, in the order they came."""

    def __init__(self, queue_limit: int) -> None:
        self.queue_limit = queue_limit
        self._waiting: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._current: Job | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name='engine', daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread: what runs and what waits ends in Stopping, soon."""
        with self._changed:
            self._stopping = True
            for job in [*self._waiting, self._current]:
                if job is not None:
                    job.cancel()
            self._changed.notify()

    def submit(self, job: Job) -> None:
        """Queues a job; raises Busy when `queue_limit` of them wait, or Stopping."""
        with self._changed:
            if self._stopping:
                raise Stopping
            for gone in [other for other in self._waiting if other.cancelled]:
                self._waiting.remove(gone)
            if len(self._waiting) >= self.queue_limit:
                raise Busy
            self._waiting.append(job)
            self._changed.notify()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def running(self) -> bool:
        return self._current is not None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    def _work(self) -> None:
        while True:
            with self._changed:
                self._current = None
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    return
                self._current = self._waiting.popleft()
            self._current.run()
