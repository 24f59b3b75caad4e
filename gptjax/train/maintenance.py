"""The cloud's notice that a machine is about to be taken away.

Google's metadata server says `preempted` when a Spot VM has half a minute left, and
announces that a host is to be serviced, with accelerators up to an hour before. Both
come before SIGTERM does. Source: https://cloud.google.com/compute/docs/metadata
"""

from collections.abc import Callable, Iterator
import contextlib
import http.client
import os
import sys
import threading
import urllib.request

# The values that mean an end: MIGRATE_ON_HOST_MAINTENANCE is a pause of a second.
_ENDS = {'preempted': 'TRUE', 'maintenance-event': 'TERMINATE_ON_HOST_MAINTENANCE'}
_EVERY = 1.0  # seconds
_TIMEOUT = 2.0  # seconds: the server is on the machine itself


@contextlib.contextmanager
def watching(kind: str | None, ask: Callable[[str], None]) -> Iterator[None]:
    """Calls `ask` once with what the cloud announces; `kind` is 'gce', or None."""
    ended = threading.Event()
    if kind is not None:
        threading.Thread(target=_watch, args=(ask, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _watch(ask: Callable[[str], None], ended: threading.Event) -> None:
    # The variable is that of Google's own libraries.
    host = os.environ.get('GCE_METADATA_HOST', 'metadata.google.internal')
    told = False
    while not ended.is_set():
        for name, end in _ENDS.items():
            try:
                found = _get(f'http://{host}/computeMetadata/v1/instance/{name}')
            except (OSError, http.client.HTTPException) as error:
                if not told:
                    print(
                        f'run.maintenance: {host} does not answer ({error}), and '
                        'notices are missed until it does',
                        file=sys.stderr,
                    )
                told = True
                continue
            if found == end and not ended.is_set():
                ask(f'maintenance notice ({name} is {found})')
                return
        ended.wait(_EVERY)


def _get(address: str) -> str:
    request = urllib.request.Request(address, headers={'Metadata-Flavor': 'Google'})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=_TIMEOUT) as answer:
        return str(answer.read(100).decode(errors='replace')).strip()
