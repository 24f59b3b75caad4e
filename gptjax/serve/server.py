"""A server from workdirs: bind, load, warm up, say where, serve until told to stop."""

from collections.abc import Callable, Mapping, Sequence
import errno
from pathlib import Path
import signal
import socket
from typing import Any

import uvicorn

from gptjax import command
from gptjax.generate import engine as engine_lib
from gptjax.serve import app as app_lib
from gptjax.serve import worker

QUEUE_LIMIT = 64  # jobs that wait while one runs


def run(
    load: Callable[[Path], Any],
    workdirs: Sequence[Path],
    host: str,
    port: int,
    adapters: Sequence[tuple[str, Callable[[Any], Any]]] = (),
    how: Mapping[str, Any] | None = None,
) -> None:
    """Serves the model of each workdir, named as its folder, until SIGINT or SIGTERM.

    `load` turns a workdir into model, params and tokenizer. adapters: names, and
    functions that turn what was loaded of the one workdir into an adapter as
    `engine.Engine` takes it. how: more of what it takes, of `options.NAMES`. Raises
    UserError for a port that cannot be had, before any model is loaded.
    """
    names = [workdir.resolve().name for workdir in workdirs]
    known = [*names, *(name for name, _ in adapters)]
    for name in known:
        if known.count(name) > 1:
            raise command.UserError(
                f'two workdirs are called {name!r}, and that names their models; '
                'rename one.'
            )
    if adapters and len(workdirs) > 1:
        raise command.UserError(
            f'--adapter={adapters[0][0]} needs one --workdir, its base; there are '
            f'{len(workdirs)}.'
        )
    with bind(host, port) as listener:
        engines = {}
        for name, workdir in zip(names, workdirs, strict=True):
            trained = load(workdir)
            beside = {other: make(trained) for other, make in adapters}
            engines[name] = engine_lib.Engine(
                trained.model, trained.params, trained.tokenizer, beside, **(how or {})
            )
            warm_up(engines[name])
        serve(engines, listener)


def serve(engines: Mapping[str, engine_lib.Engine], listener: socket.socket) -> None:
    """Serves until SIGINT or SIGTERM, then returns."""
    # uvicorn ends in good order, then raises the signal again: all is done by then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    Server(engines, QUEUE_LIMIT).run([listener])


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises UserError when the port cannot be had."""
    if not 0 <= port < 2**16:
        raise command.UserError(f'--port is {port}; ports are 0 to {2**16 - 1}.')
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = f'port {port} of {host} is busy'
        elif error.errno == errno.EACCES:
            why = f'port {port} needs rights that this user lacks'
        else:
            why = f'cannot listen on {host} port {port} ({error})'
        raise command.UserError(
            f'{why}; stop what listens there, or choose another with --port (0 takes '
            'any that is free) or --host.'
        ) from None


def warm_up(engine: engine_lib.Engine) -> None:
    """Compiles what a single request needs, for each bucket of prompt lengths."""
    length = engine_lib.SHORTEST
    while True:
        prompt = engine.document('')[:1] * min(length, engine.context - 1)
        for _ in engine.stream(engine_lib.Request(prompt, max_tokens=2)):
            pass
        if length >= engine.context:
            return
        length *= 2


class Server(uvicorn.Server):
    """uvicorn with our application, one line when ready, and a prompt end."""

    def __init__(
        self, engines: Mapping[str, engine_lib.Engine], queue_limit: int
    ) -> None:
        self.jobs = worker.Worker(queue_limit)
        self._names = [
            one for name, engine in engines.items() for one in (name, *engine.adapters)
        ]
        super().__init__(
            uvicorn.Config(
                app_lib.create(engines, self.jobs),
                log_level='warning',
                server_header=False,
                timeout_graceful_shutdown=10,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        host, port = sockets[0].getsockname()[:2]
        host = f'[{host}]' if ':' in host else host
        print(f'serving {", ".join(self._names)} at http://{host}:{port}', flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.jobs.stop()  # running answers end with an error, not with a cut
        await super().shutdown(sockets)
