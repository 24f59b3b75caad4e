"""Decontamination: what it finds of what was planted, and in books, which are clean."""

import bz2
from collections.abc import Iterator
import json
import os
from pathlib import Path
import random
import re
import tarfile
import tempfile
import time
from typing import Any
import unicodedata

from gptjax.data import decontaminate, documents

NGRAM, PLANTED = 13, 2000
FIND = ('query', 'answer', 'overlap')


def rows() -> Iterator[dict[str, Any]]:
    data = Path(os.environ['GPTJAX_DATA'])
    with tempfile.TemporaryDirectory() as folder:
        sets = _evaluations(data, Path(folder))
        step = decontaminate.decontaminate(
            path=sets, find=FIND, ngram=NGRAM, shortest=4
        )
        texts = [
            words
            for one in sets
            for words in _texts(Path(one if isinstance(one, str) else one['path']))
        ]
    books = _paragraphs(data)
    draw = random.Random(0)
    found = sum(_hit(step, _plant(draw, texts, books)) for _ in range(PLANTED))
    yield _row(f'recall of {PLANTED:,} planted runs', found / PLANTED, 1, 'max')
    before = time.process_time()
    hits = [text for text in books if _hit(step, text)]
    seconds = time.process_time() - before
    share = len(hits) / len(books)
    yield _row(f'of {len(books):,} paragraphs of books, rejected', share, 1e-4, 'min')
    # By another way of looking: a set of the n-grams themselves.
    known = {tuple(one[i : i + NGRAM]) for one in texts for i in range(len(one))}
    wrong = sum(not known & set(_grams(_words(text))) for text in hits)
    name = 'of these, without a run of 13 words in an evaluation'
    yield _row(name, wrong / len(books), 1e-4, 'min')
    speed = sum(map(len, books)) / 1e6 / seconds
    yield _row('speed on one core', speed, 4, 'max', 'MB/s')


def _evaluations(data: Path, folder: Path) -> list[str | dict[str, str]]:
    """CORE, GSM8K, MMLU and HellaSwag, as the step reads them."""
    lines = bz2.decompress((data / 'hellaswag/hellaswag_val.txt.bz2').read_bytes())
    cut = lines.decode().splitlines()
    with (folder / 'hellaswag.jsonl').open('w') as file:
        for at in range(0, len(cut) - 5, 6):
            row = dict(zip(('ctx', 'right'), cut[at : at + 2], strict=True))
            file.write(json.dumps({**row, 'endings': cut[at + 2 : at + 6]}) + '\n')
    with tarfile.open(data / 'mmlu/mmlu.tar.gz') as archive:
        archive.extractall(folder / 'mmlu', filter='data')
    fields = {'query': 'ctx', 'answer': 'endings', 'right': 'right'}
    return [
        {'path': str(folder / 'hellaswag.jsonl'), **fields},
        str(data / 'core_eval'),
        str(data / 'gsm8k'),
        str(folder / 'mmlu'),
    ]


def _texts(path: Path) -> Iterator[list[str]]:
    """The words of each text, all of it; of HellaSwag, of question and right answer."""
    for file in sorted(path.rglob('*')) if path.is_dir() else [path]:
        if file.suffix not in ('.jsonl', '.csv'):
            continue
        for record in decontaminate._records(file):
            if 'ctx' in record:
                right = record['endings'][int(record['right'])]
                yield _words(f'{record["ctx"]} {right}')
            else:
                yield from map(_words, decontaminate._strings(record))


def _paragraphs(data: Path) -> list[str]:
    found = []
    for book in sorted((data / 'standardebooks').glob('*.tar.gz')):
        with tarfile.open(book) as archive:
            for member in archive:
                if '/text/' in member.name and member.name.endswith('.xhtml'):
                    opened = archive.extractfile(member)
                    assert opened
                    page = opened.read().decode()
                    found += re.findall(r'<p>(.*?)</p>', page, re.DOTALL)
    plain = [re.sub(r'<[^>]+>', '', text) for text in found]
    return [text for text in plain if len(text.split()) >= NGRAM]


def _plant(draw: random.Random, texts: list[list[str]], books: list[str]) -> str:
    """A run of 13 words in a paragraph, in capitals and between commas."""
    words: list[str] = []
    while len(words) < NGRAM:
        words = draw.choice(texts)
    at = draw.randint(0, len(words) - NGRAM)
    run = ', '.join(words[at : at + NGRAM]).upper()
    around = draw.choice(books).split(' ')
    around.insert(draw.randint(0, len(around)), f'“{run}!”')
    return ' '.join(around)


def _words(text: str) -> list[str]:
    """As the step has them, character by character."""
    return ''.join(c for c in text.casefold() if c.isspace() or not _mark(c)).split()


def _mark(c: str) -> bool:
    return unicodedata.category(c)[0] in 'PS'


def _grams(words: list[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1))


def _hit(step: Any, text: str) -> bool:
    return isinstance(
        step(documents.Document('a', 'a/b', 'CC0-1.0', text=text)), documents.Reject
    )


def _row(
    name: str, value: float, goal: float, direction: str, unit: str = 'share'
) -> dict[str, Any]:
    return {
        'name': f'decontamination: {name}', 'value': value, 'goal': goal,
        'direction': direction, 'unit': unit,
    }  # fmt: skip
