"""Losses on a rollout, and their gradients, against verl and TRL (golden/make_rl.py).

In float64, so that what differs is a formula and no rounding.
"""

import jax
import numpy as np
import pytest

from experiments.benchmarks import _post_losses as losses

GOLDEN = losses.golden()
INPUTS = {name for name in GOLDEN if ' ' not in name}


@pytest.fixture(scope='module')
def ours():
    with jax.enable_x64(True):
        return losses.ours(GOLDEN)


@pytest.mark.parametrize('name', sorted(GOLDEN.keys() - INPUTS))
def test_ours_is_theirs(ours, name):
    """But for 1e-8 below, which verl adds to counts of tokens."""
    np.testing.assert_allclose(ours[name], GOLDEN[name], rtol=0, atol=1e-7)
