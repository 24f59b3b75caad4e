"""The runner: speed of a whole chain, two processes, memory of a worker, kills.

GPTJAX_GIB is the size of the generated corpus of the row of memory (default 0.25);
GPTJAX_KILLS how often runs are killed (50).
"""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from configs.data import web
from gptjax.data import documents
from gptjax.data.read import files

ROOT = Path(__file__).parents[2]
PAGE, ROUNDS, PARTS = 4000, 3, 16
DRIVER = """
import json, resource, sys
from gptjax.data.refine import runner

if __name__ == '__main__':
    runner.refine(sys.argv[1], **json.loads(sys.argv[2]))
    peaks = [resource.getrusage(who).ru_maxrss for who in (
        resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(max(peaks))
"""


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        yield from _memory(folder)
        if 'GPTJAX_DATA' not in os.environ:
            print('run: GPTJAX_DATA is unset; the rows of real pages are left out')
            return
        pages = _pages(Path(os.environ['GPTJAX_DATA']))
        yield from _speed(pages, folder)
        yield from _kills(pages, folder)


def _row(
    name: str, value: float, goal: float, direction: str, unit: str
) -> dict[str, Any]:
    return {
        'name': name, 'value': value, 'goal': goal, 'direction': direction,
        'unit': unit,
    }  # fmt: skip


def _pages(data: Path) -> list[str]:
    """Pages of the web that people judged, and books in pieces of PAGE characters."""
    pages = [
        json.loads(line)['text']
        for path in sorted((data / 'quality_labels').glob('*.jsonl'))
        for line in path.read_text().splitlines()
    ]
    reader = files.files(
        str(data / 'standardebooks'), licence='CC0-1.0', kind='text', books='chapter',
        verify=False,
    )  # fmt: skip
    for unit in reader.units():
        for found in reader.read(unit):
            if isinstance(found, documents.Document) and found.text:
                page = ''
                for line in found.text.splitlines(keepends=True):
                    page += line
                    if len(page) >= PAGE:
                        pages.append(page)
                        page = ''
    return pages


def _write(pages: list[str], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for part in range(PARTS):
        lines = [json.dumps({'text': text}) + '\n' for text in pages[part::PARTS]]
        (folder / f'{part:02}.jsonl').write_text(''.join(lines))
    return folder


def _options(path: Path, steps: Any, workers: int) -> dict[str, Any]:
    config = web.get_config().to_dict()
    return {
        'path': str(path),
        'read': {**config['read'], 'licence': 'MIT'},
        'steps': steps or config['steps'],
        'licences': ('MIT',),
        'run': {'workers': workers, 'shards': 4, 'most_bad': 0.0},
    }


def _run(output: Path, options: dict[str, Any]) -> tuple[float, int]:
    """Seconds by the clock, and the largest peak of its processes in KiB."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, '-c', DRIVER, str(output), json.dumps(options)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return time.monotonic() - began, int(done.stdout)


def _speed(pages: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Both sides by turns; less the time of a run of 16 words, which is the start."""
    raw = _write(pages, folder / 'pages')
    empty = _write(['A page.'] * PARTS, folder / 'empty')
    size = sum(len(page.encode()) for page in pages) / 1e6
    times: dict[tuple[str, int], list[float]] = {}
    for turn in range(ROUNDS):
        for path in (empty, raw):
            for workers in (1, 2):
                output = folder / f'speed-{path.name}-{workers}-{turn}'
                wall, _ = _run(output, _options(path, None, workers))
                times.setdefault((path.name, workers), []).append(wall)
    least = {key: min(seconds) for key, seconds in times.items()}
    one = least['pages', 1] - least['empty', 1]
    two = least['pages', 2] - least['empty', 2]
    print(f'run: {size:.1f} MB, {one:.2f} s in one process, {two:.2f} s in two')
    yield _row('configs/data/web.py after extraction', size / one, 0.8, 'max', 'MB/s')
    yield _row('two processes over one', one / two, 1.8, 'max', 'times')


def _memory(folder: Path) -> Iterator[dict[str, Any]]:
    size = float(os.environ.get('GPTJAX_GIB', '0.25'))
    raw = folder / 'generated'
    _generate(raw, int(size * 2**30))
    steps = [
        one
        for one in web.get_config().to_dict()['steps']
        if one['name'] in ('exact', 'minhash')
    ]
    output = folder / 'memory'
    wall, peak = _run(output, _options(raw, steps, 2))
    manifest = json.loads((output / 'manifest.json').read_text())
    print(f'run: {size} GiB in {wall:.0f} s: {manifest["rejected"]}')
    name = f'peak RSS of a worker, {size:g} GiB, exact and MinHash'
    yield _row(name, peak / 2**20, 1.0, 'min', 'GiB')
    shutil.rmtree(raw)
    shutil.rmtree(output)


def _generate(folder: Path, size: int) -> None:
    """Texts of random words, a twentieth of them copies and a twentieth near ones."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    letters = np.array(list('etaoinshrdlu'))
    words = [''.join(rng.choice(letters, rng.integers(2, 10))) for _ in range(50_000)]
    written = number = 0
    while written < size:
        with (folder / f'{number:05}.jsonl').open('w') as file:
            number += 1
            for _ in range(4):
                made = [
                    [words[i] for i in row]
                    for row in rng.integers(0, len(words), (1000, 480))
                ]
                for place in range(0, 1000, 10):
                    made[place] = made[place + 1]
                    made[place + 2] = [*made[place + 3][:-3], 'a', 'b', 'c']
                for text in made:
                    line = json.dumps({'text': ' '.join(text)}) + '\n'
                    file.write(line)
                    written += len(line)


def _kills(pages: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Runs that are killed and begun again until one ends, until there were enough."""
    raw = _write(pages[:300], folder / 'few')
    options = _options(raw, None, 2)
    wall, _ = _run(folder / 'whole', options)
    expected = _contents(folder / 'whole')
    kills = int(os.environ.get('GPTJAX_KILLS', '50'))
    left, trial, different = kills, 0, 0
    rng = random.Random()
    while left > 0:
        output = folder / f'killed-{trial}'
        trial += 1
        while left > 0:
            run = subprocess.Popen(
                [sys.executable, '-c', DRIVER, str(output), json.dumps(options)],
                cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            try:
                run.wait(rng.uniform(0.1, 1) * wall)
                break
            except subprocess.TimeoutExpired:
                if left % 2:
                    run.kill()  # the parent alone, or its workers with it
                else:
                    os.killpg(run.pid, signal.SIGKILL)
                run.wait()
                left -= 1
        _run(output, options)
        different += _contents(output) != expected
    print(f'run: killed while {trial} outputs were made')
    yield _row(
        f'outputs that differ after {kills} kills', different, 0, 'min', 'outputs'
    )


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }
