"""Each detail of PPO by itself: what it does, and that without it nothing does."""

import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import command
from gptjax.objectives import policy, ppo

M, T = 6, 5
PLAIN = dict(
    temperature=1.0, max_tokens=4, group=1, clip_low=0.2, clip_high=0.2,
    value_coefficient=1.0, gamma=1.0, lam=1.0, kl_coefficient=0.0, kl_estimator='k1',
    whiten_rewards=False, whiten_advantages=False,
)  # fmt: skip


@pytest.fixture(scope='module')
def rollout():
    """Completions behind prompts of one or two tokens; the fourth fills its room."""
    rng = np.random.default_rng(0)
    first, length = np.array([0, 1, 1, 0, 1, 0]), np.array([3, 1, 4, 5, 2, 4])
    places = np.arange(T)
    said = (places >= first[:, None]) & (places < (first + length)[:, None])
    names = ('tokens', 'targets', 'segments', 'positions')
    made = {name: rng.integers(0, 9, (M, T)) for name in names}
    names = ('log_p', 'sampler_log_p', 'reference_log_p')
    made |= {name: rng.normal(-2, 0.5, (M, T)) for name in names}
    made |= {
        'weights': said,
        'values': rng.normal(0, 1, (M, T)),
        'rewards': rng.normal(0.5, 2, M),
        'ended': np.array([1, 1, 0, 0, 1, 1]),
    }
    whole = {'tokens', 'targets', 'segments', 'positions'}
    return {
        name: jnp.asarray(x, jnp.int32 if name in whole else jnp.float32)
        for name, x in made.items()
    }


def running():
    return {name: jnp.float32(x) for name, x in ppo.RUNNING.items()}


def prepared(rollout, before=None, **changes):
    options = ppo.Options(**PLAIN | changes)
    return ppo.prepare(options)(rollout, before or running())


def rewards_of(rollout, **changes):
    """The rewards of tokens, which gae with gamma and lam 0 gives back."""
    zero = rollout | {'values': 0 * rollout['values']}
    batch, _, _ = prepared(zero, **{'gamma': 0.0, 'lam': 0.0} | changes)
    return np.asarray(batch['advantages'], np.float64)


def expected(rollout, score):
    """All of it at the last token."""
    wanted = np.zeros((M, T))
    for row, weights in enumerate(np.asarray(rollout['weights'])):
        wanted[row, np.flatnonzero(weights)[-1]] = score[row]
    return wanted


def scores(rollout):
    return np.asarray(rollout['rewards'], np.float64)


def test_the_score_comes_with_the_last_token(rollout):
    wanted = expected(rollout, scores(rollout))
    np.testing.assert_allclose(rewards_of(rollout), wanted, atol=1e-6)


def test_or_it_is_spread_over_all(rollout):
    weights = np.asarray(rollout['weights'])
    wanted = weights * (scores(rollout) / weights.sum(1))[:, None]
    found = rewards_of(rollout, reward_at='spread')
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize('estimator', ['k1', 'k2', 'k3'])
def test_the_kl_is_taken_from_each_token(rollout, estimator):
    change = np.asarray(rollout['log_p'] - rollout['reference_log_p'], np.float64)
    each = {
        'k1': change, 'k2': change**2 / 2, 'k3': np.exp(-change) - 1 + change
    }[estimator]  # fmt: skip
    weights = np.asarray(rollout['weights'])
    wanted = expected(rollout, scores(rollout)) - 0.3 * each * weights
    found = rewards_of(rollout, kl_coefficient=0.3, kl_estimator=estimator)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_scores_are_clipped_and_what_did_not_end_has_its_own(rollout):
    ended, score = np.asarray(rollout['ended']), scores(rollout)
    for changes, wanted in (
        (dict(clip_score=1.0), np.clip(score, -1, 1)),
        (dict(unended_score=-7.0), np.where(ended, score, -7)),
        (dict(unended_penalty=7.0), np.where(ended, score, score - 7)),
        (dict(clip_score=1.0, unended_score=-7.0),
         np.where(ended, np.clip(score, -1, 1), -7)),
    ):  # fmt: skip
        found = rewards_of(rollout, **changes)
        np.testing.assert_allclose(found, expected(rollout, wanted), atol=1e-6)


