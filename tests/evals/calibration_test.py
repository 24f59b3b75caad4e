"""Reward models against preferences whose probabilities are known."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import tiny_family

from gptjax.data import rows as rows_lib
from gptjax.evals import calibration
from gptjax.model import config
from gptjax.objectives import reward
from gptjax.text import table
from gptjax.train import build

LENGTH, V = 8, 12
END = V - 1


def pairs(key, n, worth):
    """(a batch of n pairs, their utilities): what an answer is worth is a sum."""
    answers = jax.random.randint(key, (n, 2, LENGTH), 1, END)
    edge = jnp.zeros((n, 2, 1), jnp.int32)
    ids = jnp.concatenate([edge, answers, edge + END, edge], axis=-1)
    real = (jnp.arange(LENGTH + 2) <= LENGTH) * jnp.ones((n, 2, 1), jnp.int32)
    batch = {
        'tokens': ids[..., :-1] * real,
        'targets': ids[..., 1:] * real,
        'segments': real,
        'positions': jnp.arange(LENGTH + 2) * real,
        'weights': jnp.float32(real),
    }
    return batch, jnp.sum(worth[answers], axis=-1)


def learned(model, worth):
    """Parameters after 200 steps on sampled preferences (Bradley and Terry, 1952)."""
    loss_fn = reward.make(model, centre=0.001)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, 200))

    def step(state, key):
        params, opt_state = state
        batch, utility_B2 = pairs(key, 64, worth)
        chance_B = jax.nn.sigmoid(utility_B2[:, 0] - utility_B2[:, 1])
        first_B = jax.random.bernoulli(jax.random.fold_in(key, 1), chance_B)
        order_B2 = jnp.where(first_B[:, None], jnp.array([0, 1]), jnp.array([1, 0]))
        batch = {
            k: jnp.take_along_axis(x, order_B2[..., None], axis=1)
            for k, x in batch.items()
        }

        def mean(params):
            terms = loss_fn(params, {}, batch, None).terms
            return sum(total / weight for total, weight in terms.values())

        updates, opt_state = optimizer.update(jax.grad(mean)(params), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def train(params):
        keys = jax.random.split(jax.random.key(1), 200)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return params

    return train(tiny_family.params(model, std=0.1))


class Rows:
    """The arrays of a batch as the rows of a split."""

    dtypes = rows_lib.DTYPES

    def __init__(self, arrays):
        self.arrays = jax.device_get(arrays)

    def __len__(self):
        return len(self.arrays['tokens'])

    def read(self, indices, epochs=None):
        return {name: array[indices] for name, array in self.arrays.items()}


def test_planted_utilities_are_found_and_sure_of_what_they_should_be():
    """With the exact chance of each choice in place of draws: no noise of sampling."""
    head = config.Head('reward')
    model = tiny.model(L=1, D=16, H=4, T=LENGTH + 2, V=V, init_std=0.1, head=head)
    worth = jnp.asarray(np.random.default_rng(0).normal(0, 0.6, V), jnp.float32)
    params = learned(model, worth)
    batch, utility_P2 = pairs(jax.random.key(2), 2000, worth)
    of_pairs = jax.jit(lambda params, batch: reward.of_pairs(model, params, batch)[0])
    reward_P2 = np.asarray(of_pairs(params, batch))
    margin_P = np.float64(reward_P2[:, 0] - reward_P2[:, 1])
    chance_P = 1 / (1 + np.exp(-np.float64(utility_P2[:, 0] - utility_P2[:, 1])))
    bayes = np.maximum(chance_P, 1 - chance_P).mean()
    right_P = np.where(margin_P > 0, chance_P, 1 - chance_P)
    assert 0.7 < bayes < 0.9
    assert right_P.mean() > bayes - 0.01
    assert calibration.ece(margin_P, right_P) < 0.03
    assert calibration.ece(3 * margin_P, right_P) > 0.06, 'too sure'
    assert calibration.ece(margin_P / 3, right_P) > 0.06, 'not sure enough'
    assert abs(float(reward_P2.mean())) < 0.3, 'the term that centres'

    tokenizer = table.make(lambda: [], name='bytes')
    trained = build.Trained(Path('x'), model, params, tokenizer, {}, 1, [])
    swapped = jax.tree.map(lambda x: jnp.concatenate([x[:90], x[90:101, ::-1]]), batch)
    found = calibration.ranked(trained, Rows(swapped), 32)
    margin_P = np.concatenate([margin_P[:90], -margin_P[90:101]])
    assert found['pairs'] == 101
    assert found['accuracy'] == pytest.approx((margin_P > 0).mean())
    assert found['ece'] == pytest.approx(calibration.ece(margin_P, margin_P > 0))
    assert found['reward_mean'] == pytest.approx(reward_P2[:101].mean(), abs=1e-5)
    assert found['reward_std'] == pytest.approx(reward_P2[:101].std(), rel=1e-4)


def test_the_calibration_error_is_that_of_each_bin():
    """sigmoid(2) = 0.881 is in the bin to 0.9, sigmoid(0.1) = 0.525 in the first."""
    margin_P = np.array([2.0, -2.0, 2.0, 0.1, 100.0])
    sure = 1 / (1 + np.exp(-2.0))
    near = 1 / (1 + np.exp(-0.1))
    expected = (abs(3 * sure - 2) + abs(near - 1) + 0) / 5
    assert calibration.ece(margin_P, margin_P > 0) == pytest.approx(expected)
