"""What requests may say and how answers look: the OpenAI completions interface.

Types are strict, fields that nobody knows are let through, and what this server does
not do is refused by name when it is asked for, never ignored.
"""

from collections.abc import Iterator
import secrets
import time
from typing import Annotated, Any, Literal

import pydantic

from gptjax import command
from gptjax.text import chat

MAX_MESSAGES = 512
MAX_PROMPTS = 32
MAX_STOPS = 16

Object = dict[str, Any]
Text = Annotated[str, pydantic.Field(min_length=1, max_length=1024)]

# What we do not do, with the values that ask for nothing.
NOT_DONE: dict[str, tuple[Any, ...]] = {
    'audio': (),
    'best_of': (1,),
    'echo': (False,),
    'frequency_penalty': (0, 0.0),
    'function_call': ('none', 'auto'),
    'functions': ([],),
    'guided_json': (),
    'guided_regex': (),
    'ignore_eos': (False,),
    'logit_bias': ({},),
    'logprobs': (False,),
    'min_p': (0, 0.0),
    'min_tokens': (0,),
    'modalities': (['text'],),
    'n': (1,),
    'prediction': (),
    'presence_penalty': (0, 0.0),
    'prompt_logprobs': (),
    'repetition_penalty': (1, 1.0),
    'response_format': ({'type': 'text'},),
    'structured_outputs': (),
    'suffix': ('',),
    'tool_calls': ([],),
    'tool_choice': ('none', 'auto'),
    'tools': ([],),
    'top_logprobs': (0,),
    'web_search_options': (),
}


class ApiError(Exception):
    """An answer other than success, in the shape that OpenAI clients read."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        **headers: str,
    ) -> None:
        super().__init__(message)
        self.status = status
        kind = 'server_error' if status >= 500 else 'invalid_request_error'
        kind = 'rate_limit_error' if status == 429 else kind
        self.body = {
            'error': {'message': message, 'type': kind, 'param': param, 'code': code}
        }
        self.headers = {name.replace('_', '-'): text for name, text in headers.items()}


class StreamOptions(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra='allow')

    include_usage: bool = False


class Sampling(pydantic.BaseModel):
    """What both kinds of completion share."""

    model_config = pydantic.ConfigDict(strict=True, extra='allow')

    model: str
    temperature: float | None = pydantic.Field(None, ge=0, le=2)
    top_p: float | None = pydantic.Field(None, ge=0, le=1)
    top_k: int | None = pydantic.Field(None, ge=-1, le=1_000_000)  # not in OpenAI's
    max_tokens: int | None = pydantic.Field(None, ge=1)
    seed: int | None = pydantic.Field(None, ge=-(2**63), lt=2**63)
    stop: Text | Annotated[list[Text], pydantic.Field(max_length=MAX_STOPS)] | None = (
        None
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def settings(self) -> Object:
        """The fields of `engine.Request`, the prompt and max_tokens aside.

        Without a seed each request has one of its own.
        """
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return {
            'temperature': 1.0 if self.temperature is None else self.temperature,
            'top_p': 1.0 if self.top_p is None else self.top_p,
            'top_k': max(0, self.top_k or 0),
            'seed': secrets.randbits(63) if self.seed is None else self.seed,
            'stop': stop,
        }


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: (
        str | Annotated[list[str], pydantic.Field(min_length=1, max_length=MAX_PROMPTS)]
    )


class TextPart(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra='forbid')

    type: Literal['text']
    text: str


class Message(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra='allow')

    role: Literal['system', 'developer', 'user', 'assistant']
    content: str | list[TextPart]

    def plain(self) -> chat.Message:
        """The message as `text.chat` has it; OpenAI's 'developer' is the system."""
        content = self.content
        if not isinstance(content, str):
            content = ''.join(part.text for part in content)
        role = 'system' if self.role == 'developer' else self.role
        return {'role': role, 'content': content}


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: list[Message] = pydantic.Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = pydantic.Field(None, ge=1)


def parse(kind: type[Sampling], body: bytes) -> Any:
    """The request in a body of JSON, of that kind; raises ApiError (400)."""
    try:
        request = kind.model_validate_json(body)
    except pydantic.ValidationError as error:
        raise _refusal(error) from None
    _refuse_not_done(request, '')
    messages = request.messages if isinstance(request, ChatRequest) else []
    for i, message in enumerate(messages):
        _refuse_not_done(message, f'messages.{i}.')
    if request.stream_options is not None and not request.stream:
        raise ApiError(
            400,
            'stream_options is given without "stream": true; set it, or leave '
            'stream_options out.',
            param='stream_options',
        )
    return request


