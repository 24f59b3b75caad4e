"""Reward models on held-out pairs: what they rank right, and what they are sure of."""

from typing import Any

import jax
from jaxtyping import Float
import numpy as np

from gptjax.data import rows as rows_lib
from gptjax.objectives import reward
from gptjax.train import build, feed

BINS = 10


def ranked(
    trained: build.Trained, rows: rows_lib.Rows, batch_size: int
) -> dict[str, Any]:
    """accuracy, pairs, ece, and the mean and standard deviation of all rewards."""
    feeder = feed.Feed(trained.model.sharding, batch_size)

    @jax.jit
    def rewards(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        reward_B2, _ = reward.of_pairs(trained.model, params, batch)
        return reward_B2, batch['weights'].sum((1, 2)) > 0

    found = [
        jax.device_get(rewards(trained.params, batch)) for batch in feeder.once(rows, 0)
    ]
    real_P = np.concatenate([real_B for _, real_B in found])
    reward_P2 = np.concatenate([reward_B2 for reward_B2, _ in found])[real_P]
    margin_P = np.float64(reward_P2[:, 0]) - reward_P2[:, 1]
    return {
        'accuracy': float((margin_P > 0).mean()),
        'pairs': len(margin_P),
        'ece': ece(margin_P, margin_P > 0),
        'reward_mean': float(reward_P2.mean()),
        'reward_std': float(reward_P2.std()),
    }


def ece(margin_P: Float[np.ndarray, 'P'], right_P: np.ndarray) -> float:
    """The expected calibration error of sigmoid(|margin|) (Guo et al., 2017, eq. 3).

    In BINS of that probability, from 1/2 to 1: how far it is from the share of pairs
    that are ranked right, or from their chance of it.
    """
    sure_P = 1 / (1 + np.exp(-np.abs(margin_P)))
    bin_P = np.minimum((2 * BINS * (sure_P - 0.5)).astype(int), BINS - 1)
    off = np.bincount(bin_P, weights=sure_P - right_P)
    return float(np.abs(off).sum() / len(margin_P))
