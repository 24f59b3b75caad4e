"""Scale: one model over many chips, and plans for chips that are not here.

make benchmark AREA=scale       all of it
make benchmark AREA=scale.plan  one part: _scale_plan.py
"""

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks import _parts


def measure(part: str = '') -> Iterator[dict[str, Any]]:
    """The rows of one part, or of all."""
    return _parts.measure('scale', part)
