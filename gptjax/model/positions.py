"""Positions that are computed: sines, and the rotation of queries and keys."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from gptjax.model import config


class Turn(NamedTuple):
    """The angles by which each token's queries and keys are turned: their cos, sin."""

    cos_BTh: Float[Array, 'B T h']
    sin_BTh: Float[Array, 'B T h']


def sinusoids(
    positions_BT: Int[Array, 'B T'], D: int, base: float
) -> Float[Array, 'B T D']:
    """Sines, then cosines, of position / base^(2i/D) (Vaswani et al., 2017, 3.5).

    The paper takes them in turns; that is another order of the channels.
    """
    angles = positions_BT[..., None] * _frequencies(D, base).astype(np.float32)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[..., :D]


def turn(positions_BT: Int[Array, 'B T'], H: int, rotary: config.Positions) -> Turn:
    """The angles position x frequency of rotary positions (Su et al., 2021)."""
    frequencies_h = scaled(_frequencies(H, rotary.base), rotary).astype(np.float32)
    angles_BTh = positions_BT[..., None].astype(jnp.float32) * frequencies_h
    return Turn(jnp.cos(angles_BTh), jnp.sin(angles_BTh))


def rotate(x_BTNH: Float[Array, 'B T N H'], by: Turn) -> Float[Array, 'B T N H']:
    """Turns channel pairs (i, i + H/2): the convention of Llama's published weights."""
    cos, sin = by.cos_BTh[:, :, None], by.sin_BTh[:, :, None]
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = first * cos - second * sin, second * cos + first * sin
    return jnp.concatenate(turned, axis=-1).astype(x_BTNH.dtype)


def _frequencies(width: int, base: float) -> np.ndarray:
    return base ** -(np.arange(0, width, 2, dtype=np.float64) / width)


def scaled(frequencies: np.ndarray, rotary: config.Positions) -> np.ndarray:
    """Frequencies for a context beyond the one trained on.

    'llama3' (the reference code of Llama 3.1): a wave that turns less than `low` times
    in the original context is slowed by `factor`, one that turns more than `high`
    times is kept, and in between the two are mixed linearly.
    """
    if rotary.scaling == 'linear':
        return frequencies / rotary.factor
    if rotary.scaling == 'none':
        return frequencies
    turns = rotary.original * frequencies / (2 * math.pi)
    kept = np.clip((turns - rotary.low) / (rotary.high - rotary.low), 0, 1)
    return frequencies * (kept + (1 - kept) / rotary.factor)
