"""Losses of groups: what each name means, what counts, and what is exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_family

from gptjax import command
from gptjax.model import transformer
from gptjax.objectives import group, policy

M, T, G = 8, 6, 4
PLAIN = dict(
    temperature=1.0, max_tokens=T, group=G, kl_coefficient=0.0, kl_in='loss',
    kl_estimator='k3',
)  # fmt: skip


def rollout(lengths=(3, 1, 6, 2, 5, 4, 6, 1), seed=0):
    """Two groups of four; those of full length did not end."""
    rng = np.random.default_rng(seed)
    names = ('log_p', 'sampler_log_p', 'reference_log_p')
    made = {name: rng.normal(-2, 0.5, (M, T)) for name in names} | {
        'weights': np.arange(T) < np.array(lengths)[:, None],
        'rewards': rng.normal(0, 1, M),
        'ended': np.array(lengths) < T,
    }
    made = {name: jnp.asarray(x, jnp.float32) for name, x in made.items()}
    names = ('tokens', 'targets', 'segments', 'positions')
    return made | {name: jnp.zeros((M, T), jnp.int32) for name in names}


def prepared(arrays, **changes):
    options = group.Options(**PLAIN | dict(method='grpo') | changes)
    batch, told, _ = group.prepare(options)(arrays, {})
    return batch, {name: float(value) for name, value in told.items()}


def terms(batch, now=0.0, **changes):
    options = group.Options(**PLAIN | changes)
    answers = policy.Answers(
        batch['log_p'] + now, 0 * batch['log_p'], batch['log_p'][..., None], {}
    )
    return group.loss(options, answers, batch).terms


@pytest.mark.parametrize('method', group.METHODS)
def test_microbatches_of_any_rows_add_up_to_the_batch(method):
    batch, _ = prepared(rollout(), method=method, drop_equal=True)
    change = jnp.asarray(np.random.default_rng(1).normal(0, 0.3, (M, T)), jnp.float32)
    whole = terms(batch, change, method=method, kl_coefficient=0.1)
    parts = [
        terms(
            {name: x[rows] for name, x in batch.items()},
            change[rows],
            method=method,
            kl_coefficient=0.1,
        )
        for rows in (slice(0, None, 2), slice(1, None, 2))
    ]
    for name, pair in whole.items():
        found = [sum(part[name][i] for part in parts) for i in range(2)]
        np.testing.assert_allclose(found, pair, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize('method', group.METHODS)
def test_without_a_kl_the_first_loss_is_0(method):
    """Where answers are equally long, or the loss is of sequences (TRL #2995)."""
    arrays = rollout(lengths=(4,) * M)
    halves = jnp.array([1.0, 0, 0, 1, 0, 1, 1, 0])  # whose advantages are exact
    for rewards, near in ((arrays['rewards'], 1e-7), (halves, 0)):
        batch, _ = prepared(arrays | {'rewards': rewards}, method=method)
        total, weight = terms(batch, method=method)['policy_loss']
        assert float(weight) > 0
        assert abs(float(total / weight)) <= near


def test_the_weights_are_what_each_name_says():
    batch, _ = prepared(rollout())
    lengths = np.asarray(batch['weights']).sum(1)
    wanted = {
        'grpo': M, 'rloo': M, 'gspo': M, 'bnpo': lengths.sum(), 'dr_grpo': M * T,
        'dapo': lengths.sum(),
    }  # fmt: skip
    half = {name: x[: M // 2] for name, x in batch.items()}
    for method, weight in wanted.items():
        assert float(terms(batch, method=method)['policy_loss'][1]) == weight
        first = float(terms(half, method=method)['policy_loss'][1])
        assert first == (lengths[:4].sum() if method == 'bnpo' else weight / 2)


def test_options_change_what_a_method_brings():
    made = {name: group.Options(**PLAIN, method=name).settled for name in group.METHODS}
    assert made['dapo'].clip_high == 0.28
    assert (made['gspo'].clip_low, made['gspo'].clip_high) == (3e-4, 4e-4)
    assert made['dr_grpo'].scale == made['rloo'].scale == 'none'
    assert [name for name, one in made.items() if one.leave_one_out] == ['rloo']
    options = dict(method='dapo', scale='batch', clip_low=0.1, clip_high=0.5)
    changed = group.Options(**PLAIN, **options).settled
    assert (changed.scale, changed.clip_low, changed.clip_high) == ('batch', 0.1, 0.5)
    assert changed.over == 'rollout'


def test_a_kl_in_the_reward_is_of_the_whole_sequence():
    arrays = rollout()
    away = (arrays['log_p'] - arrays['reference_log_p']) * arrays['weights']
    taken = arrays | {'rewards': arrays['rewards'] - 0.3 * away.sum(1)}
    wanted, told = prepared(taken, scale='none')
    options = dict(kl_coefficient=0.3, kl_estimator='k1', scale='none')
    batch, _ = prepared(arrays, kl_in='reward', **options)
    found, expected = batch['advantages'], wanted['advantages']
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert told['kl'] == pytest.approx(float(away.sum(1).mean()), rel=1e-5)
    kept, _ = prepared(arrays, kl_in='loss', **options)
    assert np.abs(np.asarray(kept['advantages'] - found)).max() > 0.01
    here = dict(kl_coefficient=0.3, method='grpo')
    assert 'kl_loss' not in terms(batch, kl_in='reward', **here)
    assert 'kl_loss' in terms(batch, kl_in='loss', **here)


def test_equal_groups_are_counted_and_kept_or_dropped():
    arrays = rollout()
    arrays |= {'rewards': arrays['rewards'].at[:G].set(0.1)}
    kept, told = prepared(arrays)
    assert told['zero_variance'] == 0.5
    assert told['unweighted'] == 0
    assert not np.asarray(kept['advantages'][:G]).any()
    assert np.asarray(kept['advantages'][G:]).any()
    dropped, told = prepared(arrays, drop_equal=True)
    assert told == {**told, 'zero_variance': 0.5, 'unweighted': 0.5}
    assert not np.asarray(dropped['weights'][:G]).any()
    np.testing.assert_array_equal(dropped['weights'][G:], kept['weights'][G:])
    mean = float(dropped['weights'].sum()) / M
    np.testing.assert_allclose(dropped['mean_tokens'], mean, rtol=1e-6)


def test_what_was_cut_bears_no_weight_and_stays_in_the_baseline():
    arrays = rollout()
    kept, _ = prepared(arrays)
    batch, told = prepared(arrays, mask_unended=True)
    ended = np.asarray(arrays['ended']) > 0
    assert told['unweighted'] == pytest.approx(1 - ended.mean())
    assert not np.asarray(batch['weights'])[~ended].any()
    np.testing.assert_array_equal(
        np.asarray(batch['advantages'])[ended], np.asarray(kept['advantages'])[ended]
    )


def test_the_last_tokens_of_the_room_cost_softly():
    """DAPO's equation 13, with 2 of 6 tokens: from 4 on, half a point a token."""
    arrays = rollout()
    lengths = np.asarray(arrays['weights']).sum(1)
    cost = np.clip((lengths - 4) / 2, 0, 1)
    wanted, _ = prepared(arrays | {'rewards': arrays['rewards'] - cost})
    batch, _ = prepared(arrays, soft_overlong=2)
    np.testing.assert_allclose(batch['advantages'], wanted['advantages'], atol=1e-6)
    assert sorted(set(cost)) == [0, 0.5, 1]


def test_a_reward_that_is_no_number_is_in_no_mean():
    arrays = rollout()
    arrays |= {'rewards': arrays['rewards'].at[1].set(jnp.nan)}
    batch, told = prepared(arrays)
    assert told['unweighted'] == 1 / M
    assert not np.asarray(batch['weights'][1]).any()
    away = (arrays['log_p'] - arrays['reference_log_p']) * batch['weights']
    assert told['kl'] == pytest.approx(float(away.sum()) / (M - 1), rel=1e-5)
    others = np.asarray(arrays['rewards'][jnp.array([0, 2, 3])], np.float64)
    wanted = (others - others.mean()) / (others.std(ddof=1) + 1e-4)
    found = np.asarray(batch['advantages'][:, 0])[[0, 2, 3]]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_log_probabilities_are_those_of_the_sampler():
    """At its temperature, of answers alone, over the tokens that it may draw."""
    model = tiny_family.model('gpt2', T=8, L=1)
    params = tiny_family.params(model)
    batch = dict(tiny.packed_batch(2, arch=model.arch))
    starts, places = np.array([[2], [5]]), np.arange(8)
    answers = (places >= starts) & (places < starts + 3)
    batch['weights'] = jnp.asarray(answers, jnp.float32)
    unsaid = (0, model.arch.V - 1)
    batch['targets'] = jnp.clip(batch['targets'], 1, model.arch.V - 2)
    options = policy.Options(temperature=0.7, max_tokens=3, group=1, unsaid=unsaid)
    read = functools.partial(policy.read, model, options=options)
    found = jax.jit(lambda params: read(params, batch, None)[:2])(params)
    logits = jax.jit(lambda params: transformer.forward(model, params, batch))(params)
    scaled = np.asarray(logits, np.float64) / 0.7
    scaled[..., unsaid] = -1e3
    log_p = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_p, np.asarray(batch['targets'])[..., None], -1)
    np.testing.assert_allclose(found[0], picked[..., 0] * answers, atol=1e-5)
    entropy = -(np.exp(log_p) * log_p).sum(-1)
    np.testing.assert_allclose(found[1], entropy * answers, atol=1e-5)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(group=1), r"rollout\.group is 1, and objective 'group' compares"),
        (dict(method='grp'), r"unknown objective\.method 'grp'; did you mean 'grpo'"),
        (dict(kl_in='los'), r"unknown objective\.kl_in 'los'; did you mean 'loss'"),
        (dict(scale='groups'), r"unknown objective\.scale 'groups'; did you mean 'gr"),
        (dict(soft_overlong=0), r'soft_overlong is 0; it needs to be above 0'),
        (dict(kl_estimator='k0'), r"unknown objective\.kl_estimator 'k0'"),
    ],
)
def test_options_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(command.UserError, match=message):
        group.Options(**PLAIN | dict(method='grpo') | changes)
