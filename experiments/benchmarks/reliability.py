"""Reliability: what checkpoints, recovery and the ledger cost.

make benchmark AREA=reliability             all of it
make benchmark AREA=reliability.checkpoint  one part: _reliability_checkpoint.py

The proofs are in tests/faults: `make test-faults`.
"""

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks import _parts


def measure(part: str = '') -> Iterator[dict[str, Any]]:
    """The rows of one part, or of all."""
    return _parts.measure('reliability', part)
