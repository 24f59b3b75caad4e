"""Questions to a model behind an OpenAI-compatible endpoint, each asked once.

Every answer is a line of an append-only file, under the digest of its request: a run
that is killed, or that is run again, asks nothing twice.
"""

from collections.abc import Sequence
import concurrent.futures
import hashlib
import http.client
import json
import os
from pathlib import Path
import threading
import time
from typing import Any
import urllib.error
import urllib.request

from gptjax import command
from gptjax.text import chat

_LATER = (408, 409, 429, 500, 502, 503, 504)  # worth another try
_REFUSED = (400, 413, 422)  # this request, whatever the others

Prompt = Sequence[chat.Message]


class Endpoint:
    """POST {base_url}/chat/completions, with the answers kept in the file `ledger`.

    key_variable: the environment variable that holds the API key, if it takes one.
    temperature, max_tokens: of each answer. timeout: seconds. retries: of a request
    that the server cannot answer now, after 1, 2, 4, ... times `wait` seconds.
    at_once: requests that are under way together.
    """

    def __init__(
        self,
        ledger: Path,
        *,
        base_url: str,
        model: str,
        key_variable: str | None,
        temperature: float,
        max_tokens: int,
        timeout: float,
        retries: int,
        wait: float,
        at_once: int,
    ):
        if not base_url.startswith(('http://', 'https://')) or at_once < 1:
            raise command.UserError(
                f'endpoint has base_url={base_url!r} and at_once={at_once}; it needs '
                'an address such as http://127.0.0.1:8000/v1, and at least 1.'
            )
        key = os.environ.get(key_variable) if key_variable else None
        if key_variable and not key:
            raise command.UserError(
                f'endpoint.key_variable is {key_variable!r}, which is not set; put the '
                'API key into that environment variable, or set it to None.'
            )
        self.model = model
        self.at_once = at_once
        self._key = key
        self._url = base_url.rstrip('/') + '/chat/completions'
        self._body = dict(model=model, temperature=temperature, max_tokens=max_tokens)
        self._timeout, self._retries, self._wait = timeout, retries, wait
        self._ledger = ledger
        self._lock = threading.Lock()
        self._known = _read(ledger)

    def ask(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[str | None]:
        """The answers, in order; None where the endpoint refuses a request.

        Equal prompts with other seeds are other requests. Raises UserError where the
        endpoint cannot be reached, or answers what is no completion.
        """
        asked = [
            {**self._body, 'messages': list(prompt), 'seed': seed}
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        digests = [_digest(body) for body in asked]
        new = {
            d: b for d, b in zip(digests, asked, strict=True) if d not in self._known
        }
        with concurrent.futures.ThreadPoolExecutor(self.at_once) as pool:
            futures = [pool.submit(self._answer, d, body) for d, body in new.items()]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [self._known[digest] for digest in digests]

    def _answer(self, digest: str, body: dict[str, Any]) -> None:
        answer = self._post(json.dumps(body).encode())
        line = json.dumps({'digest': digest, 'model': self.model, 'answer': answer})
        with self._lock:
            self._known[digest] = answer
            with self._ledger.open('a', encoding='utf-8') as file:
                file.write(line + '\n')

    def _post(self, body: bytes) -> str | None:
        for attempt in range(self._retries + 1):
            request = urllib.request.Request(self._url, body, method='POST')
            request.add_header('Content-Type', 'application/json')
            if self._key:  # not for another address that this one may name
                request.add_unredirected_header('Authorization', f'Bearer {self._key}')
            why = ''
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                    return self._content(answer.read())
            except urllib.error.HTTPError as error:
                why = f'{error.code}: {error.read(500).decode(errors="replace")}'
                if error.code in _REFUSED:
                    return None
                if error.code not in _LATER:
                    break
            except (OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
            if attempt < self._retries:
                time.sleep(self._wait * 2**attempt)
        raise command.UserError(
            f'{self._url} cannot answer ({why}); the answers so far are in '
            f'{self._ledger}, and the same command goes on from there.'
        )

    def _content(self, answer: bytes) -> str:
        try:
            content = json.loads(answer)['choices'][0]['message']['content']
            if isinstance(content, str):
                return content
        except (ValueError, KeyError, IndexError, TypeError):
            pass
        raise command.UserError(
            f'{self._url} answers {answer[:200]!r}, which is no chat completion; check '
            'endpoint.base_url.'
        )


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read(ledger: Path) -> dict[str, str | None]:
    """The answers in a file; a line that a kill cut off is cut out of it."""
    if not ledger.exists():
        return {}
    content = ledger.read_bytes()
    whole = content[: content.rfind(b'\n') + 1]
    if whole != content:
        with ledger.open('r+b') as file:
            file.truncate(len(whole))
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        return {line['digest']: line['answer'] for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise command.UserError(
            f'{ledger} is no file of answers ({error}); move it away.'
        ) from None
