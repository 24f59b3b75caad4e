"""Archives: their members are read where they lie; nothing is written to a disk."""

from collections.abc import Callable, Collection, Iterator
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

_DEPTH = 2  # an archive in an archive is read, one in that is not


class _Info(tarfile.TarInfo):
    """A header of a tar; the library takes one that is broken for the end."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise item_lib.Broken('broken or truncated .tar') from error


@dataclass(frozen=True)
class Member:
    """problem: why it is not read. open: its bytes, before the next member is seen."""

    name: str
    problem: str | None
    open: Callable[[], Any]


Members = Callable[[item_lib.Item], Iterator[Member]]


def zipped(item: item_lib.Item) -> item_lib.Found:
    """The members of a .zip, and the book of an .epub."""
    return _read(item, _zip)


def tarred(item: item_lib.Item) -> item_lib.Found:
    """The members of a .tar, which may be compressed."""
    return _read(item, _tar)


def _read(item: item_lib.Item, members: Members) -> item_lib.Found:
    """Two passes: over the names and licence files, then over what is read.

    Where licences are looked for, those of a damaged archive are unknown: the nearest
    one may be in what is lost.
    """
    from gptjax.data.read import table

    if item.depth == _DEPTH:
        yield item.skipped('an archive in an archive in an archive')
        return
    if item.depth:  # a member of a tar can be opened once
        data = item.seekable().read()
        item = dataclasses.replace(item, open=lambda: io.BytesIO(data))
    packages, files, whole = _survey(item, members)
    licences: dict[str, nearby.Told] = {}
    if item.options.licence == 'unknown':
        licences = {'': ('unknown', None)} if not whole else _licences(files)
    if len(packages) == 1 or (packages and item.name.lower().endswith('.epub')):
        opf = min(packages, key=lambda name: (name.count('/'), name))
        item = _licensed(item, opf, licences)
        yield from book.read(item, opf, lambda wanted: _fetch(item, members, wanted))
        return
    for member in members(item):
        if member.problem is not None:
            yield documents.Skipped(f'{item.name}/{member.name}', member.problem)
        elif table.wanted(member.name, item.options.kind):
            inner = dataclasses.replace(
                _licensed(item, member.name, licences),
                name=f'{item.name}/{member.name}', open=member.open,
                depth=item.depth + 1,
            )  # fmt: skip
            yield from table.read(inner)


def _survey(
    item: item_lib.Item, members: Members
) -> tuple[list[str], dict[str, bytes], bool]:
    """Packages of books and licence files, and whether these are all there are."""
    packages, files = [], {}
    try:
        for member in members(item):
            if member.problem is not None:
                continue
            if item.options.kind == 'text' and member.name.endswith('.opf'):
                packages.append(member.name)
            if nearby.named(member.name):
                with member.open() as stream:
                    files[member.name] = stream.read(nearby.READ)
    except Exception:  # the second pass ends there, too, and says so
        return packages, files, False
    return packages, files, True


def _licensed(
    item: item_lib.Item, name: str, licences: dict[str, nearby.Told]
) -> item_lib.Item:
    told = nearby.above(posixpath.dirname(name), licences.get)
    if told is None:
        return item
    return dataclasses.replace(item, licence=told[0], evidence=told[1])


def _licences(files: dict[str, bytes]) -> dict[str, nearby.Told]:
    folders: dict[str, list[tuple[str, bytes]]] = {}
    for name, data in files.items():
        folders.setdefault(posixpath.dirname(name), []).append((name, data))
    told = ((folder, nearby.of_folder(inside)) for folder, inside in folders.items())
    return {folder: one for folder, one in told if one is not None}


def _fetch(
    item: item_lib.Item, members: Members, wanted: Collection[str]
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
            yield Member(name, problem, functools.partial(opened.open, info))


def _tar(item: item_lib.Item) -> Iterator[Member]:
    with (
        item.stream() as stream,
        tarfile.open(fileobj=stream, mode='r|', tarinfo=_Info) as opened,
    ):
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
            yield Member(name, problem, functools.partial(opened.extractfile, info))