def _refuse_not_done(asked: pydantic.BaseModel, place: str) -> None:
    for name, value in (asked.model_extra or {}).items():
        if name not in NOT_DONE or value is None:
            continue
        if not any(value == no and type(value) is type(no) for no in NOT_DONE[name]):
            raise ApiError(
                400,
                f'{place}{name} is {_short(value)}, which this server does not do; '
                f'leave {name} out.',
                param=place + name,
                code='unsupported_parameter',
            )


def _refusal(error: pydantic.ValidationError) -> ApiError:
    """The first complaint in words, with the path of the field.

    A field of several types brings a complaint for each: the deepest says most.
    """
    complaints = error.errors(include_url=False, include_context=False)
    field = complaints[0]['loc'][:1]
    worst = max(
        (complaint for complaint in complaints if complaint['loc'][:1] == field),
        key=lambda complaint: len(complaint['loc']),
    )
    if worst['type'] == 'json_invalid':
        return ApiError(400, f'the body is not JSON: {worst["msg"]}.')
    path = [str(part) for part in worst['loc'] if part in _FIELDS or type(part) is int]
    param = '.'.join(path) or None
    if worst['type'] == 'missing':
        return ApiError(400, f'{param} is missing.', param)
    said = f'{param or "the body"}: {worst["msg"]}; got {_short(worst["input"])}.'
    return ApiError(400, said, param)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + '...'


# The parts of a path that are fields; pydantic puts names of types between them.
_FIELDS = {
    name
    for kind in (CompletionRequest, ChatRequest, Message, TextPart, StreamOptions)
    for name in kind.model_fields
}


def unknown_model(name: str, known: list[str]) -> ApiError:
    """404, with the nearest name that there is."""
    return ApiError(
        404,
        f'there is no model {_short(name)}; {command.did_you_mean(name[:60], known)}',
        param='model',
        code='model_not_found',
    )


def usage(prompt_tokens: int, completion_tokens: int) -> Object:
    return {
        'prompt_tokens': prompt_tokens,
        'completion_tokens': completion_tokens,
        'total_tokens': prompt_tokens + completion_tokens,
    }


class Answer:
    """The shapes of one answer: whole, or in chunks with the same id."""

    def __init__(self, chat: bool, model: str) -> None:
        self.chat = chat
        prefix = 'chatcmpl-' if chat else 'cmpl-'
        self._head = {
            'id': prefix + secrets.token_hex(12),
            'created': int(time.time()),
            'model': model,
        }

    def whole(
        self, texts: list[str], reasons: list[str | None], usage: Object
    ) -> Object:
        choices = []
        for index, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
            choice: Object = {'index': index, 'finish_reason': reason, 'logprobs': None}
            if self.chat:
                choice['message'] = {
                    'role': 'assistant',
                    'content': text,
                    'refusal': None,
                }
            else:
                choice['text'] = text
            choices.append(choice)
        kind = 'chat.completion' if self.chat else 'text_completion'
        return {**self._head, 'object': kind, 'choices': choices, 'usage': usage}

    def opening(self) -> Iterator[Object]:
        """The chunk that comes before any text: a chat says who speaks."""
        if self.chat:
            yield self._chunk(0, {'role': 'assistant', 'content': ''}, None)

    def part(self, index: int, text: str, reason: str | None) -> Iterator[Object]:
        """The chunks of a piece; the reason of the end is in one without content."""
        if text:
            yield self._chunk(index, {'content': text} if self.chat else text, None)
        if reason is not None:
            yield self._chunk(index, {} if self.chat else '', reason)

    def closing(self, usage: Object) -> Object:
        """The chunk of `stream_options.include_usage`."""
        return {**self._chunk(0, {}, None), 'choices': [], 'usage': usage}

    def _chunk(self, index: int, said: Any, reason: str | None) -> Object:
        choice = {'index': index, 'finish_reason': reason, 'logprobs': None}
        choice['delta' if self.chat else 'text'] = said
        kind = 'chat.completion.chunk' if self.chat else 'text_completion'
        return {**self._head, 'object': kind, 'choices': [choice]}
