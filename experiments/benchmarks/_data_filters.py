"""Filters: published cases, decisions beside datatrove, and megabytes a second.

Needs GPTJAX_DATA (quality_labels, gutenberg_editions). datatrove runs in the Python
that GPTJAX_PEERS names, with our splitters in the place of spaCy; without it, its rows
are left out.
"""

from collections.abc import Iterator, Sequence
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from gptjax.data import documents, steps
from gptjax.data.dedup import table as dedup
from gptjax.data.filters import c4, table
from gptjax.data.read import table as readers

TESTS = Path(__file__).parents[2] / 'tests'
PAGES, TURNS = 5000, 5
# dolma, tests/python/test_gopher.py, of 'This is a test.'
DOLMA = {
    'top_2': 0.5, 'top_3': 0.5833333333333334, 'top_4': 1.0, 'characters': 15,
    'words': 4, 'word_length': 3, 'symbols': 0, 'alphabetic': 1, 'stop_words': 0,
    'bullet_lines': 0, 'ellipsis_lines': 0, 'lines': 0, 'line_characters': 0,
}  # fmt: skip
CHAIN = ('gopher_repetition', 'gopher', 'c4_paper', 'fineweb')


def rows() -> Iterator[dict[str, Any]]:
    sys.path.insert(0, str(TESTS))
    from golden import filters_pages

    yield _row('C4: tests of TFDS that pass', _cases(), 9, 'max', 'tests')
    yield _row("dolma's 13 values, largest difference", _dolma(), 1e-9, 'min', '')
    chain = [
        table.STEPS[filters_pages.STEPS[name][0]](**filters_pages.STEPS[name][1])
        for name in CHAIN
    ]
    for name, texts in real_texts(Path(os.environ['GPTJAX_DATA'])).items():
        size = sum(len(text.encode()) for text in texts) / 1e6
        own = statistics.median(seconds(chain, texts) for _ in range(TURNS))
        yield _row(f'filters on {name}, one core', size / own, 4, 'max', 'MB/s')
        if 'GPTJAX_PEERS' in os.environ:
            theirs = _datatrove(texts, 'seconds', CHAIN)
            row = _row(
                f'filters on {name} beside datatrove', theirs / own, 1, 'max', 'x'
            )
            yield {**row, 'ours': size / own, 'peer': size / theirs}
    if 'GPTJAX_PEERS' not in os.environ:
        print('filters: GPTJAX_PEERS is unset; the rows of datatrove are left out')
        return
    pages = filters_pages.make(PAGES, seed=2)
    ours = filters_pages.ours()
    decided = _datatrove(pages, 'decisions', list(ours))
    for name, judge in ours.items():
        pairs = zip(map(judge, pages), decided[name], strict=True)
        different = sum(a != b for a, b in pairs)
        yield _row(
            f'{name} beside datatrove, of {PAGES:,}',
            different,
            0,
            'min',
            'pages differ',
        )


def _row(
    name: str, value: float, goal: float, direction: str, unit: str
) -> dict[str, Any]:
    return {
        'name': name, 'value': value, 'goal': goal, 'direction': direction,
        'unit': unit,
    }  # fmt: skip


def _cases() -> int:
    """How many of the nine tests of c4_utils_test.py hold here."""
    cases = json.loads((TESTS / 'golden' / 'filters_c4.json').read_text())
    right: dict[str, bool] = {}
    for case in cases['pages']:
        bad = c4.bad_words(case['bad_words'])
        found, counters = c4.clean_page(case['text'], c4.CODE, bad)
        clean = found if isinstance(found, str) else None
        test = case['name'].partition(':')[0]
        holds = counters == case['counters'] and clean == case['clean']
        right[test] = right.get(test, True) and holds
    pages = [
        documents.Document(url, 'web/page', 'MIT', text=text, url=url)
        for url, text, _ in cases['lines']
    ]
    lines = dedup.STEPS['exact'](
        unit='line', normalise='case', keep='url', sentences_least=3
    )
    left = steps.in_memory(lines, pages)
    right['remove_duplicate_text'] = {
        page.url: getattr(result, 'text', None) for page, result in left
    } == {url: text for url, _, text in cases['lines']}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'cc_0.warc.wet'
        path.write_text(cases['wet']['file'])
        options = {'licence': 'MIT', 'kind': 'text', 'books': 'whole', 'verify': False}
        reader = readers.READERS['files'](str(path), **options)
        read = [page for unit in reader.units() for page in reader.read(unit)]
    right['split_wet_file'] = [
        [getattr(page, 'url', None), getattr(page, 'text', None)] for page in read
    ] == cases['wet']['pages']
    return sum(right.values())


def _dolma() -> float:
    page = documents.Document('id', 'web/page', 'MIT', text='This is a test.')
    sets = ['gopher_dolma', 'gopher_repetition_dolma']
    signals = table.STEPS['signals'](sets=sets)(page).signals
    found = {name.partition('.')[2]: value for name, value in signals.items()}
    return max(abs(found[name] - value) for name, value in DOLMA.items())


def real_texts(data: Path) -> dict[str, list[str]]:
    """Pages of the web, and stretches of 20,000 characters of books."""
    files = sorted((data / 'quality_labels').glob('*.jsonl'))
    lines = [line for file in files for line in file.read_text().splitlines()]
    books = [
        file.read_text(errors='replace')
        for file in sorted((data / 'gutenberg_editions').glob('*.txt'))
    ]
    parts = [
        book[i : i + 20_000] for book in books for i in range(0, len(book), 20_000)
    ]
    return {'web pages': [json.loads(x)['text'] for x in lines], 'books': parts}


def seconds(chain: Sequence[steps.Step], texts: Sequence[str]) -> float:
    """Of one core, for pages that pass from step to step until one rejects them."""
    start = time.process_time()
    for text in texts:
        page: steps.Result = documents.Document('id', 'web/page', 'MIT', text=text)
        for step in chain:
            if isinstance(page, documents.Document):
                page = step(page)
    return time.process_time() - start


def _datatrove(texts: Sequence[str], wanted: str, names: Sequence[str]) -> Any:
    """Of its filters, the seconds as a chain, or what each tells of each text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'texts.json'
        path.write_text(json.dumps(texts))
        script = str(TESTS / 'golden' / 'filters_oracle.py')
        done = subprocess.run(
            [os.environ['GPTJAX_PEERS'], script, wanted, str(path), *names],
            env={**os.environ, 'PYTHONPATH': str(TESTS.parent)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return json.loads(done.stdout)
