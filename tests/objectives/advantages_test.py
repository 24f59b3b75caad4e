"""Advantages against loops and formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.objectives import advantages

B, T = 5, 9


@pytest.fixture(scope='module')
def rollout():
    """(rewards, values, weights) with prompts in front, gaps, and padding behind."""
    rng = np.random.default_rng(0)
    places = np.arange(T)
    first, last = np.array([0, 2, 4, 1, 8]), np.array([8, 8, 5, 1, 8])
    weights = (places >= first[:, None]) & (places <= last[:, None])
    weights[0, 3:5] = False  # what a tool has said
    made = (*rng.normal(0, 1, (2, B, T)), weights)
    return [np.asarray(x, np.float32) for x in made]


@pytest.mark.parametrize(('gamma', 'lam'), [(1.0, 0.95), (0.9, 0.5), (0.99, 0.0)])
def test_generalised_advantages_are_the_loop(rollout, gamma, lam):
    rewards, values, weights = rollout
    wanted = np.zeros((B, T))
    for row in range(B):
        next_value = ahead = 0.0
        for t in reversed(np.flatnonzero(weights[row])):
            delta = rewards[row, t] + gamma * next_value - values[row, t]
            ahead = delta + gamma * lam * ahead
            wanted[row, t], next_value = ahead, values[row, t]
    found = advantages.gae(*map(jnp.asarray, rollout), gamma, lam)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_what_has_no_weight_changes_no_advantage(rollout):
    rewards, values, weights = rollout
    spoilt = [np.where(weights > 0, x, np.nan) for x in (rewards, values)]
    found, wanted = (
        advantages.gae(*map(jnp.asarray, (*pair, weights)), 0.9, 0.9)
        for pair in (spoilt, (rewards, values))
    )
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize('unbiased', [True, False])
@pytest.mark.parametrize('shift_mean', [True, False])
def test_whitened_tokens_have_a_variance_of_1(rollout, shift_mean, unbiased):
    x, _, weights = rollout
    given = jnp.asarray(x), jnp.asarray(weights)
    found = np.asarray(advantages.whiten(*given, shift_mean, unbiased))
    picked, before = found[weights > 0], x[weights > 0]
    assert picked.var(ddof=unbiased) == pytest.approx(1, abs=1e-5)
    assert picked.mean() == pytest.approx(0 if shift_mean else before.mean(), abs=1e-5)
    assert not found[weights == 0].any()


def test_estimates_of_the_kl_have_its_mean():
    """Weighted by p, as samples would be; k2 is near where p is."""
    rng = np.random.default_rng(1)
    p, q = np.log(rng.dirichlet(np.ones(6) * 9, 2))
    kl = np.exp(p) @ (p - q)
    ones = jnp.ones((1, 6))
    for estimator, atol in (('k1', 1e-6), ('k3', 1e-6), ('k2', 0.1 * kl)):
        given = (jnp.asarray(x, jnp.float32)[None] for x in (p, q))
        each = advantages.kl(*given, ones, estimator)[0]
        assert float(np.exp(p) @ each) == pytest.approx(kl, abs=atol), estimator


def test_where_the_kl_stands_decides_whose_gradient_it_has():
    """Expected gradients over all tokens: k1 0, k2 of KL(p, q), k3 of KL(q, p)."""
    rng = np.random.default_rng(2)
    logits, q = jnp.asarray(rng.normal(0, 1, (2, 5)), jnp.float32)
    q, ones = jax.nn.log_softmax(q)[None], jnp.ones((1, 5))
    p = jax.lax.stop_gradient(jax.nn.softmax(logits))

    def in_loss(logits, estimator, corrected):
        log_p = jax.nn.log_softmax(logits)
        each = advantages.kl(log_p[None], q, ones, estimator)[0]
        ratio = jnp.exp(log_p - jnp.log(p)) if corrected else 1
        return jnp.sum(p * each * ratio)

    def exact(logits, turned):
        pair = jax.nn.log_softmax(logits), q[0]
        a, b = pair[::-1] if turned else pair
        return jnp.sum(jnp.exp(a) * (a - b))

    right, other = (jax.grad(exact)(logits, turned) for turned in (False, True))
    for estimator, corrected, wanted in (
        ('k1', False, 0 * right),
        ('k2', False, right),
        ('k3', False, other),
        ('k1', True, right),
        ('k3', True, right),
    ):
        found = jax.grad(in_loss)(logits, estimator, corrected)
        np.testing.assert_allclose(found, wanted, atol=1e-6, err_msg=estimator)


def test_leaving_one_out_is_the_published_example():
    """google/tunix, tests/rl/algo_core_test.py."""
    rewards = jnp.arange(1.0, 7.0)
    found, _ = advantages.of_groups(rewards, 3, True, 'none')
    np.testing.assert_allclose(found, [-1.5, 0, 1.5, -1.5, 0, 1.5], atol=1e-7)


@pytest.mark.parametrize('scale', ['group', 'batch', 'none'])
@pytest.mark.parametrize('leave_one_out', [True, False])
def test_advantages_of_a_group_are_the_formula(leave_one_out, scale):
    rewards = np.random.default_rng(3).normal(0, 2, (4, 5))
    rewards[1, 2] = np.nan
    wanted = np.zeros_like(rewards)
    for row, i in np.ndindex(*rewards.shape):
        others = [r for j, r in enumerate(rewards[row]) if j != i or not leave_one_out]
        divide = {
            'group': np.nanstd(rewards[row], ddof=1) + 1e-4,
            'batch': np.nanstd(rewards, ddof=1) + 1e-4,
            'none': 1,
        }[scale]
        wanted[row, i] = (rewards[row, i] - np.nanmean(others)) / divide
    given = jnp.asarray(rewards.reshape(-1), jnp.float32)
    found, deviations = advantages.of_groups(given, 5, leave_one_out, scale)
    np.testing.assert_allclose(found, np.nan_to_num(wanted).reshape(-1), atol=2e-6)
    np.testing.assert_allclose(deviations, np.nanstd(rewards, 1, ddof=1), rtol=1e-5)


@pytest.mark.parametrize('value', [0.1, 1e8, -3.3e-5, np.nan])
@pytest.mark.parametrize('scale', ['group', 'batch', 'none'])
def test_equal_rewards_give_exactly_nothing(value, scale):
    """Three times 0.1 has a mean in float32 that is not 0.1."""
    rewards = jnp.full(9, value, jnp.float32)
    for leave_one_out in (True, False):
        found, deviations = advantages.of_groups(rewards, 3, leave_one_out, scale)
        assert not np.asarray(found).any()
        assert not np.asarray(deviations).any()
