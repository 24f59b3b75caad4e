"""A WARC file that grows by whole gzip members, and gets its name at the end."""

import base64
from collections.abc import Iterator, Mapping
import fcntl
import gzip
import hashlib
import os
from pathlib import Path
import shutil
from typing import NamedTuple
import uuid
import zlib

from gptjax import command
from gptjax.data.origin import web

_HEADS = 1 << 17  # bytes of a record that are looked at: its headers
# Fields of ours: what led to the page (another address, where that was redirected),
# 'none' for each page that is written, and in a metadata record why there is no page.
ASKED, OPT_OUT, OUTCOME = 'X-Requested-URI', 'X-Opt-Out', 'X-Outcome'


class Member(NamedTuple):
    """A record: its places in the file, its fields, and those of HTTP in it."""

    start: int
    end: int
    fields: Mapping[str, str]
    http: Mapping[str, str]

    @property
    def asked(self) -> str:
        target = self.fields.get('warc-target-uri', '')
        return self.fields.get(ASKED.lower(), target)

    @property
    def outcome(self) -> str | None:
        """'written' for a page, a reason for the lack of one, None for the rest."""
        page = self.fields.get('warc-type') == 'response'
        return 'written' if page else self.fields.get(OUTCOME.lower())


def members(path: Path) -> Iterator[Member]:
    """The whole gzip members of a WARC file, up to the first that is torn."""
    with path.open('rb') as file:
        start = 0
        while True:
            file.seek(start)
            inflate, head = zlib.decompressobj(31), b''
            while not inflate.eof:
                block = file.read(1 << 16)
                try:
                    head = (head + inflate.decompress(block))[:_HEADS]
                except zlib.error:
                    return
                if not block:
                    return
            end = file.tell() - len(inflate.unused_data)
            fields, http, _ = (head + b'\r\n\r\n\r\n\r\n').split(b'\r\n\r\n', 2)
            yield Member(start, end, _fields(fields), _fields(http))
            start = end


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode('utf-8', 'replace').split('\n')
    parts = (line.partition(':') for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in parts}


class Archive:
    """Pages written to FILE.partial, which becomes FILE by `finish`.

    done: by address, what the file already holds of it: 'written' or a reason. A run
    that was killed goes on there, and a finished file can be added to.
    Raises UserError for another kind of file, or where another process writes it.
    """

    def __init__(self, path: Path) -> None:
        if not path.name.endswith('.warc.gz'):
            raise command.UserError(f'output is {path}; name it FILE.warc.gz.')
        self._path, self._partial = path, path.with_name(path.name + '.partial')
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not self._partial.exists():
            last = max((m.end for m in members(path) if m.outcome), default=0)
            if last != path.stat().st_size:
                raise command.UserError(
                    f'output is {path}, which was not written by this; name another.'
                )
            copy = path.with_name(path.name + '.copy')
            shutil.copyfile(path, copy)
            os.replace(copy, self._partial)
        self._file = self._partial.open('ab')
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise command.UserError(f'another process writes {path}.') from None
        self.done: dict[str, str] = {}
        end = 0
        for member in members(self._partial):
            if member.outcome is not None:
                self.done[member.asked], end = member.outcome, member.end
        self._file.truncate(end)  # what a kill left of the last page

    def add(
        self,
        asked: str,
        date: str,
        told: Mapping[str, str],
        *,
        answer: web.Answer | None = None,
        raw: bytes = b'',
        reason: str | None = None,
    ) -> None:
        """Writes a metadata record that tells of an address, then its page if any.

        date: RFC 3339. answer: the page. raw: the record of it in an earlier file.
        reason: why there is neither.
        """
        fields = {'WARC-Date': date, ASKED: asked}
        url = asked if answer is None else answer.url
        outcome = {OUTCOME: reason} if reason else {}
        content = _record(url, 'metadata', fields | outcome, _lines(told))
        if answer is not None:
            path = url.partition('://')[2].partition('/')[2]
            head = f'GET /{path} HTTP/1.1\r\n'.encode() + _lines(answer.request)
            content += _record(url, 'request', fields, head + b'\r\n')
            fields[OPT_OUT] = 'none'
            content += _record(url, 'response', fields, _response(answer))
        self._file.write(content + raw)
        self._file.flush()
        self.done[asked] = reason or 'written'

    def finish(self) -> None:
        """Gives the file its name."""
        os.fsync(self._file.fileno())
        os.replace(self._partial, self._path)

    def close(self) -> None:
        self._file.close()


def _record(url: str, kind: str, fields: Mapping[str, str], block: bytes) -> bytes:
    """A record of WARC 1.1 (ISO 28500:2017) as a gzip member."""
    digest = base64.b32encode(hashlib.sha1(block).digest()).decode()
    media = f'application/http; msgtype={kind}'
    if kind == 'metadata':
        media = 'application/warc-fields'
    head = {
        'WARC-Type': kind,
        'WARC-Record-ID': f'<{uuid.uuid4().urn}>',
        'WARC-Target-URI': url,
        **fields,
        'Content-Type': media,
        'WARC-Block-Digest': f'sha1:{digest}',
        'Content-Length': str(len(block)),
    }
    record = b'WARC/1.1\r\n' + _lines(head) + b'\r\n' + block + b'\r\n\r\n'
    return gzip.compress(record)


def _response(answer: web.Answer) -> bytes:
    """The response with headers that fit its body as it is stored: in one piece."""
    renamed = ('transfer-encoding', 'content-length')
    lines = [f'HTTP/1.1 {answer.status} {answer.phrase}']
    for name, value in answer.headers:
        prefix = 'X-Crawler-' if name.lower() in renamed else ''
        lines.append(f'{prefix}{name}: {value}')
    lines.append(f'Content-Length: {len(answer.body)}\r\n\r\n')
    return '\r\n'.join(lines).encode('latin-1', 'replace') + answer.body


def _lines(fields: Mapping[str, str]) -> bytes:
    return ''.join(f'{name}: {value}\r\n' for name, value in fields.items()).encode()
