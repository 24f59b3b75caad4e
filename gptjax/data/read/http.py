"""A response as it was recorded: status, headers, and the page in it."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
import hashlib
import zlib

from gptjax.data import extras
from gptjax.data.read import item as item_lib

_HEADERS, _LINES = 1 << 20, 1000  # bytes and lines of headers that are looked at
_LENGTHS = frozenset('0123456789abcdefABCDEF')
_DIGESTS = ('md5', 'sha1', 'sha224', 'sha256', 'sha384', 'sha512')


@dataclass(frozen=True)
class Response:
    """status: 0 for what is no HTTP. headers: in lower case. body: as it was sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media(self) -> str:
        """'text/html', from the header; looked for in the body where it has none."""
        kind = self.headers.get('content-type', '').partition(';')[0]
        kind = kind.partition(',')[0].strip().lower()
        if kind == 'application/xhtml+xml':
            return 'text/html'
        start = self.body[:256].lstrip().lower()
        if not kind and start.startswith((b'<!doctype html', b'<html')):
            return 'text/html'
        return kind

    @property
    def charset(self) -> str | None:
        parts = self.headers.get('content-type', '').split(';')[1:]
        for part in parts:
            name, _, value = part.partition('=')
            if name.strip().lower() == 'charset':
                return value.strip(' \t\'"') or None
        return None


def parse(block: bytes) -> Response:
    """The response in a block of bytes."""
    ends = [(block.find(end, 0, _HEADERS), len(end)) for end in (b'\r\n\r\n', b'\n\n')]
    found = [(at, size) for at, size in ends if at >= 0]
    at, size = min(found, default=(min(len(block), _HEADERS), 0))
    first, *rest = block[:at].split(b'\n')
    parts = first.split(None, 2)
    status = 0
    if len(parts) > 1 and parts[0].startswith(b'HTTP/') and parts[1].isdigit():
        status = int(parts[1][:4])
    return Response(status, headers(rest), block[at + size :])


def complete(block: bytes) -> bool:
    """Whether a block that is cut off holds all that the response says it holds."""
    response = parse(block)
    told = length(response.headers)
    return told is not None and len(response.body) >= told


def length(headers: Mapping[str, str]) -> int | None:
    """What Content-Length says, if that is a number."""
    told = headers.get('content-length', '')
    return int(told) if told.isascii() and told.isdigit() and len(told) < 16 else None


def headers(lines: list[bytes]) -> dict[str, str]:
    """Headers by their names in lower case; those that come again are joined."""
    found: dict[str, str] = {}
    last = ''
    for line in lines[:_LINES]:
        text = line.decode('utf-8', 'replace').strip('\r\n')
        if text[:1] in (' ', '\t') and last:
            found[last] += f' {text.strip()}'
            continue
        name, colon, value = text.partition(':')
        last = name.strip().lower() if colon else ''
        if last:
            value = value.strip()
            found[last] = f'{found[last]}, {value}' if last in found else value
    return found


def payload(response: Response) -> bytes:
    """The page, out of its chunks and content encodings; `Broken` where that fails."""
    data = response.body
    if 'chunked' in response.headers.get('transfer-encoding', '').lower():
        data = unchunked(data)
    for name in reversed(response.headers.get('content-encoding', '').split(',')):
        data = _decompressed(data, name.strip().lower())
        if len(data) > item_lib.LIMIT:
            raise item_lib.Broken('too large')
    return data


def unchunked(data: bytes) -> bytes:
    """What is in the chunks: all bytes where the first is none, and else those before
    the first that is wrong, with what is left.
    """
    parts, at = [], 0
    while at < len(data):
        end = data.find(b'\n', at, at + 1024)
        size = data[at:end].partition(b';')[0].strip().decode('latin-1')
        if end < 0 or not size or len(size) > 8 or set(size) - _LENGTHS:
            parts.append(data[at:])
            break
        begin = end + 1
        at = begin + int(size, 16)
        parts.append(data[begin:at])
        if at == begin:
            break
        at += 2 if data[at : at + 2] == b'\r\n' else data[at : at + 1] == b'\n'
    return b''.join(parts)


def _decompressed(data: bytes, name: str) -> bytes:
    """No more than LIMIT + 1 bytes; `data` itself where it is not compressed."""
    name = name.removeprefix('x-')
    packed = {
        'gzip': data[:2] == b'\x1f\x8b', 'deflate': True, 'br': True,
        'zstd': data[:4] == b'\x28\xb5\x2f\xfd',
    }.get(name, False)  # fmt: skip
    if not packed:
        return data
    size = item_lib.LIMIT + 1
    try:
        if name == 'br':
            stream = extras.need('brotli', 'data').Decompressor()
            return stream.process(data, output_buffer_limit=size)
        if name == 'zstd':
            made = extras.need('zstandard', 'data').ZstdDecompressor()
            return made.stream_reader(data).read(size)
        plain = name == 'deflate' and data[:1] != b'\x78'  # as some servers send it
        return zlib.decompressobj(-15 if plain else 47).decompress(data, size)
    except Exception as error:
        raise item_lib.Broken('broken content encoding') from error


def digest_matches(given: str, *forms: bytes) -> bool | None:
    """Whether a labelled digest, 'sha1:BASE32', is of one of these bytes.

    None for an algorithm that is not known here, and for none at all.
    """
    name, _, value = given.partition(':')
    name = name.strip().lower().replace('-', '')
    if name not in _DIGESTS:
        return None
    value = value.strip().rstrip('=').lower()
    digests = [hashlib.new(name, form, usedforsecurity=False) for form in forms]
    base32 = [base64.b32encode(one.digest()).decode().lower() for one in digests]
    known = [one.hexdigest() for one in digests] + [one.rstrip('=') for one in base32]
    return value in known
