"""The texts of the sentiment task: paragraphs of books, and pieces of film reviews.

    python -m experiments.benchmarks._sentiment --output=runs/sentiment

Needs GPTJAX_DATA: 20 books of Standard Ebooks (public domain) and nltk's movie reviews
(Pang and Lee, 2004; CC BY 4.0). Writes books.jsonl, a paragraph a line, and
reviews.jsonl, two sentences a line with the label of their review.
"""

import argparse
from collections.abc import Iterator
import json
import os
from pathlib import Path
import re
import subprocess
import sys
from typing import Any
import zipfile

import pyarrow.parquet

SHORTEST, LONGEST = 80, 600  # characters of a paragraph
SENTENCES = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--output', type=Path, required=True)
    make(Path(os.environ['GPTJAX_DATA']), parser.parse_args().output)


def make(data: Path, output: Path) -> None:
    """Writes both files, unless they are there."""
    output.mkdir(parents=True, exist_ok=True)
    if not (output / 'books.jsonl').exists():
        refined = output / 'books'
        command = (
            sys.executable, '-m', 'gptjax.data', '--config=configs/data/books.py',
            f'--config.path={data / "standardebooks"}', f'--output={refined}',
        )  # fmt: skip
        subprocess.run(command, check=True)
        _write(output / 'books.jsonl', _paragraphs(refined / 'documents'))
    if not (output / 'reviews.jsonl').exists():
        reviews = data / 'nltk_small' / 'movie_reviews.zip'
        _write(output / 'reviews.jsonl', _reviews(reviews))


def _paragraphs(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob('*.parquet')):
        for row in pyarrow.parquet.read_table(file).to_pylist():
            for text in row['text'].split('\n'):
                if SHORTEST <= len(text) <= LONGEST:
                    yield {
                        'text': text,
                        'licence': row['licence'],
                        'source': row['source'],
                    }


def _reviews(path: Path) -> Iterator[dict[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            found = re.fullmatch(r'movie_reviews/(pos|neg)/(\w+)\.txt', name)
            if not found:
                continue
            lines = archive.read(name).decode().splitlines()
            for start in range(0, len(lines) - SENTENCES + 1, SENTENCES):
                text = ' '.join(lines[start : start + SENTENCES])
                yield {
                    'text': re.sub(r'\s+', ' ', text).strip(),
                    'label': found[1],
                    'unit': found[2],
                    'source': f'movie_reviews/{found[2]}',
                    'licence': 'CC-BY-4.0',
                }


def _write(path: Path, records: Iterator[dict[str, Any]]) -> None:
    temporary = path.with_suffix('.tmp')
    with temporary.open('w') as file:
        file.writelines(json.dumps(record) + '\n' for record in records)
    temporary.rename(path)


if __name__ == '__main__':
    main()
