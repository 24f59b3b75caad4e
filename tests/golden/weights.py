"""Weights that need not be stored: each follows from its Hugging Face name and shape.

Products keep the size of what they multiply, norms stand around 1 and biases are not 0,
so that every tensor moves the logits.
"""

from collections.abc import Sequence
import zlib

import numpy as np

_EMBEDDINGS = ('wte', 'wpe', 'embed', 'shared')
PROJECTIONS = 4


def _random(name: str, seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))


def tensor(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """The float32 weight that a folder holds under this name."""
    normal = _random(name, seed).standard_normal(tuple(shape))
    if name.endswith('bias'):
        value = 0.3 * normal
    elif len(shape) == 1:
        value = 1 + 0.3 * normal
    elif any(part in name for part in _EMBEDDINGS):
        value = 0.6 * normal
    else:
        value = 1.4 * (2 / sum(shape)) ** 0.5 * normal
    return value.astype(np.float32)


def summary(name: str, gradient: np.ndarray) -> np.ndarray:
    """What is stored of a gradient: its norm, and its products with random vectors.

    A product has the size of the norm, and changes with every number of the gradient.
    """
    flat = np.asarray(gradient, np.float64).ravel()
    directions = _random(f'{name}/gradient', 0).standard_normal(
        (PROJECTIONS, flat.size)
    )
    return np.concatenate([[np.linalg.norm(flat)], directions @ flat])
