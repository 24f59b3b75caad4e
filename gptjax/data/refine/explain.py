"""What became of one document, from the raw files to the tokens of a shard."""

from collections.abc import Iterator, Mapping, Sequence
import json
from pathlib import Path
from typing import Any

from gptjax import command
from gptjax.data import dataset, documents, ledger, storage, trace
from gptjax.data.refine import records, report

_LINES = 15  # of signals
_ORIGIN = (
    'source', 'url', 'retrieved', 'licence', 'evidence', 'opt_out', 'language',
)  # fmt: skip


def explain(output: Path | str, identity: str) -> str:
    """What happened to the document of this id in the dataset folder `output`.

    Where it was refined: its origin, the steps that changed it and its signals, or the
    step that rejected it, why, and by which value or evidence. Then its place in a
    split and a shard. Pieces of its source that could not be read are named too.
    Raises UserError where the folder knows nothing of it.
    """
    folder = Path(output)
    refined = folder / 'documents'
    manifest = storage.read_json(refined / 'manifest.json')
    built = (folder / 'manifest.json').exists()
    if manifest is None and not built:
        raise command.UserError(f'{folder} holds no dataset; build one there first.')
    lines = [] if manifest is None else list(_refined(refined, manifest, identity))
    if built:
        opened = dataset.open(folder)
        places = [
            f'{one.shard}: tokens {one.start:,} to {one.end:,}'
            for split in opened.manifest['splits']
            for one in ledger.entries(opened, split)
            if one.id == identity
        ]
        if places and not lines:
            return trace.trace(folder, identity, None, ())
        if lines and lines[0].startswith('kept'):
            lines += places or ['in no shard: it was removed, or has nothing to learn']
    if not lines:
        raise command.UserError(
            f'{folder} never saw a document {identity!r}; its ids stand in '
            'train/*.parquet, documents/*.parquet and documents/rejected/*.parquet.'
        )
    return '\n'.join(lines)


def _refined(folder: Path, manifest: Mapping[str, Any], identity: str) -> Iterator[str]:
    from pyarrow import parquet

    place = records.place(documents.key(identity), manifest['settings']['shards'])
    name = f'{place[0] << 8 | place[1]:05}.parquet'
    same = [('id', '==', identity)]
    for row in parquet.read_table(folder / name, filters=same).to_pylist():
        row['changed by'] = ', '.join(row['steps']) or 'nothing'
        yield f'kept: {identity}'
        yield from _fields(row, (*_ORIGIN, 'changed by'))
        yield from _columns(
            [f'{signal} = {value:g}' for signal, value in row['signals']]
        )
    path = folder / 'rejected' / name
    for row in parquet.read_table(path, filters=same).to_pylist():
        value = '' if row['value'] is None else f' ({row["value"]})'
        yield f'rejected by {row["step"]}: {row["reason"]}{value}'
        yield from _fields(row, ('source', 'url', 'licence'))
    with (folder / report.BAD).open('rb') as bad:
        for line in bad:
            piece = json.loads(line)
            if identity.startswith(piece['source']):
                at = '' if piece['offset'] is None else f' at byte {piece["offset"]:,}'
                yield f'skipped: {piece["source"]}{at}: {piece["reason"]}'


def _fields(row: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    yield from (f'  {name:11}{row[name]}' for name in names if row[name])


def _columns(cells: Sequence[str]) -> Iterator[str]:
    """At most _LINES lines, read downwards."""
    for line in range(min(_LINES, len(cells))):
        here = cells[line::_LINES]
        yield f'  {"".join(f"{cell:42}" for cell in here).rstrip()}'
