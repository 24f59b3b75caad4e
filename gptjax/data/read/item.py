"""A piece of raw data while it is read: its name, its bytes, and how far they may go.

Nothing here trusts what a file says of its own size.
"""

import bz2
from collections.abc import Callable, Iterator
from dataclasses import dataclass
import gzip
import io
import json
import lzma
from typing import Any

from gptjax.data import documents, extras
from gptjax.data.corpora import files, own

# Bytes of a document, or of anything that is held whole. The longest book of Project
# Gutenberg has 10 MB; what is longer is a dump of something.
LIMIT = 64 << 20
# A decompressed byte needs 1/250 of a compressed one: prose packs 3 to 10 times, logs
# and tables up to 100, and a bomb a thousand times or more. 16 MiB are free.
RATIO, FREE = 250, 16 << 20


class Broken(Exception):
    """Why reading ends here: the reason, and where in the file, if that is known."""

    def __init__(self, reason: str, offset: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.offset = reason, offset


@dataclass(frozen=True)
class Options:
    """What the options of the reader say; see `files.files`."""

    licence: str
    kind: str
    books: str
    verify: bool


@dataclass(frozen=True)
class Item:
    """A file, or a member of an archive (depth 1), or of an archive in one (depth 2).

    name: 'FOLDER/path'. open: its bytes as they lie; those of a member of a tar can be
    opened once. licence, evidence: of what does not name its own.
    """

    name: str
    open: Callable[[], io.BufferedIOBase]
    options: Options
    licence: str
    evidence: str | None
    depth: int = 0

    @property
    def group(self) -> str:
        return self.name.split('/', 1)[0]

    def stream(self) -> io.BufferedIOBase:
        """The bytes, decompressed as the suffix says; `Broken` where that ends."""
        suffix = next((s for s in DECOMPRESS if self.name.lower().endswith(s)), None)
        if suffix is None:
            return self.open()
        return io.BufferedReader(_Bounded(self.open(), suffix), 1 << 16)

    def whole(self) -> bytes:
        """All bytes, decompressed; `Broken` for more than LIMIT."""
        with self.stream() as stream:
            return bounded(stream)

    def seekable(self) -> io.BufferedIOBase:
        """The bytes as they lie, of a file or in memory."""
        if self.depth == 0:
            return self.open()
        with self.open() as stream:
            return io.BytesIO(bounded(stream))

    def skipped(self, reason: str, offset: int | None = None) -> documents.Skipped:
        return documents.Skipped(self.name, reason, offset)

    def document(
        self, identity: str, offset: int | None = None, **fields: Any
    ) -> documents.Document | documents.Skipped:
        """The document of these fields, or why it is none; text: None if undecodable.

        What does not name its own licence has that of the item.
        """
        if 'text' in fields and fields['text'] is None:
            return self.skipped(files.INVALID, offset)
        try:  # half of a surrogate pair
            json.dumps([identity, fields], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return self.skipped(files.INVALID, offset)
        if 'licence' not in fields:
            fields |= {'licence': self.licence, 'evidence': self.evidence}
        made = documents.Document(identity, **{'source': self.name, **fields})
        if own.empty(made):
            return self.skipped('empty', offset)
        large = sum(map(len, made.texts())) > LIMIT
        return self.skipped('too large', offset) if large else made


Found = Iterator[documents.Document | documents.Skipped]
Read = Callable[[Item], Found]


def bounded(stream: io.BufferedIOBase, limit: int = LIMIT) -> bytes:
    """All that is left in the stream; `Broken` for more than `limit` bytes."""
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise Broken('too large')
    return data


def bomb(packed: int, unpacked: int) -> bool:
    """Whether so many bytes can only come of a file that was made to burst."""
    return unpacked > FREE and unpacked > RATIO * packed


def _zstd(file: io.BufferedIOBase) -> Any:
    zstandard = extras.need('zstandard', 'data')
    # Its own limit of the window, 128 MiB, bounds the memory.
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)


DECOMPRESS: dict[str, Callable[[Any], Any]] = {
    '.gz': lambda file: gzip.GzipFile(fileobj=file),
    '.tgz': lambda file: gzip.GzipFile(fileobj=file),
    '.bz2': bz2.BZ2File,
    '.xz': lzma.LZMAFile,
    '.zst': _zstd,
}


class _Bounded(io.RawIOBase):
    """A decompressed stream that ends with `Broken` at damage or in a bomb."""

    def __init__(self, packed: io.BufferedIOBase, suffix: str) -> None:
        self._packed, self._suffix, self._size = packed, suffix, 0
        self._stream = DECOMPRESS[suffix](packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:  # read1, so that what precedes the damage is delivered
            data = self._stream.read1(len(buffer))
            data = data or self._stream.read(1)  # read1 may give none before the end
        except Exception as error:  # each library has errors of its own
            reason = f'broken or truncated {self._suffix}'
            raise Broken(reason, self._packed.tell()) from error
        self._size += len(data)
        if bomb(self._packed.tell(), self._size):
            raise Broken('bomb', self._packed.tell())
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._packed.close()
        super().close()
