"""Data: the figures of cleaning, deduplication, privacy, provenance and loading.

    make benchmark AREA=data          all of it, about half an hour
    make benchmark AREA=data.filters  one part: _data_filters.py

Needs GPTJAX_DATA, the folder of real data. Peers (datasketch, rensa, datatrove) run in
the Python that GPTJAX_PEERS names, which `make benchmark` sets to .venv-parity.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

PARTS = sorted(
    path.stem.removeprefix('_data_')
    for path in Path(__file__).parent.glob('_data_*.py')
)


def measure(part: str = '') -> Iterator[dict[str, Any]]:
    """The rows of one part, or of all."""
    for name in [part] if part else PARTS:
        module = import_module(f'experiments.benchmarks._data_{name}')
        for row in module.rows():
            yield {'command': f'make benchmark AREA=data.{name}', **row}
