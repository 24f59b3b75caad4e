"""What became of one document, from the raw files to the tokens of a shard."""

from collections.abc import Iterator, Mapping
import json
from pathlib import Path
from typing import Any

from gptjax import command
from gptjax.data import dataset, documents, ledger, storage, trace
from gptjax.data.refine import records, report

_SHOWN = (
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
        wanted = ledger.Wanted(documents=[identity])
        opened = dataset.open(folder)
        splits = opened.manifest['splits']
        if any(wanted.fits(one) for s in splits for one in ledger.entries(opened, s)):
            lines.append(trace.trace(folder, identity, None, ()))
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
        yield f'kept: {identity}, in {name}'
        yield from (f'  {field:10}{row[field]}' for field in _SHOWN if row[field])
        yield f'  changed by {", ".join(row["steps"]) or "nothing"}'
        yield from (f'  {signal} = {value:g}' for signal, value in row['signals'])
    path = folder / 'rejected' / name
    for row in parquet.read_table(path, filters=same).to_pylist():
        value = '' if row['value'] is None else f' ({row["value"]})'
        yield f'rejected by {row["step"]}: {row["reason"]}{value}'
        yield from (f'  {f:10}{row[f]}' for f in ('source', 'url', 'licence') if row[f])
    with (folder / report.BAD).open('rb') as bad:
        for line in bad:
            piece = json.loads(line)
            if identity.startswith(piece['source']):
                at = '' if piece['offset'] is None else f' at byte {piece["offset"]:,}'
                yield f'skipped: {piece["source"]}{at}: {piece["reason"]}'
