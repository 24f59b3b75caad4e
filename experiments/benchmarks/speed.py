"""Speed: training, decoding, loading, compiling and saving, ours beside the peers.

    make benchmark AREA=speed         all of it
    make benchmark AREA=speed.loader  one part: _speed_loader.py

Peers run in the Python that GPTJAX_PEERS names, which `make benchmark` sets to
.venv-parity. What needs an accelerator is measured where there is one and is else named
as not measured; _speed_gpu.py has a command for each figure.
"""

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks import _parts


def measure(part: str = '') -> Iterator[dict[str, Any]]:
    """The rows of one part, or of all."""
    return _parts.measure('speed', part)
