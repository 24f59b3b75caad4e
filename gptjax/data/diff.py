"""What came, went and changed between two versions of a dataset, and why it went."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.data import card, croissant, dataset, ledger

_MOST = 20  # documents that are named
NOT_READ = 'not in the raw files, or could not be read'
UNKNOWN = 'not known: its documents/rejected is not there'


def diff(old: Path | str, new: Path | str) -> dict[str, Any]:
    """The difference of two datasets, by id and content.

    came, went and changed: by source and licence, how many documents and tokens.
    why: of those that went, how many for which reason: that they were removed, the
    step and reason by which the pipeline of `new` rejected them, NOT_READ or UNKNOWN.
    documents: of each that differs, [id, 'came', 'went' or 'changed', reason, value],
    where the value is what was measured, or the id of the document that stays instead.
    The reason of a change names what changed: 'text', which of another tokenizer's is
    told by its size, and what of the origin.
    """
    versions = [dataset.open(old), dataset.open(new)]
    digests = [_digests(one) for one in versions]
    ids = {i for one in digests for i in one if digests[0].get(i) != digests[1].get(i)}
    before, after = (_documents(one, ids) for one in versions)
    gone = {i: rows[0] for i, rows in before.items() if i not in after}
    reasons = _reasons(versions[1], gone)
    changes: list[list[Any]] = []
    ways: dict[str, list[list[ledger.Entry]]] = {'came': [], 'went': [], 'changed': []}
    for identity in sorted(ids):
        way, why = 'changed', ('', None)
        if identity not in before:
            way = 'came'
        elif identity in gone:
            way, why = 'went', reasons[identity]
        else:
            why = _what(versions, before[identity], after[identity]), None
        ways[way].append((before if way == 'went' else after)[identity])
        changes.append([identity, way, *why])
    return {
        'old': versions[0].manifest['digest'],
        'new': versions[1].manifest['digest'],
        'same': len(digests[0].keys() - ids),
        **{way: _counts(rows) for way, rows in ways.items()},
        'why': dict(sorted(Counter(why for why, _ in reasons.values()).items())),
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
        f'{way:8} {identity}  {why} {"" if value is None else value}'.rstrip()
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
) -> str:
    """What differs."""
    same = len({one.manifest['tokenizer']['digest'] for one in versions}) == 1
    texts = [
        [_tokens(built, e) if same else e.bytes for e in rows]
        for built, rows in zip(versions, (old, new), strict=True)
    ]
    names = [] if texts[0] == texts[1] else ['text']
    origin = (*ledger.ORIGIN[1:], 'steps')
    names += [n for n in origin if getattr(old[0], n) != getattr(new[0], n)]
    return ', '.join(names) or 'unit, label or signals'


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


def _reasons(
    built: dataset.Dataset, gone: Mapping[str, ledger.Entry]
) -> dict[str, tuple[str, Any]]:
    """Why these documents are not in a dataset: (reason, value) by id."""
    import pyarrow.parquet as pq

    folder = built.folder / croissant.REFINED / 'rejected'
    lost = 'refined' in built.manifest and not folder.is_dir()
    told = built.manifest.get('removed', ())
    removed = {(kind, name) for one in told for kind, name in one['wanted']}
    reasons: dict[str, tuple[str, Any]] = {}
    for identity, entry in gone.items():
        taken = any(name in removed for name in ledger.names(entry))
        other = UNKNOWN if lost else NOT_READ
        reasons[identity] = 'removed' if taken else other, None
    for path in sorted(folder.glob('*.parquet')):
        with pq.ParquetFile(path) as file:
            columns = ['id', 'step', 'reason', 'value']
            for batch in file.iter_batches(columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    if row['id'] in gone:
                        why = f'{row["step"]}: {row["reason"]}'
                        reasons[row['id']] = why, row['value']
    return reasons
