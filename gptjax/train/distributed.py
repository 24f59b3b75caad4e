"""Joining the processes of a run, by flags or by what the environment says."""

from collections.abc import Iterator, Mapping
import contextlib
import datetime
import math
import os
import signal
import sys
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

from gptjax import command

# Where one of these is set, a launcher started this process as one of several.
_LAUNCHERS = (
    ('JAX_COORDINATOR_ADDRESS', lambda value: True),
    ('SLURM_NTASKS', lambda value: value not in ('', '1')),
    ('OMPI_COMM_WORLD_SIZE', lambda value: value not in ('', '1')),
    ('TPU_WORKER_HOSTNAMES', lambda value: ',' in value),
)

# Seconds until a process that is dead or stands still counts as lost, and JAX aborts
# the others; 100 by default. Process 0 that is gone is noticed at once.
_HEARTBEAT = 20
_ARRIVING = 300  # seconds until all have come
_ENDING = 300  # seconds until all are done: process 0 may have files to hash
_LEAVING = 10.0  # seconds that a process which failed waits for the others


def initialize(
    coordinator: str | None, process_count: int | None, process_id: int | None
) -> None:
    """Joins the other processes, if there are any; call it before any array is made.

    Raises UserError if some of the three are given, and not all.
    """
    given = {
        '--coordinator': coordinator,
        '--process_count': process_count,
        '--process_id': process_id,
    }
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) == 3:
        if any(
            name in os.environ and several(os.environ[name])
            for name, several in _LAUNCHERS
        ):
            _from_environment()
        return
    if missing:
        raise command.UserError(
            f'{", ".join(missing)} missing; give --coordinator, --process_count and '
            '--process_id together, or none where a launcher sets the environment.'
        )
    assert process_count is not None
    assert process_id is not None
    if not 0 <= process_id < process_count:
        raise command.UserError(
            f'--process_id is {process_id} of {process_count} processes; it counts '
            f'from 0 to {process_count - 1}.'
        )
    _join(coordinator, process_count, process_id)


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Lets one process of several end with the code of what it failed at.

    The others may wait for it in the middle of a step, and at its exit JAX waits for
    them; in the end it aborts them all, and the code would be lost.
    """
    try:
        yield
    except BaseException as error:
        if several():
            end = threading.Timer(_LEAVING, os._exit, [_code(error)])
            end.daemon = True
            end.start()
        raise


def _code(error: BaseException) -> int:
    """What a command ends with that raises this error."""
    if isinstance(error, command.Failure):
        return error.code
    if isinstance(error, command.UserError):
        return command.USAGE
    return command.REQUEUE if isinstance(error, KeyboardInterrupt) else 1


def several() -> bool:
    """Whether this process is one of several, which `initialize` joined."""
    return _service().client is not None


def notify() -> None:
    """Tells all processes that one of them was asked to stop; see `agreed`.

    JAX itself notices SIGTERM alone, looks once a second, and takes the place of
    Python's handler: the notice goes straight to where it would put it.
    """
    with contextlib.suppress(Exception):  # another process was quicker, or is gone
        _service().client.key_value_set(
            'RECEIVED_PREEMPTION_NOTICE',
            datetime.datetime.now(datetime.UTC).isoformat(),
        )


def agreed(poll: int) -> bool:
    """Whether this is the poll, of those that all count, at which to stop."""
    return bool(multihost_utils.reached_preemption_sync_point(poll))


def _service() -> Any:
    from jax._src import distributed  # which has no public name for its client

    return distributed.global_state


def _from_environment() -> None:
    """JAX knows Slurm, Open MPI and TPU pods; its own variables are read here.

    Kubernetes numbers the pods of an indexed Job.
    """
    count, index = os.environ.get('JAX_NUM_PROCESSES'), os.environ.get('JAX_PROCESS_ID')
    index = index or os.environ.get('JOB_COMPLETION_INDEX')
    _join(None, int(count) if count else None, int(index) if index else None)


def _join(address: str | None, count: int | None, index: int | None) -> None:
    at = address or os.environ.get('JAX_COORDINATOR_ADDRESS', 'the first process')
    what = f'waiting up to {_ARRIVING} s for {count or "all"} processes at {at}'
    late = threading.Timer(10.0, print, [what], {'file': sys.stderr, 'flush': True})
    late.daemon = True
    late.start()
    jax.distributed.initialize(
        address,
        count,
        index,
        initialization_timeout=_ARRIVING,
        heartbeat_timeout_seconds=_HEARTBEAT,
        shutdown_timeout_seconds=_ENDING,
    )
    late.cancel()
    # JAX has put its own handler in the place of Python's, which is put back.
    if threading.current_thread() is threading.main_thread():
        for number in command.SIGNALS:
            signal.signal(number, signal.getsignal(number))


def simulate(sizes: Mapping[str, Any]) -> None:
    """Stands CPU devices in for a mesh of these sizes, to see shapes and shardings.

    Call it before any array is made. -1, the devices that are left, counts as one.
    """
    numbers = [n for n in sizes.values() if type(n) is int]
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', max(1, math.prod(map(abs, numbers))))
