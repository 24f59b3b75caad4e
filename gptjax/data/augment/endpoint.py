"""Questions to a model behind an OpenAI-compatible endpoint, each asked once.

Every answer is a line of an append-only file, under the digest of its request: a run
that is killed, or that is run again, asks nothing twice.
"""

from collections.abc import Sequence
import concurrent.futures
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
from gptjax.data import storage
from gptjax.data.origin import web

_LATER = (408, 409, 429, 500, 502, 503, 504)  # worth another try
_REFUSED = (400, 413, 422)  # this request, whatever the others
_MOST = 1 << 24  # bytes of an answer


class Endpoint:
    """POST {base_url}/chat/completions, with the answers kept in the file `ledger`.

    key_variable: the environment variable that holds the API key, if it takes one.
    timeout: seconds until an answer begins, and until it ends. retries: of a request
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
        address = web.normal(base_url)
        if address is None:
            raise command.UserError(
                f'endpoint.base_url is {base_url!r}; it needs to be an address such as '
                'http://127.0.0.1:8000/v1, without a name and password.'
            )
        if at_once < 1 or timeout <= 0 or min(retries, wait) < 0:
            raise command.UserError(
                f'endpoint has at_once={at_once}, timeout={timeout}, retries={retries} '
                f'and wait={wait}; the first two are above 0, the others at least 0.'
            )
        key = os.environ.get(key_variable, '') if key_variable else ''
        if key_variable and not (key and key.isascii() and key.isprintable()):
            raise command.UserError(
                f'endpoint.key_variable is {key_variable!r}, which is not set, or to '
                'more than one line of ASCII; put the API key into that environment '
                'variable, or set it to None.'
            )
        self.model = model
        self.at_once = at_once
        self._key = key
        self._url = address.rstrip('/') + '/chat/completions'
        self._body = dict(model=model, temperature=temperature, max_tokens=max_tokens)
        self._timeout, self._retries, self._wait = timeout, retries, wait
        self._ledger = ledger
        self._lock = threading.Lock()
        self._known = _read(ledger)

    def ask(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[str | None]:
        """The answers to what a user asks; None where the endpoint refuses or has none.

        Equal prompts with other seeds are other requests. Raises UserError where the
        endpoint cannot be reached, or answers what is no completion.
        """
        asked = [
            {
                **self._body,
                'messages': [{'role': 'user', 'content': prompt}],
                'seed': seed,
            }
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        digests = [storage.json_digest(body) for body in asked]
        both = zip(digests, asked, strict=True)
        new = {digest: body for digest, body in both if digest not in self._known}
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
        why = ''
        for attempt in range(self._retries + 1):
            time.sleep(self._wait * 2 ** (attempt - 1) if attempt else 0)
            request = urllib.request.Request(self._url, body, method='POST')
            request.add_header('Content-Type', 'application/json')
            if self._key:  # not for another address that this one may name
                request.add_unredirected_header('Authorization', f'Bearer {self._key}')
            try:
                code, answer = self._sent(request)
            except (OSError, http.client.HTTPException) as error:
                why = self._shown(str(error)) or type(error).__name__
                continue
            if code == 200:
                return self._content(answer)
            if code in _REFUSED:
                return None
            why = f'{code}: {self._shown(answer.decode(errors="replace"))}'
            if code not in _LATER:
                break
        raise command.UserError(
            f'{self._url} cannot answer ({why}); the answers so far are in '
            f'{self._ledger}, and the same command goes on from there.'
        )

    def _sent(self, request: urllib.request.Request) -> tuple[int, bytes]:
        """(status, body) of the response, which has an end."""
        try:
            answer = urllib.request.urlopen(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            answer = error
        body, until = bytearray(), time.monotonic() + self._timeout
        with answer:
            while block := answer.read1(1 << 16):
                body += block
                if len(body) > _MOST or time.monotonic() > until:
                    raise OSError(f'no end after {len(body)} bytes')
            if answer.length:
                raise http.client.IncompleteRead(bytes(body), answer.length)
            return answer.code, bytes(body)

    def _content(self, answer: bytes) -> str | None:
        """The text of a completion; None where the model gives none."""
        try:
            content = json.loads(answer)['choices'][0]['message']['content']
            if content is None:
                return None
            if isinstance(content, str):  # half a surrogate pair is no text
                return content.encode(errors='replace').decode()
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            pass
        raise command.UserError(
            f'{self._url} answers {self._shown(answer.decode(errors="replace"))!r}, '
            'which is no chat completion; check endpoint.base_url.'
        )

    def _shown(self, said: str) -> str:
        """How an answer begins, without the key, which some servers repeat."""
        return (said.replace(self._key, '[key]') if self._key else said)[:500]


def _read(ledger: Path) -> dict[str, str | None]:
    """The answers in a file."""
    try:
        return {line['digest']: line['answer'] for line in storage.read_lines(ledger)}
    except (ValueError, KeyError, TypeError) as error:
        raise command.UserError(
            f'{ledger} is no file of answers ({error}); move it away.'
        ) from None
