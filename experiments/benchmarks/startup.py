"""How long a user waits before anything happens: the median of five processes each."""

from collections.abc import Iterator
import statistics
import subprocess
import sys
import time


def measure() -> Iterator[dict[str, object]]:
    program = 'import gptjax'
    yield dict(
        name='import gptjax',
        value=_seconds('-c', program),
        goal=0.2,
        direction='min',
        unit='s',
        command=f"python -c '{program}'",
    )
    for verb in ('data', 'train', 'evals', 'generate', 'serve'):
        yield dict(
            name=f'{verb} --help',
            value=_seconds('-m', f'gptjax.{verb}', '--help'),
            goal=1.0,
            direction='min',
            unit='s',
            command=f'python -m gptjax.{verb} --help',
        )


def _seconds(*arguments: str) -> float:
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
