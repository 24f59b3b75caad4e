"""Records of a key and a value in order, however many: sorted runs on disk, merged.

A file of records is ascending, and what each bucket has of it is one range: so a task
writes one file for all the buckets that read it.
"""

from collections.abc import Iterable, Iterator, Sequence
import heapq
import os
from pathlib import Path
import struct

from gptjax import command
from gptjax.data import storage

Record = tuple[bytes, bytes]

MEMORY = 128 << 20  # bytes of records that a task holds
_OVERHEAD = 170  # bytes of a tuple and two strings in Python
_LENGTHS = struct.Struct('<II')
_BUFFER = 1 << 16


def write(path: Path, records: Iterable[Record]) -> list[list[int]]:
    """Writes ascending records; returns [bucket, begin, end] for each that is there.

    The first two bytes of a key are its bucket. The file appears by a rename.
    """
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    parts = _put(partial, records)
    storage.rename(partial, path)
    return parts


def _put(path: Path, records: Iterable[Record]) -> list[list[int]]:
    parts: list[list[int]] = []
    place = 0
    with path.open('wb', buffering=_BUFFER) as file:
        for key, value in records:
            bucket = key[0] << 8 | key[1]
            if not parts or parts[-1][0] != bucket:
                parts.append([bucket, place, place])
            file.write(_LENGTHS.pack(len(key), len(value)))
            file.write(key)
            file.write(value)
            place += _LENGTHS.size + len(key) + len(value)
            parts[-1][2] = place
    return parts


def read(path: Path, begin: int, end: int) -> Iterator[Record]:
    """The records of a range of a file, which is open only while a block is read.

    So there may be more of them than a process may have open. Raises UserError where
    the file was cut short.
    """
    block, needed = b'', _BUFFER
    while begin < end:
        with path.open('rb') as file:
            file.seek(begin)
            more = file.read(min(needed, end - begin))
        if not more:
            raise command.UserError(
                f'{path} ends at {begin}, before {end}: it was damaged after it was '
                'written. Delete the folder that it is in and begin again.'
            )
        begin += len(more)
        block, at, needed = block + more, 0, _BUFFER
        while at + _LENGTHS.size <= len(block):
            split, length = _LENGTHS.unpack_from(block, at)
            middle = at + _LENGTHS.size + split
            if middle + length > len(block):
                needed = max(_BUFFER, middle + length - len(block))
                break
            yield block[middle - split : middle], block[middle : middle + length]
            at = middle + length
        block = block[at:]


def merge(streams: Sequence[Iterator[Record]]) -> Iterator[Record]:
    """One ascending stream of many."""
    return streams[0] if len(streams) == 1 else heapq.merge(*streams)


class Sorter:
    """Takes records in any order and gives them ascending; beyond `memory`, by disk.

    stem: the beginning of the paths of its runs, which `close` deletes.
    memory: bytes of records, with what Python adds to them, that are held.
    """

    def __init__(self, stem: Path, memory: int = MEMORY):
        self._stem = stem
        self._memory = memory
        self._records: list[Record] = []
        self._held = 0
        self._runs: list[tuple[Path, int]] = []

    def add(self, key: bytes, value: bytes) -> None:
        """Takes one record."""
        self._records.append((key, value))
        self._held += len(key) + len(value) + _OVERHEAD
        if self._held > self._memory:
            self._run()

    def _run(self) -> None:
        self._records.sort()
        name = f'{self._stem.name}.{os.getpid()}.{len(self._runs)}.run'
        path = self._stem.with_name(name)
        parts = _put(path, self._records)
        self._runs.append((path, parts[-1][2]))
        self._records, self._held = [], 0

    def __iter__(self) -> Iterator[Record]:
        self._records.sort()
        held = iter(self._records)
        return merge([*(read(path, 0, size) for path, size in self._runs), held])

    def close(self) -> None:
        """Deletes the runs, and forgets what is held."""
        for path, _ in self._runs:
            path.unlink(missing_ok=True)
        self._runs, self._records, self._held = [], [], 0
