"""One writer for a workdir, which owner.json names."""

from collections.abc import Iterator
import contextlib
import datetime
import fcntl
import json
import os
from pathlib import Path
import socket
import time

import jax

from gptjax import command

FILE = 'owner.json'


@contextlib.contextmanager
def claimed(workdir: Path) -> Iterator[None]:
    """Holds a workdir for one run; the system lets go of it when the process ends.

    Of several processes the first one does. UserError where another run holds it.
    """
    if jax.process_index() > 0:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / FILE).open('a+') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise command.UserError(
                f'{workdir} is held by {_owner(workdir)}; wait for it, stop it, or '
                'take another workdir.'
            ) from None
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
        owner = {'host': socket.gethostname(), 'pid': os.getpid(), 'since': now}
        with contextlib.suppress(OSError):  # on a full disk the lock alone counts
            file.truncate(0)
            file.write(json.dumps(owner) + '\n')
            file.flush()
        yield


def _owner(workdir: Path) -> str:
    """Who it is; the owner may just be writing that."""
    for _ in range(10):
        with contextlib.suppress(ValueError, KeyError):
            owner = json.loads((workdir / FILE).read_text())
            return f'pid {owner["pid"]} on host {owner["host"]} since {owner["since"]}'
        time.sleep(0.1)
    return 'another process'
