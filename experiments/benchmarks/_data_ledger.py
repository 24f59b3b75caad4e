"""Provenance: whether every token has a row of the ledger, and the card is true.

On the chapters of the Rust book, refined and built here; GPTJAX_DATA has rust_book.
"""

from collections import Counter
from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import tempfile
from typing import Any

import numpy as np

from gptjax.data import build, card, croissant, dataset
from gptjax.data.refine import runner

_COUNTS = ('documents', 'bytes', 'tokens')


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stderr(open(os.devnull, 'w')):
            made = _made(Path(folder))
        once, tokens, counts = _recount(made)
        yield {
            'name': f'tokens with exactly one row of the ledger, of {tokens:,}',
            'value': once / tokens,
            'goal': 1.0,
            'direction': 'max',
            'unit': 'share',
        }
        yield {
            'name': 'counts of the data card that differ from a recount',
            'value': _differences(card.text(made.manifest), counts),
            'goal': 0,
            'direction': 'min',
            'unit': 'counts',
        }
        yield {
            'name': 'errors of croissant.json, by mlcroissant',
            'value': _errors(made),
            'goal': 0,
            'direction': 'min',
            'unit': 'errors',
        }


def _made(folder: Path) -> dataset.Dataset:
    raw = Path(os.environ['GPTJAX_DATA']) / 'rust_book'
    runner.refine(
        folder / 'documents',
        path=str(raw),
        read=dict(
            name='files', licence='MIT', kind='text', books='chapter', verify=True
        ),
        steps=(
            dict(name='length', least=200, most=None),
            dict(name='exact', unit='document', normalise='words', keep='id'),
        ),
        licences=('MIT',),
        run=dict(workers=2, shards=4, most_bad=0.1),
    )
    return build.build(
        folder,
        corpus=dict(name='refined', path=str(folder / 'documents')),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.1, by='document'),
        shard_tokens=2**18,
    )


def _recount(made: dataset.Dataset) -> tuple[int, int, dict[tuple[str, ...], int]]:
    """Tokens of one row, all tokens, and the counts by source and by split."""
    import pyarrow.parquet as pq

    once = total = 0
    counts: Counter[tuple[str, ...]] = Counter()
    for split in made.manifest['splits']:
        for path in sorted((made.folder / split).glob('*.parquet')):
            tokens = np.fromfile(path.with_suffix('.tokens'), made.manifest['dtype'])
            owners = np.zeros(len(tokens), int)
            for row in pq.read_table(path).to_pylist():
                owners[row['start'] : row['end']] += 1
                size = row['end'] - row['start']
                group = row['source'].split('/')[0]
                values = dict(zip(_COUNTS, (1, size - 1, size), strict=True))
                for name, value in values.items():
                    counts[group, row['licence'], name] += value
                    counts[split, name] += value
            once += int((owners == 1).sum())
            total += len(tokens)
    return once, total, counts


def _differences(text: str, counts: dict[tuple[str, ...], int]) -> int:
    """Counts that the tables of the card do not have, and those that only they have."""
    shown: dict[tuple[str, ...], int] = {}
    for title, left in (('Sources', 2), ('Held out', 1)):
        section = text.split(f'\n## {title}\n')[1].split('\n## ')[0]
        lines = [line for line in section.splitlines() if line.startswith('|')]
        for line in lines[2:]:
            cells = [cell.strip() for cell in line.strip('|').split('|')]
            for name, cell in zip(_COUNTS, cells[left : left + 3], strict=True):
                shown[*cells[:left], name] = int(cell.replace(',', ''))
    return sum(shown.get(k) != counts.get(k) for k in shown.keys() | counts.keys())


def _errors(made: dataset.Dataset) -> int:
    import mlcroissant

    described = mlcroissant.Dataset(made.folder / croissant.FILE)
    known = sum(split['documents'] for split in made.manifest['splits'].values())
    read = sum(len(list(described.records(name))) for name in made.manifest['splits'])
    return len(described.metadata.issues.errors) + abs(known - read)
