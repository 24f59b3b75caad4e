"""The bytes of a WARC file, plain or gzipped, with a way to go on after damage."""

import io
import zlib

from gptjax.data.read import item as item_lib

_CHUNK = 1 << 16
_AGAIN = 1 << 30  # bytes of a file that are read a second time, in all
_MAGIC = b'\x1f\x8b\x08'


class Input:
    """Lines and blocks of a file; gzipped, it is read member by member.

    All methods raise `Broken` for a member that is damaged; `recover` then goes on with
    the next one.
    """

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self._zipped = file.read(3) == _MAGIC
        file.seek(0)
        self._buffer, self._at = b'', 0  # what is decompressed, and how much is read
        self._packed, self._end = b'', 0  # what is not yet, and where that ends
        self._inflate: zlib._Decompress | None = None  # of the member that is open
        self._again = 0
        self._start, self._size = 0, 0  # of that member: where it begins, what it gave

    def offset(self) -> int:
        """Where the next byte is in the file; gzipped, where its member begins."""
        if self._at == len(self._buffer):
            self._fill()
        left = len(self._buffer) - self._at
        return self._start if self._zipped else self._end - left

    def buffered(self) -> bytes:
        """The next few bytes, as far as they are in memory."""
        return self._buffer[self._at : self._at + 16]

    def readline(self) -> bytes:
        """The next line, or as much of it as fits a chunk; b'' at the end."""
        while (end := self._buffer.find(b'\n', self._at)) < 0:
            if len(self._buffer) - self._at > _CHUNK or not self._fill():
                end = len(self._buffer) - 1
                break
        line = self._buffer[self._at : end + 1]
        self._at = end + 1
        return line

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end."""
        parts = []
        while size > 0 and (self._at < len(self._buffer) or self._fill()):
            part = self._buffer[self._at : self._at + size]
            parts.append(part)
            self._at += len(part)
            size -= len(part)
        return b''.join(parts)

    def most(self) -> int:
        """Bytes that there may still be; gzipped, of what is no bomb."""
        at = self._file.tell()
        left = len(self._buffer) + self._file.seek(0, io.SEEK_END) - at
        self._file.seek(at)
        packed = left + len(self._packed)
        return item_lib.RATIO * packed + item_lib.FREE if self._zipped else left

    def skip(self, size: int) -> None:
        """Passes over bytes, without holding them."""
        while size > 0 and (part := self.read(min(size, _CHUNK))):
            size -= len(part)

    def unread(self, data: bytes) -> None:
        """Puts bytes back, to be read next."""
        self._twice(len(data))
        self._buffer, self._at = data + self._buffer[self._at :], 0

    def _twice(self, size: int) -> None:
        self._again += size
        if self._again > _AGAIN:
            raise item_lib.Broken('too much damage')

    def recover(self) -> None:
        """Goes to where the next member seems to begin; `Broken` to end there."""
        if not self._zipped:
            return
        self._buffer, self._at, self._inflate = b'', 0, None
        at, data = self._start + 1, b''
        self._twice(self._end - at)
        self._file.seek(at)
        while piece := self._file.read(_CHUNK):
            data = data[-2:] + piece
            if (found := data.find(_MAGIC)) >= 0:
                self._end = self._file.tell()
                self._packed = data[found:]
                return
        self._packed, self._end = b'', self._file.tell()

    def _fill(self) -> bool:
        """Gets more bytes behind those in memory; False at the end of the file."""
        data = self._inflated() if self._zipped else self._more()
        self._buffer, self._at = self._buffer[self._at :] + data, 0
        return bool(data)

    def _more(self) -> bytes:
        data = self._file.read(_CHUNK)
        self._end += len(data)
        return data

    def _begin(self) -> bool:
        """Opens the next member, behind padding of zeros; False at the end."""
        while not (packed := self._packed.lstrip(b'\0')):
            if not (more := self._more()):
                return False
            self._packed = more
        self._packed = packed
        self._start, self._size = self._end - len(packed), 0
        self._inflate = zlib.decompressobj(31)
        return True

    def _inflated(self) -> bytes:
        while self._inflate is not None or self._begin():
            packed = self._packed or self._more()
            member = self._inflate
            assert member is not None
            try:
                data = member.decompress(packed, _CHUNK)
            except zlib.error as error:
                raise item_lib.Broken('broken gzip member', self._start) from error
            if not (packed or data or member.eof):
                raise item_lib.Broken('truncated gzip member', self._start)
            self._packed = member.unconsumed_tail or member.unused_data
            self._size += len(data)
            if item_lib.bomb(self._end - len(self._packed) - self._start, self._size):
                raise item_lib.Broken('bomb', self._start)
            if member.eof:
                self._inflate = None
            if data:
                return data
        return b''
