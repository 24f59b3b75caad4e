"""Reading: pages a second by both extractors, and what recorded files give."""

from collections.abc import Iterator
import os
from pathlib import Path
import time
from typing import Any

from gptjax.data import documents
from gptjax.data.read import extract, files

# Pages: those that warcio finds in the good files (see read_warc_test.py), and by hand
# in the broken ones. Pieces: 3 records without a length, 1 page of a wrong digest, and
# what is between two records.
PAGES, BROKEN = 72, 5
ROUNDS = 3


def rows() -> Iterator[dict[str, Any]]:
    folder = Path(os.environ['GPTJAX_DATA']) / 'warc'
    reader = files.files(
        str(folder), licence='unknown', kind='text', books='whole', verify=True
    )
    found = [one for unit in reader.units() for one in reader.read(unit)]
    pages = [
        one
        for one in found
        if isinstance(one, documents.Document) and one.media == 'text/html'
    ]
    skipped = sum(isinstance(one, documents.Skipped) for one in found)
    yield _exact('reading: pages in broken and whole WARC files', len(pages), PAGES)
    yield _exact('reading: pieces of them that are reported', skipped, BROKEN)
    for by in ('trafilatura', 'resiliparse'):
        step = extract.extract(by=by)
        step(pages[0])
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for page in pages:
                step(page)
            times.append(time.perf_counter() - start)
        yield {
            'name': f'extraction by {by}, for the record',
            'value': len(pages) / sorted(times)[ROUNDS // 2],
            'goal': 0,
            'direction': 'max',
            'unit': 'pages/s',
        }


def _exact(name: str, value: int, known: int) -> dict[str, Any]:
    """How far a count is from the known one."""
    return {
        'name': f'{name}: {known}, off by',
        'value': abs(value - known),
        'goal': 0,
        'direction': 'min',
        'unit': 'counts',
    }
