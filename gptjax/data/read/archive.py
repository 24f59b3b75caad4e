"""Archives: their members are read where they lie; nothing is written to a disk."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from dataclasses import dataclass
import functools
import io
import posixpath
import stat
import tarfile
from typing import Any
import zipfile

from gptjax.data import documents
from gptjax.data.read import book, nearby
from gptjax.data.read import item as item_lib

_MEMBERS = 1_000_000
_DEPTH = 2  # an archive in an archive is read, one in that is not


@dataclass(frozen=True)
class Member:
    """problem: why it is not read. open: its bytes, before the next member is seen."""

    name: str
    problem: str | None
    open: Callable[[], io.BufferedIOBase]


Members = Callable[[item_lib.Item], Iterator[Member]]


def zipped(item: item_lib.Item) -> Iterator[documents.Document | documents.Skipped]:
    """The members of a .zip, and the book of an .epub."""
    return _read(item, _zip)


def tarred(item: item_lib.Item) -> Iterator[documents.Document | documents.Skipped]:
    """The members of a .tar, which may be compressed."""
    return _read(item, _tar)


def _read(
    item: item_lib.Item, members: Members
) -> Iterator[documents.Document | documents.Skipped]:
    """Two passes: over the names and licence files, then over what is read."""
    from gptjax.data.read import table

    if item.depth == _DEPTH:
        yield item.skipped('an archive in an archive in an archive')
        return
    if item.depth:  # a member of a tar can be opened once
        data = _held(item)
        item = dataclasses.replace(item, open=lambda: io.BytesIO(data))
    names, licences = [], {}
    for member in members(item):
        names.append(member.name)
        if member.problem is not None:
            yield documents.Skipped(f'{item.name}/{member.name}', member.problem)
        elif item.licence == 'unknown' and nearby.named(member.name):
            with member.open() as stream:
                licences[member.name] = stream.read(nearby.READ)
        if len(names) > _MEMBERS:
            raise item_lib.Broken('too many members')
    folders = _folders(licences)
    opf = book.package(names) if item.options.kind == 'text' else None
    if opf is not None:
        told = nearby.above(posixpath.dirname(opf), folders)
        if told is not None:
            item = dataclasses.replace(item, licence=told[0], evidence=told[1])
        yield from book.read(item, opf, lambda wanted: _fetch(item, members, wanted))
        return
    for member in members(item):
        if member.problem is None and table.wanted(member.name, item.options.kind):
            told = nearby.above(posixpath.dirname(member.name), folders)
            licence, evidence = told or (item.licence, item.evidence)
            inner = dataclasses.replace(
                item, name=f'{item.name}/{member.name}', open=member.open,
                licence=licence, evidence=evidence, depth=item.depth + 1,
            )  # fmt: skip
            yield from table.read(inner)


def _held(item: item_lib.Item) -> bytes:
    with item.open() as stream:
        return item_lib.bounded(stream)


def _folders(licences: dict[str, bytes]) -> dict[str, tuple[str, str]]:
    folders: dict[str, list[tuple[str, bytes]]] = {}
    for name, data in licences.items():
        folders.setdefault(posixpath.dirname(name), []).append((name, data))
    told = ((folder, nearby.of_folder(inside)) for folder, inside in folders.items())
    return {folder: one for folder, one in told if one is not None}


def _fetch(
    item: item_lib.Item, members: Members, wanted: Sequence[str]
) -> dict[str, bytes]:
    found, size = {}, 0
    for member in members(item):
        if member.name in wanted and member.problem is None:
            with member.open() as stream:
                found[member.name] = item_lib.bounded(stream, item_lib.LIMIT - size)
            size += len(found[member.name])
    return found


def _outside(name: str) -> bool:
    parts = name.replace('\\', '/').split('/')
    return name.startswith(('/', '\\')) or '..' in parts or parts[0][1:2] == ':'


def _zip(item: item_lib.Item) -> Iterator[Member]:
    with item.seekable() as file, zipfile.ZipFile(file) as opened:
        infos = [info for info in opened.infolist() if not info.is_dir()]
        file.seek(0, io.SEEK_END)
        # Members may share their bytes, so that each looks harmless.
        if item_lib.bomb(file.tell(), sum(info.file_size for info in infos)):
            raise item_lib.Broken('bomb')
        for info in infos:
            mode = info.external_attr >> 16
            problem = None
            if _outside(info.filename):
                problem = 'path out of the archive'
            elif info.flag_bits & 1:
                problem = 'encrypted'
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                problem = 'no regular file'
            elif item_lib.bomb(info.compress_size, info.file_size):
                problem = 'bomb'
            name = info.filename.encode('utf-8', 'replace').decode()
            yield Member(name, problem, functools.partial(_opened, opened, info))


def _tar(item: item_lib.Item) -> Iterator[Member]:
    with item.stream() as stream, tarfile.open(fileobj=stream, mode='r|') as opened:
        for info in opened:
            opened.members = []  # type: ignore[attr-defined]  # it would keep all
            if info.isdir():
                continue
            problem = None
            if _outside(info.name):
                problem = 'path out of the archive'
            elif not info.isfile() or info.issparse():
                problem = 'no regular file'
            name = info.name.encode('utf-8', 'replace').decode()
            yield Member(name, problem, functools.partial(_extract, opened, info))


def _opened(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    return opened.open(info)


def _extract(opened: tarfile.TarFile, info: tarfile.TarInfo) -> Any:
    return opened.extractfile(info)
