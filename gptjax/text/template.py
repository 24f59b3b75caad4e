"""Chat templates in Jinja, as models of others carry them, rendered at arm's length.

A template is a program of a stranger. It runs in Jinja's immutable sandbox, in a
process of its own (`renderer.py`), with bounds on its size, what it writes, its
processor time and its memory. It can spend these and no more: a fault is a UserError.
"""

import atexit
from collections.abc import Mapping, Sequence
import contextlib
import itertools
import json
import os
from pathlib import Path
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from gptjax import command
from gptjax.text import tokenizer

TEMPLATE_BYTES = 64 << 10
TEXT_CHARACTERS = 4 << 20
SECONDS = 2.0  # of processor time
# On a machine that is busy, 2 s of processor time may take a while.
WAIT_SECONDS = 60.0
# Unicode keeps 32 characters for inside use, so that texts have reason for none.
INSIDE = [chr(code) for code in range(0xFDD0, 0xFDF0)]

# Our own format: gptjax/text/chat.py says what it is.
OURS = """\
{{- '<|endoftext|>' }}
{%- set system = messages[0]['role'] == 'system' %}
{%- if tools %}
    {{- '<|system|>' }}
    {%- if system and messages[0]['content'] %}
        {{- messages[0]['content'] + '\\n\\n' }}
    {%- endif %}
    {{- '<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '\\n</tools><|end|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|assistant|>' }}
        {%- generation %}
        {{- message['content'] or '' }}
        {%- for call in message['tool_calls'] or [] %}
            {%- if message['content'] or not loop.first %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": ' + (call['function']['name'] | tojson) }}
            {{- ', "arguments": ' + (call['function']['arguments'] | tojson) }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|end|>' }}
        {%- endgeneration %}
    {%- elif message['role'] == 'tool' %}
        {{- '<|user|><tool_response>\\n' + message['content'] }}
        {{- '\\n</tool_response><|end|>' }}
    {%- elif not (tools and system and loop.first) %}
        {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""


def render(
    source: str,
    messages: Sequence[Mapping[str, Any]],
    words: Mapping[str, str],
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation, and the stretches of it that `generation` blocks are.

    words: what the template calls the control tokens: {'bos_token': '<s>'}.
    tools: JSON schemas of what the assistant may call.

    Raises UserError for a template that is too long, wrong, refuses the conversation
    or goes beyond its bounds.
    """
    size = len(source.encode('utf-8', 'replace'))
    if size > TEMPLATE_BYTES:
        raise command.UserError(
            f'the chat template has {size} bytes; at most {TEMPLATE_BYTES} are run.'
        )
    marks = unused([source, *strings(messages), *strings(tools)], 2)
    request = {
        'template': source,
        'marks': marks,
        'limit': TEXT_CHARACTERS,
        'seconds': SECONDS,
        'names': {
            **words,
            'messages': list(messages),
            'add_generation_prompt': add_generation_prompt,
            'tools': tools,
            'documents': None,
        },
    }
    answer = RENDERER.ask(request)
    if 'fault' in answer:
        raise command.UserError(
            f'the chat template cannot be rendered: {answer["fault"]}; mend it, or '
            f'leave it out.'
        )
    return _stretches(answer['text'], marks)


def unused(texts: Sequence[str], count: int) -> list[str]:
    """`count` characters that no text holds, to mark places with."""
    free = (c for c in INSIDE if all(c not in text for text in texts))
    found = list(itertools.islice(free, count))
    if len(found) < count:
        raise command.UserError(
            'the conversation holds all 32 characters U+FDD0 to U+FDEF, which Unicode '
            'keeps out of texts; remove them.'
        )
    return found


def strings(value: Any) -> list[str]:
    """All strings in JSON, keys of objects too."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return [text for one in value for text in strings(one)]
    return []


def _stretches(marked: str, marks: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The text without its marks, and where it stood between them."""
    begin, end = marks
    parts: list[str] = []
    found: list[tuple[int, int]] = []
    size, opened = 0, None
    for part in tokenizer.cut(marked, marks):
        if part == begin:
            opened = size
        elif part != end:
            parts.append(part)
            size += len(part)
        elif opened is not None:
            found.append((opened, size))
            opened = None
    return ''.join(parts), found


class Renderer:
    """The process that renders, started when first asked and again after each death."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # a fork of this process shall not share its pipes

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of the process, or {'fault': ...} where it died of the request."""
        line = json.dumps(request).encode() + b'\n'
        with self._lock:
            process = self._started()
            answer = _exchange(process, line)
            if answer is not None:
                told = dict(json.loads(answer))
                if 'fault' in told:
                    self.close()  # and with it what the template may hold on to
                return told
            process.kill()
            code = process.wait()
            self.close()
        if code == -signal.SIGPROF:
            return {'fault': f'it takes more than {SECONDS:g} s of processor time'}
        return {'fault': f'its process died (exit code {code})'}

    def close(self) -> None:
        """Ends the process, if there is one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid():
            # -I: this folder has modules named like others that are imported.
            self._process = subprocess.Popen(
                [sys.executable, '-I', str(Path(__file__).with_name('renderer.py'))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for this process alone
            )
            self._owner = os.getpid()
        return self._process


def _exchange(process: subprocess.Popen[bytes], line: bytes) -> bytes | None:
    """The line that the process answers with; None where it died or was too slow."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
    except BrokenPipeError:
        return None
    deadline = time.monotonic() + WAIT_SECONDS
    answer = b''
    while not answer.endswith(b'\n'):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            return None
        part = os.read(process.stdout.fileno(), 1 << 16)
        if not part:
            return None
        answer += part
    return answer


RENDERER = Renderer()
atexit.register(RENDERER.close)
