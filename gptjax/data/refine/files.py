"""Parquet files of documents and of rejections: the same content, the same bytes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from gptjax.data import documents, storage
from gptjax.data.refine import records

FORMAT = 1
_ROWS, _CHARACTERS = 1000, 1 << 24  # what closes a row group: either of them
_JSON = ('messages', 'pair', 'translation')
_FIELDS = [field.name for field in dataclasses.fields(documents.Document)]
_REPEATED = ['source', 'licence', 'language', 'media', 'opt_out', 'step', 'reason']
ROLLED_UP = ('kind', 'licence', 'group', 'language')  # counted in the manifest


def documents_file(
    partial: Path, folder: Path, name: str, found: Iterable[documents.Document]
) -> dict[str, Any]:
    """Writes documents in their order, and says what they are: counts and digests.

    partial: where the file is until it is whole and `name` in the folder. Characters
    are of all texts.
    """
    import pyarrow as pa

    schema = pa.schema(
        [(name, pa.string()) for name in _FIELDS if name not in ('steps', 'signals')]
        + [('steps', pa.list_(pa.string()))]
        + [('signals', pa.map_(pa.string(), pa.float64()))]
    )
    counts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    signals: dict[str, list[float]] = {}
    digest = hashlib.sha256()

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for one in map(_plain, found):
            size = len(one.whole)
            for field in ROLLED_UP:
                name = getattr(one, field) or 'unknown'
                counts[field, name] += 1
                sizes[field, name] += size
            for name, value in one.signals.items():
                n, total, least, most = signals.get(name, (0, 0.0, value, value))
                new = [n + 1, total + value, min(least, value), max(most, value)]
                signals[name] = new
            digest.update(hashlib.sha256(one.content()).digest())
            yield size, _row(one)

    written = _write(partial, folder, name, schema, rows())
    return {
        **written,
        'documents_sha256': digest.hexdigest(),
        'counts': [[*key, n, sizes[key]] for key, n in sorted(counts.items())],
        'signals': dict(sorted(signals.items())),
    }


def rejected_file(
    partial: Path, folder: Path, name: str, found: Iterable[bytes]
) -> dict[str, Any]:
    """Writes rejections, each a value of `records.rejected`, in their order."""
    import pyarrow as pa

    schema = pa.schema([(name, pa.string()) for name in records.REJECTED])
    rows = (
        (len(line), dict(zip(records.REJECTED, json.loads(line), strict=True)))
        for line in found
    )
    return _write(partial, folder, name, schema, rows)


def _write(
    partial: Path,
    folder: Path,
    file: str,
    schema: Any,
    rows: Iterable[tuple[int, dict[str, Any]]],
) -> dict[str, Any]:
    import pyarrow as pa
    from pyarrow import parquet

    repeated = [name for name in _REPEATED if name in schema.names]
    plain = [name for name in ('id', *repeated) if name in schema.names]
    batch: list[dict[str, Any]] = []
    count = size = characters = 0
    with parquet.ParquetWriter(
        partial, schema, compression='zstd', compression_level=3, version='2.6',
        use_dictionary=repeated, write_statistics=plain, store_schema=False,
    ) as writer:  # fmt: skip

        def flush() -> None:
            if batch:
                writer.write_table(pa.Table.from_pylist(batch, schema), len(batch))
                batch.clear()

        for length, row in rows:
            batch.append(row)
            count += 1
            characters += length
            size += length
            if len(batch) == _ROWS or size >= _CHARACTERS:
                flush()
                size = 0
        flush()
    digest = storage.file_digest(partial)
    storage.rename(partial, folder / file)
    return {'file': file, 'sha256': digest, 'rows': count, 'characters': characters}


def _plain(one: documents.Document) -> documents.Document:
    """The document as it will be read back: signals are floats."""
    signals = {name: float(n) for name, n in sorted(one.signals.items())}
    return dataclasses.replace(one, signals=signals)


def _row(one: documents.Document) -> dict[str, Any]:
    row = {name: getattr(one, name) for name in _FIELDS}
    for name in _JSON:
        if row[name] is not None:
            row[name] = json.dumps(row[name], ensure_ascii=False, sort_keys=True)
    row['steps'] = list(one.steps)
    row['signals'] = list(one.signals.items())
    return row


def decode(row: Mapping[str, Any]) -> documents.Document:
    """The document of a row of a file."""
    fields = dict(row)
    for name in _JSON:
        if fields[name] is not None:
            fields[name] = json.loads(fields[name])
    fields['steps'] = tuple(fields['steps'])
    fields['signals'] = dict(fields['signals'])
    return documents.Document(**fields)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, a row group in memory."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield from file.read_row_group(number).to_pylist()
