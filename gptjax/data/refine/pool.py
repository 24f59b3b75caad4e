"""Tasks over processes, any of which may die."""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import process
import contextlib
import multiprocessing
from multiprocessing import connection
import os
import signal
import threading
from typing import Any

from gptjax import command
from gptjax.data import progress


class Pool:
    """So many processes; with one, tasks run in this process.

    At the end of its `with`, none of them is left; an exception ends them at once.
    """

    def __init__(self, workers: int, *prepare: Any):
        """prepare: a function and arguments, with which each process begins."""
        self._workers, self._prepare = workers, prepare
        self._executor: futures.ProcessPoolExecutor | None = None
        self._others = set(multiprocessing.active_children())

    def __enter__(self) -> 'Pool':
        if self._workers > 1:
            self._start()
        return self

    def _start(self) -> futures.ProcessPoolExecutor:
        if self._executor is None:
            spawn = multiprocessing.get_context('spawn')
            self._executor = futures.ProcessPoolExecutor(
                self._workers, spawn, _begin, self._prepare
            )
            # A process begins with signals blocked as here: those of a terminal or a
            # scheduler, which may go to all, are for the parent alone.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, command.SIGNALS)
            try:
                for _ in range(self._workers):  # each starts a process
                    self._executor.submit(int)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._executor

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop(at_once=kind is not None)

    def _stop(self, at_once: bool) -> None:
        if self._executor is None:
            return
        if at_once:
            for child in set(multiprocessing.active_children()) - self._others:
                child.kill()
        self._executor.shutdown(cancel_futures=True)
        self._executor = None

    def run(
        self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]
    ) -> Iterator[Any]:
        """`function(*task)` of each task, as they end; a process that dies is replaced.

        Raises UserError where that happens again to the tasks that were left.
        """
        if self._workers == 1:
            for task in tasks:
                yield function(*task)
            return
        for again in (False, True):
            if again:
                progress.say(f'a process died; {len(tasks)} tasks begin again')
            executor, lost = self._start(), []
            given: dict[futures.Future, tuple[Any, ...]] = {}
            for task in tasks:
                try:
                    given[executor.submit(function, *task)] = task
                except process.BrokenProcessPool:
                    lost.append(task)
            for future in futures.as_completed(given):
                try:
                    result = future.result()
                except process.BrokenProcessPool:
                    lost.append(given[future])
                    continue
                yield result
            if not lost:
                return
            tasks = lost
            self._stop(at_once=True)
        raise command.UserError(
            f'a process died twice at the same {len(tasks)} tasks. If the system was '
            'short of memory, take fewer run.workers or more run.shards; what is '
            'finished is kept, and the same command goes on from there.'
        )


def _begin(*prepare: Any) -> None:
    """In a worker, which ends with its parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    with contextlib.suppress(Exception):  # the tasks raise it again
        if prepare:
            prepare[0](*prepare[1:])
