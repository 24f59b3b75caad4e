"""The ledger: a row for each document of a shard, with its origin and its tokens.

It stands beside the shard, as Parquet, and the manifest vouches for it. Every token of
a dataset belongs to exactly one row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
from dataclasses import dataclass
import functools
import hashlib
import io
import itertools
from pathlib import Path
from typing import Any

from gptjax import command
from gptjax.data import documents

ORIGIN = (
    'id', 'source', 'url', 'retrieved', 'licence', 'evidence', 'opt_out', 'language',
)  # fmt: skip
_BATCH = 1 << 14  # rows in memory at once


@dataclass(frozen=True)
class Entry:
    """A row: what `Document` says of its origin, and where its tokens are.

    sha256: of `Document.content()`, of the part of the document that is here.
    bytes: as `Document.size`. start, end: of its tokens in the shard. sequences: how
    many they are. shard: the file of the tokens. place: of the first of its tokens in
    all shards of the split, one after another.
    """

    id: str
    source: str
    url: str | None
    retrieved: str | None
    licence: str
    evidence: str | None
    opt_out: str
    language: str | None
    steps: tuple[str, ...]
    sha256: str
    bytes: int
    start: int
    end: int
    sequences: int
    split: str = ''
    shard: str = ''
    place: int = 0

    @property
    def tokens(self) -> int:
        """How many tokens of the shard are of the document."""
        return self.end - self.start

    @property
    def group(self) -> str:
        """As `Document.group`."""
        return self.source.split('/', 1)[0]


_COLUMNS = [f.name for f in dataclasses.fields(Entry)][:-3]


def names(entry: Entry) -> Iterator[tuple[str, str]]:
    """By what a document may be named: its id or the digits of its key, and so on."""
    yield 'document', entry.id
    yield 'document', documents.key(entry.id).hex()
    yield 'licence', entry.licence
    for path in itertools.accumulate(entry.source.split('/'), '{}/{}'.format):
        yield 'source', path


@dataclass(frozen=True)
class Wanted:
    """Documents by any of: id, source (a name, or a path below one), licence.

    The id may also be given as the hexadecimal digits of its key.
    """

    documents: Sequence[str] = ()
    sources: Sequence[str] = ()
    licences: Sequence[str] = ()

    @functools.cached_property
    def named(self) -> dict[tuple[str, str], None]:
        """(kind, name) of all that is wanted, in order."""
        kinds = (self.documents, self.sources, self.licences)
        words = ('document', 'source', 'licence')
        both = zip(words, kinds, strict=True)
        return {(word, name): None for word, kind in both for name in kind}

    def fits(self, entry: Entry) -> bool:
        """Whether the document of a row is among them."""
        return any(name in self.named for name in names(entry))

    def __bool__(self) -> bool:
        return bool(self.named)

    def __str__(self) -> str:
        return ' or '.join(f'{kind} {name}' for kind, name in self.named)


def row(document: documents.Document) -> dict[str, Any]:
    """What the ledger says of a document, without its place in a shard."""
    return {
        **{name: getattr(document, name) for name in ORIGIN},
        'steps': document.steps,
        'sha256': hashlib.sha256(document.content()).hexdigest(),
        'bytes': document.size,
    }


class Rows:
    """The rows of one shard on their way to its file, each `_BATCH` of them compact."""

    def __init__(self) -> None:
        self._tables: list[Any] = []
        self._last: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row: what `row` gave, with start, end and sequences."""
        self._last.append(row)
        if len(self._last) == _BATCH:
            self._close()

    def _close(self) -> None:
        import pyarrow as pa

        numbers = dict.fromkeys(('bytes', 'start', 'end', 'sequences'), pa.int64())
        types = {name: pa.string() for name in _COLUMNS}
        types |= numbers | {'steps': pa.list_(pa.string())}
        needed = ('id', 'source', 'licence', 'opt_out', 'steps', 'sha256', *numbers)
        schema = pa.schema([pa.field(n, t, n not in needed) for n, t in types.items()])
        self._tables.append(pa.Table.from_pylist(self._last, schema))
        self._last = []

    def encode(self) -> bytes:
        """All rows as a Parquet file; the same rows make the same bytes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._close()
        file, table = io.BytesIO(), pa.concat_tables(self._tables)
        pq.write_table(table, file, compression='zstd', row_group_size=_BATCH)
        return file.getvalue()


def read(path: Path) -> Iterator[Entry]:
    """The rows of one file, in the order of their tokens; `_BATCH` in memory."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, use_threads=False):
            for values in batch.to_pylist():
                values['steps'] = tuple(values['steps'])
                yield Entry(**values)


def entries(
    built: Any, split: str, among: Callable[[int, int], bool] = lambda start, end: True
) -> Iterator[Entry]:
    """The rows of a split of a `dataset.Dataset`, with their shards and places.

    among: whether a shard, whose tokens are at these places, is looked into.
    """
    first = 0
    for shard in built.shards(split):
        path = (built.folder / shard['file']).with_suffix('.parquet')
        for entry in read(path) if among(first, first + shard['tokens']) else ():
            yield dataclasses.replace(
                entry, split=split, shard=shard['file'], place=first + entry.start
            )
        first += shard['tokens']


_TABLES = {
    'sources': ('source', 'licence'),
    'languages': ('language',),
    'opt_out': ('opt_out',),
}


def roll_up(built: Any) -> dict[str, Any]:
    """The counts of a dataset for its manifest: by source, language and opt-out.

    A document that the border of the splits cuts in two counts once.
    """
    cut = built.manifest['plan']['settings']['held_out']['by'] == 'tail'
    tables: dict[str, dict[tuple[str, ...], dict[str, Any]]] = {t: {} for t in _TABLES}
    between: list[str] = []
    times, last = 0, None
    for split in ('train', 'validation'):
        for entry in entries(built, split):
            new = not (cut and entry.id == last)
            last = entry.id
            counts = {'documents': new, 'bytes': entry.bytes, 'tokens': entry.tokens}
            language = entry.language or 'unknown'
            keys = (entry.group, entry.licence), (language,), (entry.opt_out,)
            for (name, table), key in zip(tables.items(), keys, strict=True):
                head = dict(zip(_TABLES[name], key, strict=True))
                row = table.setdefault(key, head | dict.fromkeys(counts, 0))
                for unit, count in counts.items():
                    row[unit] += count
            if entry.retrieved and new:
                times += 1
                between = [*between, entry.retrieved]
                between = [min(between), max(between)]
    return {
        **{name: [row for _, row in sorted(t.items())] for name, t in tables.items()},
        'retrieved': {'documents': times, 'between': between},
    }


def find(built: Any, wanted: Wanted) -> list[Entry]:
    """The rows of both splits that are wanted; UserError where one thing is nowhere."""
    found = [
        entry
        for split in built.manifest['splits']
        for entry in entries(built, split)
        if wanted.fits(entry)
    ]
    there = {name for e in found for name in names(e) if name in wanted.named}
    for kind, name in wanted.named:
        if (kind, name) not in there:
            raise command.UserError(
                f'{built.folder} holds no document of {kind} {name}; its ledger '
                '(train/00000.parquet, ...) has the ids, sources and licences.'
            )
    return found
