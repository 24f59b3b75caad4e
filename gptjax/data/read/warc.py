"""WARC, ARC and WET: recorded pages, whatever is wrong with the file around them.

The format is ISO 28500:2017; ARC is the one before it (Internet Archive, 1996). The
records are cut here, not by a library: those stop at the first that is broken.
"""

from collections.abc import Iterator, Mapping
import re
from typing import NamedTuple
from urllib import parse

from gptjax.data.origin import archive, optout
from gptjax.data.read import http, plain, record
from gptjax.data.read import item as item_lib
from gptjax.data.read.packed import Input

_DATE = re.compile(rb'\d{12,18}')
_NEXT = b'\r\n\r\nWARC/'
_HEADERS = 1 << 20  # bytes of the headers of a record


class Record(NamedTuple):
    """type: 'response', 'resource' or 'conversion'."""

    type: str
    headers: dict[str, str]
    block: bytes
    offset: int


def read(item: item_lib.Item) -> item_lib.Found:
    """Pages and texts that were fetched with success; all else is passed over.

    A page is called by its URL, which stays when records move to other files and when
    it is fetched again: it is held out then as before, and versions of a dataset
    compare. Its source is the host.
    """
    with item.seekable() as file:
        for found in records(Input(file)):
            if isinstance(found, Record):
                yield from _page(item, found)
            else:
                yield item.skipped(found.reason, found.offset)


def records(source: Input) -> Iterator[Record | item_lib.Broken]:
    """The records that may hold a page, and where the file is broken."""
    lost = False
    while True:
        start = 0
        try:
            start = source.offset()
            if not (line := source.readline()):
                return
            if not line.strip():
                continue
            headers = _warc(source, line) or _arc(line)
            if headers is None:
                if not lost:
                    yield item_lib.Broken('no record begins here', start)
                lost = True
                continue
            length = http.length(headers)
            lost = length is None or item_lib.LIMIT < length > source.most()
            if length is None:
                yield item_lib.Broken('no length', start)
            elif lost:
                yield item_lib.Broken('truncated, or of a wrong length', start)
            else:
                yield from _block(source, headers, length, start)
        except item_lib.Broken as error:
            yield error
            source.recover()


def _warc(source: Input, line: bytes) -> dict[str, str] | None:
    if not line.startswith(b'WARC/'):
        return None
    lines, size = [], 0
    while (line := source.readline()).strip():
        lines.append(line)
        size += len(line)
        if size > _HEADERS:
            return {}
    return http.headers(lines)


def _arc(line: bytes) -> dict[str, str] | None:
    """The line before a record of ARC, version 1 of 5 fields or 2 of 10.

    A URL may hold blanks, so that the fields are counted from the end.
    """
    for after in (4, 9):
        url, *fields = line.rsplit(None, after)
        if len(fields) == after and b':' in url and _DATE.fullmatch(fields[1]):
            digits = fields[1].decode().ljust(14, '0')
            date, time = digits[:8], digits[8:14]
            return {
                'warc-type': 'none' if url.startswith(b'filedesc:') else 'response',
                'warc-target-uri': url.decode('utf-8', 'replace'),
                'warc-date': f'{date}T{time}Z',
                'content-length': fields[-1].decode('latin-1'),
            }
    return None


def _block(
    source: Input, headers: dict[str, str], length: int, start: int
) -> Iterator[Record | item_lib.Broken]:
    kind = headers.get('warc-type', '').strip().lower()
    wanted = kind in ('response', 'resource', 'conversion')
    if length > item_lib.LIMIT:
        source.skip(length)
        if wanted:
            yield item_lib.Broken('too large', start)
        return
    block = source.read(length)
    following = source.buffered()
    sound = not following or following.lstrip(b'\r\n')[:5] in (b'', b'WARC/')
    if len(block) < length or (not sound and 'warc-record-id' in headers):
        if (at := block.find(_NEXT)) >= 0:
            source.unread(block[at + 4 :])
            yield item_lib.Broken('its length goes past the next record', start)
            return
        if len(block) < length and not http.complete(block):
            yield item_lib.Broken('truncated', start)
            return
    if wanted:
        yield Record(kind, headers, block, start)


def _page(item: item_lib.Item, found: Record) -> item_lib.Found:
    headers, block = found.headers, found.block
    url = headers.get('warc-target-uri', '').strip('<> ')
    if found.type == 'response':
        response = http.parse(block)
    else:
        media = headers.get('content-type', '')
        response = http.Response(200, {'content-type': media}, block)
    web = found.type != 'resource' or url.lower().startswith(('http://', 'https://'))
    if response.media not in ('text/html', 'text/plain') or not web:
        return
    if not 200 <= response.status < 300:
        return
    try:
        data = http.payload(response)
    except item_lib.Broken as error:
        yield item.skipped(error.reason, found.offset)
        return
    if item.options.verify and _damaged(headers, block, response, data):
        yield item.skipped('wrong digest', found.offset)
        return
    text = plain.decode(data, response.charset, html=response.media == 'text/html')
    yield item.document(
        url or f'{item.name}:{found.offset}', found.offset,
        text=text, media=response.media,
        source=f'{item.group}/{_host(url)}', url=url or None,
        retrieved=record.utc(headers.get('warc-date')),
        opt_out=_opt_out(headers, response),
    )  # fmt: skip


def _opt_out(headers: Mapping[str, str], response: http.Response) -> str:
    """What the page asks for; 'none' where our fetcher says that it asked the site."""
    told = headers.get(archive.OPT_OUT.lower())
    asked = optout.from_headers(response.headers)
    return asked or ('none' if told == 'none' else 'unknown')


def _host(url: str) -> str:
    try:
        return parse.urlsplit(url).hostname or 'unknown'
    except ValueError:  # half an address of IPv6
        return 'unknown'


def _damaged(
    headers: dict[str, str], block: bytes, response: http.Response, data: bytes
) -> bool:
    """Whether the digests of the record are not those of what is there.

    One that is right is enough. Writers differ in whether the payload is what was sent,
    what was in the chunks, or what was in the encoding: each is right.
    """
    forms = (response.body, http.unchunked(response.body), data)
    checks = [
        http.digest_matches(headers.get('warc-block-digest', ''), block),
        http.digest_matches(headers.get('warc-payload-digest', ''), *forms),
    ]
    return False in checks and True not in checks
