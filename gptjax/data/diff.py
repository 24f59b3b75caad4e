"""What came, went and changed between two versions of a dataset, and why it went."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.data import card, croissant, dataset, ledger

_MOST = 20  # documents that are named
_ORIGIN = (
    'source', 'url', 'retrieved', 'licence', 'evidence', 'opt_out', 'language', 'steps',
)  # fmt: skip
NOT_READ = 'not in the raw files'


def diff(old: Path | str, new: Path | str) -> dict[str, Any]:
    """The difference of two datasets, by id and content.

    came, went and changed: by source and licence, how many documents and tokens.
    why: of those that went, how many for which reason: that they were removed, the
    step and reason by which the pipeline of `new` rejected them, or NOT_READ.
    documents: of each that differs, [id, 'came', 'went' or 'changed', reason, value],
    where the value is what was measured, or the id of the document that stays instead.
    The reason of a change names what of the origin changed, and 'text'.
    """
    versions = [dataset.open(old), dataset.open(new)]
    digests = [_digests(one) for one in versions]
    ids = {i for one in digests for i in one if digests[0].get(i) != digests[1].get(i)}
    before, after = (_documents(one, ids) for one in versions)
    changes: list[list[Any]] = []
    reasons = _reasons(versions[1], before.keys() - after.keys())
    for identity in sorted(ids):
        if identity not in before:
            changes.append([identity, 'came', '', None])
        elif identity not in after:
            why = reasons.get(identity) or _removed(versions[1], before[identity])
            changes.append([identity, 'went', *why])
        else:
            names = _what(versions, before[identity], after[identity])
            changes.append([identity, 'changed', ', '.join(names), None])
    return {
        'old': versions[0].manifest['digest'],
        'new': versions[1].manifest['digest'],
        'same': len(digests[0].keys() - ids),
        **{
            way: _counts(
                [
                    (after if way != 'went' else before)[identity]
                    for identity, which, *_ in changes
                    if which == way
                ]
            )
            for way in ('came', 'went', 'changed')
        },
        'why': dict(
            sorted(Counter(w for _, x, w, _ in changes if x == 'went').items())
        ),
        'documents': changes,
    }


def text(found: Mapping[str, Any]) -> str:
    """A difference for people: counts, reasons, and the first documents."""
    counts = Counter(which for _, which, *_ in found['documents'])
    parts = [
        f'{found["old"][:12]} -> {found["new"][:12]}: of the documents '
        f'{counts["came"]:,} came, {counts["went"]:,} went, {counts["changed"]:,} '
        f'changed, and {found["same"]:,} are the same.'
    ]
    rows = [
        (way, row['source'], row['licence'], f'{row["documents"]:,}',
         f'{row["tokens"]:,}')
        for way in ('came', 'went', 'changed')
        for row in found[way]
    ]  # fmt: skip
    if rows:
        head = ('', 'source', 'licence', 'documents', 'tokens')
        parts.append(card.table(head, rows, left=3))
    if found['why']:
        why = [(reason, f'{n:,}') for reason, n in found['why'].items()]
        parts.append(card.table(('why it went', 'documents'), why))
    lines = [
        f'{way:8} {identity}  {why} {value or ""}'.rstrip()
        for identity, way, why, value in found['documents']
    ]
    if len(lines) > _MOST:
        lines[_MOST:] = [
            f'and {len(lines) - _MOST:,} more; --output=FILE.json names all'
        ]
    return '\n\n'.join([*parts, '\n'.join(lines)] if lines else parts)


def _digests(built: dataset.Dataset) -> dict[str, bytes]:
    """The digest of each document: all that is in memory for every one."""
    found: dict[str, bytes] = {}
    for split in built.manifest['splits']:
        for entry in ledger.entries(built, split):
            digest = found.get(entry.id, b'') + bytes.fromhex(entry.sha256)
            found[entry.id] = digest
    return found


def _documents(built: dataset.Dataset, ids: set[str]) -> dict[str, list[ledger.Entry]]:
    """The rows of these documents: two, if the border of the splits cuts one."""
    found: dict[str, list[ledger.Entry]] = {}
    for split in built.manifest['splits']:
        for entry in ledger.entries(built, split):
            if entry.id in ids:
                found.setdefault(entry.id, []).append(entry)
    return found


def _what(
    versions: Sequence[dataset.Dataset],
    old: list[ledger.Entry],
    new: list[ledger.Entry],
) -> list[str]:
    """What differs: fields, and 'text'; that by its tokens, or, of others, its size."""
    digests = {one.manifest['tokenizer']['digest'] for one in versions}
    texts = [
        [_tokens(built, e) if len(digests) == 1 else e.bytes for e in rows]
        for built, rows in zip(versions, (old, new), strict=True)
    ]
    names = [n for n in _ORIGIN if getattr(old[0], n) != getattr(new[0], n)]
    return names if texts[0] == texts[1] else ['text', *names]


def _tokens(built: dataset.Dataset, entry: ledger.Entry) -> list[int]:
    dtype = np.dtype(built.manifest['dtype'])
    tokens = np.memmap(built.folder / entry.shard, dtype, 'r')
    return tokens[entry.start : entry.end].tolist()


def _counts(found: list[list[ledger.Entry]]) -> list[dict[str, Any]]:
    """Documents and tokens by source and licence."""
    counts: dict[tuple[str, str], list[int]] = {}
    for rows in found:
        count = counts.setdefault((rows[0].group, rows[0].licence), [0, 0])
        count[0] += 1
        count[1] += sum(entry.tokens for entry in rows)
    return [
        {'source': source, 'licence': licence, 'documents': n, 'tokens': tokens}
        for (source, licence), (n, tokens) in sorted(counts.items())
    ]


def _removed(built: dataset.Dataset, rows: list[ledger.Entry]) -> tuple[str, None]:
    """Why a document is not in a dataset whose pipeline did not reject it."""
    for told in built.manifest.get('removed', ()):
        named: dict[str, list[str]] = {}
        for kind, value in told['wanted']:
            named.setdefault(f'{kind}s', []).append(value)
        if ledger.Wanted(**named).fits(rows[0]):
            return 'removed', None
    return NOT_READ, None


def _reasons(built: dataset.Dataset, gone: set[str]) -> dict[str, tuple[str, Any]]:
    """('STEP: REASON', value) of documents that the pipeline of a dataset rejected."""
    import pyarrow.parquet as pq

    found = {}
    columns = ['id', 'step', 'reason', 'value']
    for path in sorted(
        (built.folder / croissant.REFINED / 'rejected').glob('*.parquet')
    ):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    if row['id'] in gone:
                        why = f'{row["step"]}: {row["reason"]}'
                        found[row['id']] = why, row['value']
    return found
