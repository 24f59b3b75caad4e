"""JSON Lines, JSON and Parquet: records, one in memory at a time."""

from collections.abc import Iterator
import io
import json
from typing import Any

from gptjax.data import extras
from gptjax.data.corpora import files
from gptjax.data.read import item as item_lib
from gptjax.data.read import record

LINE = 16 << 20  # bytes of a line; the longest of C4, RedPajama and FineWeb are below
_JSON = 32 << 20  # bytes of a JSON file: in memory it is up to 20 times as large
_ROWS = 16  # of Parquet that are decoded at once; each may be a whole book


def read(item: item_lib.Item) -> item_lib.Found:
    """A document a line that is not blank."""
    with item.stream() as stream:
        for number, (offset, line) in enumerate(lines(stream), 1):
            if line is not None and not line.strip():
                continue
            try:
                parsed = _parsed(line)
            except item_lib.Broken as error:
                yield item.skipped(error.reason, offset)
            else:
                yield record.document(item, f'{item.name}:{number}', parsed, offset)


def lines(stream: io.BufferedIOBase) -> Iterator[tuple[int, bytes | None]]:
    """(offset, line), where a line of more than LINE bytes is None and never held."""
    offset = 0
    while line := stream.readline(LINE):
        size, rest = len(line), line
        while not rest.endswith(b'\n') and (rest := stream.readline(1 << 16)):
            size += len(rest)
        yield offset, line if size == len(line) else None
        offset += size


def _parsed(data: bytes | None) -> Any:
    if data is None:
        raise item_lib.Broken('line too long')
    try:
        return json.loads(data.decode('utf-8-sig'))
    except UnicodeError as error:
        raise item_lib.Broken(files.INVALID) from error
    except (ValueError, RecursionError) as error:
        raise item_lib.Broken('not JSON') from error


def array(item: item_lib.Item) -> item_lib.Found:
    """A JSON file: a list of records, or one of them."""
    with item.stream() as stream:
        parsed = _parsed(item_lib.bounded(stream, _JSON))
    for number, one in enumerate(parsed if isinstance(parsed, list) else [parsed]):
        yield record.document(item, f'{item.name}#{number}', one, None)


def parquet(item: item_lib.Item) -> item_lib.Found:
    """The rows of a Parquet file, of ours too: its columns are fields of documents."""
    library = extras.need('pyarrow.parquet', 'data')
    with item.seekable() as stream:
        file = library.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
        batches = file.iter_batches(_ROWS, use_threads=False)
        slices = (batch.slice(n, 1) for batch in batches for n in range(len(batch)))
        for number, one in enumerate(slices):
            try:
                (row,) = one.to_pylist(maps_as_pydicts='lossy')
            except UnicodeDecodeError:
                yield item.skipped(files.INVALID)
                continue
            yield record.document(item, f'{item.name}#{number}', row, None)
