"""How long a save keeps training waiting, and what noticing damage costs it."""

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks import _reliability_checkpoint


def rows() -> Iterator[dict[str, Any]]:
    """The same figures as in the area of reliability."""
    return _reliability_checkpoint.rows()
