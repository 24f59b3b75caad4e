"""Areas whose figures come from several files, `_AREA_PART.py`, each with `rows()`."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any


def measure(area: str, part: str) -> Iterator[dict[str, Any]]:
    """The rows of one part, or of all where it is ''."""
    prefix = f'_{area}_'
    files = sorted(Path(__file__).parent.glob(f'{prefix}*.py'))
    parts = [path.stem.removeprefix(prefix) for path in files]
    for name in [part] if part else parts:
        module = import_module(f'experiments.benchmarks.{prefix}{name}')
        for row in module.rows():
            yield {'command': f'make benchmark AREA={area}.{name}', **row}
