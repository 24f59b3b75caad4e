"""What the ledger and the watchdog cost a step; how soon a killed run trains again.

The second figure is of a small run that is killed every 20 s on average, six times: the
time from the start of a process to its first step, from the run's own ledger, whose
line may come a second late.
"""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import random
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from gptjax.train import goodput, phases, watchdog

STEPS = 20_000
KILLS, MTBF = 6, 20.0  # seconds

CONFIG = """
from configs import shakespeare_char

def get_config():
    config = shakespeare_char.get_config()
    config.steps = 1_000_000
    config.checkpoint.every = 20
    config.data.loader = 'threads'
    config.data.build.tokenizer = dict(name='bytes')
    return config
"""


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        costs = [_cost(Path(folder) / str(turn)) for turn in range(7)]
        yield {
            'name': 'ledger and watchdog, of a step',
            'value': statistics.median(costs) * 1e6,
            'goal': 50.0,
            'direction': 'min',
            'unit': 'microseconds',
        }
        yield from _restarts(Path(folder))


def _cost(folder: Path) -> float:
    """Seconds that the loop's calls of a step take, with the thread beside."""
    spent = phases.Phases(folder)
    spent.begin(0)
    with watchdog.watching(spent, 20.0, folder / 'hang-0.txt'):
        start = time.perf_counter()
        for step in range(1, STEPS + 1):
            spent.enter('data')
            spent.enter('step', was='step')
            spent.enter('collective')
            spent.enter('step')
            spent.write(step)
        taken = (time.perf_counter() - start) / STEPS
    spent.close()
    return taken


def _restarts(folder: Path) -> Iterator[dict[str, Any]]:
    config, workdir = folder / 'config.py', folder / 'run'
    config.write_text(CONFIG)
    raw = folder / 'text.txt'
    words = random.Random(0).choices(('to', 'be', 'or', 'not', 'that', 'is'), k=200_000)
    raw.write_text(' '.join(words))
    command = [
        sys.executable, '-m', 'gptjax.train', f'--config={config}',
        f'--workdir={workdir}', f'--config.data.path={raw}',
    ]  # fmt: skip
    cache = {
        'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }
    draw = random.Random(1)
    for _ in range(KILLS):
        with (folder / 'errors').open('a') as errors:
            process = subprocess.Popen(
                command, env={**os.environ, **cache}, stderr=errors
            )
            _wait_for_steps(workdir, process)
            time.sleep(draw.expovariate(1 / MTBF))
            process.kill()
            process.wait()
    lines = goodput.lines(workdir)
    starts = sorted({line['began'] for line in lines})
    taken = [_to_first_step([x for x in lines if x['began'] == at]) for at in starts]
    yield {
        'name': 'a killed run trains again',
        'value': statistics.median(taken[1:]),
        'goal': 20.0,
        'direction': 'min',
        'unit': 's, process start to first step, compilations cached',
        'first start': taken[0],
    }
    found = goodput.account(lines)
    print(json.dumps(found))


def _steps(lines: list[dict[str, Any]]) -> list[float]:
    """The times of lines that tell of steps done since their process began."""
    begun = [line['step'] for line in lines if 'from' in line]
    return [x['time'] for x in lines if begun and (x['step'] or 0) > begun[0]]


def _to_first_step(lines: list[dict[str, Any]]) -> float:
    return _steps(lines)[0] - float(lines[0]['began'])


def _wait_for_steps(workdir: Path, process: subprocess.Popen[bytes]) -> None:
    """Returns once the newest process has made a step."""
    began = time.time()
    while process.poll() is None:
        if (workdir / phases.LEDGER).exists():
            lines = [x for x in goodput.lines(workdir) if x['began'] > began - 1]
            if _steps(lines):
                return
        time.sleep(0.5)
    raise AssertionError(f'the run ended with {process.returncode}')
