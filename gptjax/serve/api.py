"""The endpoints: a request is checked, queued, and its pieces become an answer."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
import json
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from gptjax import command
from gptjax.generate import engine as engine_lib
from gptjax.serve import schema, worker
from gptjax.text import chat

MAX_BODY = 2_000_000  # bytes
DEFAULT_MAX_TOKENS = (
    16  # of /v1/completions, as OpenAI has it; a chat fills its context
)


class Api:
    """The models by name, adapters among them, and the worker that runs them."""

    def __init__(
        self, engines: Mapping[str, engine_lib.Engine], jobs: worker.Worker
    ) -> None:
        self.jobs = jobs
        self._engines = dict(engines)
        self._bases: dict[str, str] = {}  # of adapters: the names of their models
        for name, engine in engines.items():
            self._engines |= dict.fromkeys(engine.adapters, engine)
            self._bases |= dict.fromkeys(engine.adapters, name)
        self._created = int(time.time())

    async def health(self, request: Request) -> Response:
        if not self.jobs.alive:
            raise schema.ApiError(503, 'the engine is not running.')
        return JSONResponse({'status': 'ok'})

    async def models(self, request: Request) -> Response:
        listed = [self._model(name) for name in self._engines]
        return JSONResponse({'object': 'list', 'data': listed})

    async def model(self, request: Request) -> Response:
        name = request.path_params['name']
        self._engine(name)
        return JSONResponse(self._model(name))

    async def completions(self, request: Request) -> Response:
        asked = schema.parse(schema.CompletionRequest, await _body(request))
        engine = self._engine(asked.model)
        prompts = asked.prompt if isinstance(asked.prompt, list) else [asked.prompt]
        settings = self._settings(asked)
        settings['max_tokens'] = asked.max_tokens or DEFAULT_MAX_TOKENS
        # Tokenizing megabytes takes a while; other connections must not wait for it.
        documents = await asyncio.to_thread(lambda: [*map(engine.document, prompts)])
        wanted = [engine_lib.Request(tokens, **settings) for tokens in documents]
        answer = schema.Answer(chat=False, model=asked.model)
        return await self._answer(request, asked, engine, wanted, answer)

    async def chat_completions(self, request: Request) -> Response:
        asked = schema.parse(schema.ChatRequest, await _body(request))
        engine = self._engine(asked.model)
        messages = [message.plain() for message in asked.messages]
        limit = asked.max_completion_tokens or asked.max_tokens or engine.context
        try:
            prompt = await asyncio.to_thread(chat.prompt, engine.tokenizer, messages)
        except command.UserError as error:
            raise schema.ApiError(400, str(error), 'messages') from None
        settings = self._settings(asked)
        wanted = engine_lib.Request(tuple(prompt), max_tokens=limit, **settings)
        answer = schema.Answer(chat=True, model=asked.model)
        return await self._answer(request, asked, engine, [wanted], answer)

    def _model(self, name: str) -> schema.Object:
        return {
            'id': name,
            'object': 'model',
            'created': self._created,
            'owned_by': 'gptjax',
            'context_length': self._engines[name].context,
            **({'parent': self._bases[name]} if name in self._bases else {}),
        }

    def _settings(self, asked: schema.Sampling) -> dict[str, Any]:
        """Fields of `Request`: those that were asked for, and the adapter."""
        adapter = asked.model if asked.model in self._bases else None
        return {**asked.settings(), 'adapter': adapter}

    def _engine(self, name: str) -> engine_lib.Engine:
        if name not in self._engines:
            raise schema.unknown_model(name, list(self._engines))
        return self._engines[name]

    async def _answer(
        self,
        request: Request,
        asked: schema.Sampling,
        engine: engine_lib.Engine,
        wanted: Sequence[engine_lib.Request],
        answer: schema.Answer,
    ) -> Response:
        param = 'messages' if answer.chat else 'prompt'
        try:
            for one in wanted:
                engine.check(one)
        except engine_lib.PromptTooLong as error:
            raise schema.ApiError(
                400, str(error), param, 'context_length_exceeded'
            ) from None
        except command.UserError as error:
            raise schema.ApiError(400, str(error), param) from None
        job = worker.Job(engine, wanted)
        try:
            self.jobs.submit(job)
        except worker.Busy:
            raise schema.ApiError(
                429,
                f'{self.jobs.queue_limit} requests wait already; try again soon.',
                code='queue_full',
                retry_after='1',
            ) from None
        except worker.Stopping as error:
            raise _failure(error) from None
        if asked.stream:
            options = asked.stream_options
            return _EventStream(job, answer, bool(options and options.include_usage))
        return await _whole(request, job, answer)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise schema.ApiError(
                413, f'the body is longer than {MAX_BODY} bytes; send less.'
            )
    return bytes(body)


def _failure(error: Exception) -> schema.ApiError:
    """A failure of ours; trying again would not help, and a client must not."""
    if isinstance(error, worker.Stopping):
        return schema.ApiError(503, 'the server is shutting down.')
    return schema.ApiError(
        500, 'the generation failed; the log of the server says why.',
        code='generation_failed', x_should_retry='false',
    )  # fmt: skip


async def _whole(request: Request, job: worker.Job, answer: schema.Answer) -> Response:
    """The answer in one body, given up when the client goes away."""
    collecting = asyncio.create_task(_collect(job, answer))
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            return Response(status_code=499)  # nobody reads it
        return JSONResponse(collecting.result())
    except Exception as error:
        raise _failure(error) from error
    finally:
        job.cancel()
        collecting.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())['type'] != 'http.disconnect':
        pass


async def _collect(job: worker.Job, answer: schema.Answer) -> schema.Object:
    texts = [''] * len(job.requests)
    reasons: list[str | None] = [None] * len(job.requests)
    tokens = 0
    async for index, piece in job.pieces():
        texts[index] += piece.text
        reasons[index] = piece.finish_reason
        tokens += len(piece.tokens)
    return answer.whole(texts, reasons, schema.usage(_prompt_tokens(job), tokens))


def _prompt_tokens(job: worker.Job) -> int:
    return sum(len(request.prompt) for request in job.requests)


class _EventStream(StreamingResponse):
    """The answer as server-sent events; however it ends, the job ends too."""

    def __init__(self, job: worker.Job, answer: schema.Answer, usage: bool) -> None:
        events = _events(job, answer, usage)
        headers = {'cache-control': 'no-store', 'x-accel-buffering': 'no'}
        super().__init__(events, headers=headers, media_type='text/event-stream')
        self._job = job

    async def __call__(self, *asgi: Any) -> None:
        try:
            await super().__call__(*asgi)
        finally:
            self._job.cancel()


async def _events(
    job: worker.Job, answer: schema.Answer, usage: bool
) -> AsyncIterator[str]:
    tokens = 0
    for chunk in answer.opening():
        yield _event(chunk)
    try:
        async for index, piece in job.pieces():
            tokens += len(piece.tokens)
            for chunk in answer.part(index, piece.text, piece.finish_reason):
                yield _event(chunk)
        if usage:
            yield _event(answer.closing(schema.usage(_prompt_tokens(job), tokens)))
    except Exception as error:
        yield _event(_failure(error).body)
    yield 'data: [DONE]\n\n'


def _event(data: schema.Object) -> str:
    return f'data: {json.dumps(data)}\n\n'  # ASCII: some clients split at U+2028
