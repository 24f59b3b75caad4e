"""Data: the figures of cleaning, deduplication, privacy, provenance and loading.

    make benchmark AREA=data          all of it, about half an hour
    make benchmark AREA=data.filters  one part: _data_filters.py

Needs GPTJAX_DATA, the folder of real data. Peers (datasketch, rensa, datatrove) run in
the Python that GPTJAX_PEERS names, which `make benchmark` sets to .venv-parity.
"""

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks import _parts


def measure(part: str = '') -> Iterator[dict[str, Any]]:
    """The rows of one part, or of all."""
    return _parts.measure('data', part)
