"""A Hugging Face folder of seeded weights, written by NumPy alone."""

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
from typing import Any

from golden import weights
import numpy as np
import safetensors.numpy


def write(
    path: Path,
    config: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    seed: int,
) -> dict[str, np.ndarray]:
    """Writes config.json and model.safetensors, and returns the tensors."""
    path.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: weights.tensor(name, shape, seed) for name, shape in shapes.items()
    }
    (path / 'config.json').write_text(json.dumps(config))
    safetensors.numpy.save_file(
        tensors, path / 'model.safetensors', metadata={'format': 'pt'}
    )
    return tensors
