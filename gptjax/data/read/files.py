"""Raw files of any format to documents: a file, or all below a folder."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
import functools
import io
import os
from pathlib import Path
import posixpath

from gptjax import command
from gptjax.data import documents, progress
from gptjax.data.read import item as item_lib
from gptjax.data.read import nearby

_BOOKS = {'whole': None, 'chapter': None}


def files(path: str, *, licence: str, kind: str, books: str, verify: bool) -> 'Reader':
    """The reader of a file or folder.

    licence: SPDX identifier of everything that does not name its own; with 'unknown',
    the nearest LICENSE file above a file counts for it.
    kind: what the documents are. 'text': prose in any format. 'code': source files, of
    which those in folders of others (vendor, node_modules, build) are not read. 'chat',
    'pairs', 'feedback', 'labelled', 'translation': records of JSON and Parquet, as
    `corpora.own` has them, and `record`.
    books: 'whole' or 'chapter', what a document of an EPUB is.
    verify: whether pages of a WARC whose digests are wrong are skipped.

    Of a folder that was refined, the documents are read, and not what was rejected.
    Files of formats that are not in `table.FORMATS`, and not known by their first
    bytes, are not read. Raises UserError for a wrong option, and for a path that does
    not exist or holds nothing to read.
    """
    from gptjax.data.read import table

    command.lookup(table.FORMATS, kind, 'read.kind')
    command.lookup(_BOOKS, books, 'read.books')
    if not path or not os.path.exists(path):
        raise command.UserError(
            f'config.path is {path!r}, which does not exist; set it to a file or '
            'folder of raw data.'
        )
    return Reader(Path(path), item_lib.Options(licence, kind, books, verify))


@dataclass(frozen=True)
class Reader:
    """The files of a path; see `files`."""

    path: Path
    options: item_lib.Options

    def units(self) -> list[str]:
        """The files that are read, relative to the path, sorted.

        Links that lead out of the folder are among them, to be reported; others are
        not, for what they lead to is read where it lies. Raises UserError for none.
        """
        from gptjax.data.read import table

        found = [self.path.name] if self.path.is_file() else sorted(self._walk())
        kind = self.options.kind
        if (self.path / 'bad.jsonl').exists():  # refined: no rejections, no reports
            found = [one for one in found if '/' not in one and one[-8:] == '.parquet']
        units = [
            unit
            for unit in found
            if self._problem(unit) or table.wanted(unit, kind, self._open(unit))
        ]
        others = Counter(Path(one).suffix for one in set(found) - set(units))
        if others:
            named = (f'{n:,} {what or "(none)"}' for what, n in sorted(others.items()))
            progress.say(f'not read, by suffix: {", ".join(named)}')
        if not units:
            raise command.UserError(
                f'{self.path} holds nothing of kind {kind!r}; readable are '
                f'{", ".join(sorted(table.FORMATS[kind]))}.'
            )
        return units

    def read(self, unit: str) -> item_lib.Found:
        """The documents of a unit, and what of it could not be read."""
        from gptjax.data.read import table

        name = self._name(unit)
        if (problem := self._problem(unit)) is not None:
            yield documents.Skipped(name, problem)
            return
        told: nearby.Told = (self.options.licence, 'option read.licence')
        if self.options.licence == 'unknown':
            root = self.path.parent if self.path.is_file() else self.path
            near = functools.partial(_licence, root)
            told = nearby.above(posixpath.dirname(unit), near) or ('unknown', None)
        yield from table.read(
            item_lib.Item(name, self._open(unit), self.options, *told)
        )

    def _walk(self) -> Iterator[str]:
        closed: list[str] = []  # folders that may not be listed
        walk = os.walk(self.path, onerror=lambda error: closed.append(error.filename))
        for folder, folders, inside in walk:
            links = [x for x in folders if os.path.islink(os.path.join(folder, x))]
            for one in [*inside, *links]:
                where = os.path.join(folder, one)
                known = os.path.islink(where) and os.path.exists(where)
                if known and self._inside(where):
                    continue
                yield self._unit(where)
        yield from map(self._unit, closed)

    def _unit(self, where: str) -> str:
        """A name that is no UTF-8 is shown as it can be, and reported."""
        name = os.fsencode(os.path.relpath(where, self.path))
        return name.decode('utf-8', 'backslashreplace')

    def _inside(self, where: str) -> bool:
        root = os.path.realpath(self.path)
        return os.path.commonpath([root, os.path.realpath(where)]) == root

    def _problem(self, unit: str) -> str | None:
        file = self._file(unit)
        if not self._inside(str(file)):
            return 'link out of the folder'
        if file.is_dir():
            return 'a folder that cannot be listed'
        return None if file.is_file() else 'no regular file'

    def _file(self, unit: str) -> Path:
        return self.path if self.path.is_file() else self.path / unit

    def _open(self, unit: str) -> Callable[[], io.BufferedIOBase]:
        file = self._file(unit)
        return lambda: file.open('rb')

    def _name(self, unit: str) -> str:
        base = os.path.basename(os.path.abspath(self.path))
        return base if self.path.is_file() else posixpath.join(base, unit)


@functools.lru_cache(maxsize=1000)
def _licence(root: Path, folder: str) -> nearby.Told | None:
    """What the licence files of a folder say; links count as nothing."""
    found = []
    for name in sorted(filter(nearby.named, os.listdir(root / folder))):
        file = root / folder / name
        if file.is_file() and not file.is_symlink():
            with file.open('rb') as stream:
                data = stream.read(nearby.READ)
            found.append((posixpath.join(folder, name), data))
    return nearby.of_folder(found)
