"""Post-training: the figures of chat, LoRA, preferences, rewards and RL.

    make benchmark AREA=post         all of it
    make benchmark AREA=post.losses  one part: _post_losses.py

Needs GPTJAX_DATA, the folder of real data. Peers (TRL, PEFT, transformers) run in the
Python that GPTJAX_PEERS names, which `make benchmark` sets to .venv-parity.
"""

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks import _parts


def measure(part: str = '') -> Iterator[dict[str, Any]]:
    """The rows of one part, or of all."""
    return _parts.measure('post', part)