def test_scores_are_normalised_by_all_so_far(rollout):
    """Over two rollouts, of which one score is no number."""
    second = rollout | {'rewards': rollout['rewards'][::-1].at[0].set(jnp.nan) * 3 + 1}
    _, _, after = prepared(rollout, normalise_score=True)
    batch, _, after = prepared(
        second | {'values': 0 * rollout['values']},
        before=after,
        normalise_score=True,
        gamma=0.0,
        lam=0.0,
    )
    fresh = scores(second)
    every = np.concatenate([scores(rollout), fresh[1:]])
    wanted = (fresh - every.mean()) / every.std(ddof=1)
    wanted[0] = 0
    found = np.asarray(batch['advantages'])
    np.testing.assert_allclose(found, expected(rollout, wanted), atol=1e-5)
    assert float(after['scores']) == len(every)


def test_whitening_is_of_rewards_or_of_advantages(rollout):
    weights = np.asarray(rollout['weights']) > 0
    for name, mean in (('whiten_rewards', None), ('whiten_advantages', 0)):
        for unbiased in (True, False):
            changes = {name: True, 'whiten_unbiased': unbiased, 'kl_coefficient': 0.3}
            plain = rewards_of(rollout, kl_coefficient=0.3)[weights]
            found = rewards_of(rollout, **changes)[weights]
            wanted = plain.mean() if mean is None else mean
            assert found.mean() == pytest.approx(wanted, abs=1e-5)
            assert found.var(ddof=unbiased) == pytest.approx(1, abs=1e-5)


def test_returns_are_of_advantages_before_they_are_whitened(rollout):
    options = dict(gamma=0.9, lam=0.8, kl_coefficient=0.3)
    plain, _, _ = prepared(rollout, **options)
    white, _, _ = prepared(rollout, whiten_advantages=True, **options)
    np.testing.assert_array_equal(plain['returns'], white['returns'])
    found = plain['advantages'] + rollout['values']
    np.testing.assert_allclose(plain['returns'], found, atol=1e-6)
    for other in (dict(gamma=1.0), dict(lam=1.0)):
        changed, _, _ = prepared(rollout, **options | other)
        assert float(jnp.abs(changed['returns'] - plain['returns']).max()) > 0.01


@pytest.mark.parametrize(('target', 'error'), [(1e-3, 0.2), (1e3, -0.2), (None, 0.0)])
def test_the_coefficient_follows_its_target(rollout, target, error):
    """Ziegler et al. (2019), section 2.2: at most a fifth of M / horizon at once."""
    pair = dict(kl_target=target, kl_horizon=target and 60.0)
    spread = rollout | {'log_p': rollout['reference_log_p'] + 0.1}  # a KL above 0
    _, first, after = prepared(spread, kl_coefficient=0.3, **pair)
    kl = 0.1 * np.asarray(rollout['weights']).sum() / M
    assert float(first['kl']) == pytest.approx(kl, rel=1e-4)
    assert float(first['kl_coefficient']) == pytest.approx(0.3)
    _, second, _ = prepared(spread, before=after, kl_coefficient=0.3, **pair)
    wanted = 0.3 * (1 + error * M / 60)
    assert float(second['kl_coefficient']) == pytest.approx(wanted)


def test_near_its_target_the_coefficient_moves_in_proportion(rollout):
    spread = rollout | {'log_p': rollout['reference_log_p'] + 0.1}
    kl = 0.1 * float(rollout['weights'].sum()) / M
    _, _, after = prepared(spread, kl_target=kl / 1.1, kl_horizon=60.0)
    assert float(after['kl_factor']) == pytest.approx(1 + 0.1 * M / 60, rel=1e-4)


def test_a_reward_that_is_no_number_takes_its_completion_away(rollout):
    spoilt = rollout | {'rewards': rollout['rewards'].at[2].set(jnp.nan)}
    options = dict(
        kl_coefficient=0.3, whiten_rewards=True, whiten_advantages=True,
        normalise_score=True,
    )  # fmt: skip
    batch, told, after = prepared(spoilt, **options)
    others = jnp.arange(M) != 2
    short, wanted, other = prepared(
        {name: x[others] for name, x in rollout.items()}, **options
    )
    assert not np.asarray(batch['weights'][2]).any()
    for name in ('advantages', 'weights'):
        np.testing.assert_allclose(batch[name][others], short[name], atol=1e-5)
    assert float(told['kl']) == pytest.approx(float(wanted['kl']), rel=1e-5)
    for name, value in other.items():
        assert float(after[name]) == pytest.approx(float(value), rel=1e-5)


