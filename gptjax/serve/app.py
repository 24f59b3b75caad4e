"""The application: routes, the shape of errors, the page and its security headers."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
import contextlib
import hashlib
from pathlib import Path
import re
import secrets

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptjax.generate import engine as engine_lib
from gptjax.serve import api as api_lib
from gptjax.serve import schema, worker


def create(engines: Mapping[str, engine_lib.Engine], jobs: worker.Worker) -> ASGIApp:
    """The application that serves `engines` by name; it starts and stops `jobs`."""
    api = api_lib.Api(engines, jobs)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        jobs.start()
        yield
        jobs.stop()

    routes = [Route('/', _page()), Route('/health', api.health)]
    for prefix in ('/v1', ''):
        routes += [
            Route(f'{prefix}/models', api.models),
            Route(f'{prefix}/models/{{name}}', api.model),
            Route(f'{prefix}/completions', api.completions, methods=['POST']),
            Route(f'{prefix}/chat/completions', api.chat_completions, methods=['POST']),
        ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            schema.ApiError: _api_error,
            HTTPException: _http_error,
            Exception: _unforeseen,
        },
    )
    app.router.redirect_slashes = False
    return _Headers(app)


def _page() -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of the chat page, which may run its own script and fetch from us."""
    page = (Path(__file__).parent / 'page.html').read_text('utf-8')
    policy = '; '.join(
        [
            "default-src 'none'",
            f'script-src {_hashes(page, "script")}',
            f'style-src {_hashes(page, "style")}',
            "connect-src 'self'",
            'img-src data:',
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    headers = {
        'content-security-policy': policy,
        'referrer-policy': 'no-referrer',
        'cache-control': 'no-cache',
    }

    async def endpoint(request: Request) -> Response:
        return HTMLResponse(page, headers=headers)

    return endpoint


def _hashes(page: str, tag: str) -> str:
    parts = re.findall(f'<{tag}>(.*?)</{tag}>', page, re.DOTALL)
    digests = [hashlib.sha256(part.encode()).digest() for part in parts]
    return ' '.join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, schema.ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        said = f'there is nothing at {request.url.path[:200]}; see /v1/models.'
    elif error.status_code == 405:
        said = f'{request.url.path} does not take {request.method[:20]}.'
    else:
        said = error.detail
    headers = dict(error.headers or {})
    return JSONResponse(
        schema.ApiError(error.status_code, said).body, error.status_code, headers
    )


async def _unforeseen(request: Request, error: Exception) -> Response:
    failure = schema.ApiError(500, 'the server failed; its log says why.')
    return JSONResponse(failure.body, 500, {'x-should-retry': 'false'})


class _Headers:
    """Puts `x-request-id` and `nosniff` on every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message['type'] == 'http.response.start':
                headers = MutableHeaders(scope=message)
                headers['x-request-id'] = f'req_{secrets.token_hex(12)}'
                headers['x-content-type-options'] = 'nosniff'
            await send(message)

        await self._app(scope, receive, send_with_headers)
