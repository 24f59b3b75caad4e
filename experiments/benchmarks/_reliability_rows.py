"""The state of the data, and how soon the rows of step 10,000,000 are there.

The time is the median of five, so that TensorFlow is imported already.
"""

from collections.abc import Iterator
import contextlib
import json
from pathlib import Path
import statistics
import tempfile
import time
from typing import Any

from gptjax.data import build, mixture, pipeline
from gptjax.data import rows as rows_lib

STEP, BATCH, T, SEED = 10_000_000, 8, 128, 3


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        one = _built(Path(folder), 'one')
        both = [
            mixture.Source(one, 1, [(0, 0.5), (1000, 0.1)]),
            mixture.Source(_built(Path(folder), 'other'), 2, [(0, 0.5), (1000, 0.9)]),
        ]
        for name, found in (
            ('a dataset', one),
            ('a mixture', mixture.Mixture(both, BATCH)),
        ):
            for loader in pipeline.LOADERS:
                yield {
                    'name': f'batch of step {STEP:,} of {name} ({loader})',
                    'value': statistics.median(_seek(found, loader) for _ in range(5)),
                    'goal': 1.0,
                    'direction': 'min',
                    'unit': 's',
                }
    yield {
        'name': 'data state with a window of skipped rows',
        'value': len(
            json.dumps({'row': STEP * BATCH, 'skips': [[STEP * BATCH, STEP * BATCH]]})
        ),
        'goal': 64,
        'direction': 'min',
        'unit': 'bytes',
    }


def _built(folder: Path, name: str) -> rows_lib.Rows:
    raw = folder / f'{name}.txt'
    raw.write_text('\n'.join(f'{name} {n}' for n in range(100_000)))
    made = build.build(
        folder / name,
        corpus=dict(name='text', path=str(raw), licence='CC0-1.0'),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.1, by='tail'),
        shard_tokens=1 << 20,
    )
    return made.rows('train', T)


def _seek(found: rows_lib.Rows, loader: str) -> float:
    """Seconds until the first batch is there; checked against the pure function."""
    if isinstance(found, mixture.Mixture):
        found = found.over(lambda rows, _: rows)  # with nothing worked out before
    row = STEP * BATCH
    options: Any = dict(seed=SEED, batch_size=BATCH, start_row=row, owned=None)
    began = time.perf_counter()
    stream = pipeline.batches(found, **options, loader=loader)
    with contextlib.closing(stream):
        batch = next(stream)
        took = time.perf_counter() - began
    same = pipeline.batch(found, seed=SEED, batch_size=BATCH, row=row)
    assert all((batch[key] == same[key]).all() for key in same)
    return took