def loss_of(rollout, now=0.0, value=0.0, entropy=0.0, **changes):
    """The loss where each log-probability has moved by `now`, values by `value`."""
    batch, _, _ = prepared(rollout, **changes)
    answers = policy.Answers(
        batch['log_p'] + now,
        jnp.full((M, T), entropy),
        jnp.zeros((M, T, 1)),
        {},
    )
    options = ppo.Options(**PLAIN | changes)
    found = ppo.loss(options, answers, batch['values'] + value, batch)
    means = {
        name: float(total / weight)
        for name, (total, weight) in {**found.terms, **found.metrics}.items()
    }
    weights = np.asarray(batch['weights']) > 0
    kept = {
        name: np.asarray(batch[name], np.float64)[weights]
        for name in ('advantages', 'returns', 'values')
    }
    return means, kept


@pytest.mark.parametrize('now', [0.5, -0.5])
def test_the_ratio_is_clipped_on_either_side(rollout, now):
    means, kept = loss_of(rollout, now=now, clip_low=0.1, clip_high=0.3)
    ratio, advantage = np.exp(now), kept['advantages']
    edge = np.clip(ratio, 0.9, 1.3)
    wanted = -np.minimum(ratio * advantage, edge * advantage)
    assert means['policy_loss'] == pytest.approx(wanted.mean(), abs=1e-5)
    assert means['clip_share'] == pytest.approx(np.mean(advantage * now > 0))
    assert means['approx_kl'] == pytest.approx(ratio - 1 - now, rel=1e-5)


def test_dual_clipping_bounds_what_a_bad_token_costs(rollout):
    means, kept = loss_of(rollout, now=1.5, dual_clip=2.0)
    advantage = kept['advantages']
    wanted = np.where(advantage < 0, -2 * advantage, -1.2 * advantage)
    assert means['policy_loss'] == pytest.approx(wanted.mean(), abs=1e-5)
    assert means['clip_share'] == 1


def test_values_are_clipped_around_those_of_the_rollout(rollout):
    for clip, moved in ((None, 0.5), (0.2, 0.2)):
        means, kept = loss_of(rollout, value=0.5, clip_value=clip)
        plain = (kept['values'] + 0.5 - kept['returns']) ** 2
        near = (kept['values'] + moved - kept['returns']) ** 2
        wanted = np.maximum(plain, near).mean() / 2
        assert means['value_loss'] == pytest.approx(wanted, abs=1e-5)
        assert means['value_clip_share'] == pytest.approx((near > plain).mean())


def test_coefficients_are_in_the_terms(rollout):
    plain, _ = loss_of(rollout, value=0.5)
    means, _ = loss_of(
        rollout,
        value=0.5,
        entropy=1.5,
        value_coefficient=0.1,
        entropy_coefficient=0.01,
    )
    assert means['value_loss'] == pytest.approx(0.1 * plain['value_loss'])
    assert means['entropy_loss'] == pytest.approx(-0.015)
    assert means['entropy'] == pytest.approx(1.5)
    assert 'entropy_loss' not in plain


def test_the_samplers_rounding_is_weighed_up_to_a_cap(rollout):
    plain, kept = loss_of(rollout)
    means, _ = loss_of(rollout, importance_cap=1.1)
    moved = np.exp(np.asarray(rollout['log_p'] - rollout['sampler_log_p'], np.float64))
    moved = np.minimum(moved, 1.1)[np.asarray(rollout['weights']) > 0]
    wanted = -(moved * kept['advantages']).mean()
    assert means['policy_loss'] == pytest.approx(wanted, abs=1e-5)
    assert plain['policy_loss'] != pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(kl_target=6.0), r'objective\.kl_target is 6\.0 and .*kl_horizon None'),
        (dict(dual_clip=0.9), r'objective\.dual_clip is 0\.9; it needs to be above 1'),
        (dict(importance_cap=0.0), r'importance_cap is 0\.0; .* above 0'),
        (dict(kl_target=6.0, kl_horizon=0.0), r'kl_horizon is 0\.0; .* above 0'),
        (dict(kl_coefficient=-0.1), r'kl_coefficient is -0\.1; .* at least 0'),
        (dict(gamma=float('nan')), r'gamma is nan; .* in \[0, 1\]'),
        (dict(kl_estimator='k4'), r"kl_estimator 'k4'; did you mean 'k"),
        (dict(reward_at='ends'), r"reward_at 'ends'; did you mean 'end'"),
    ],
)
def test_options_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(command.UserError, match=message):
        ppo.Options(**PLAIN | changes)
