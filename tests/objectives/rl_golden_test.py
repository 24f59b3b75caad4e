"""PPO's, group's and distillation's losses against verl and TRL (golden/make_rl.py).

In float64, so that what differs is a formula and no rounding; the figure is 1e-6.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.objectives import advantages, distil, group, policy, ppo

FILE = Path(__file__).parents[1] / 'golden' / 'rl.npz'
SAMPLED = dict(temperature=1.0, max_tokens=9, group=3)
PPO = dict(
    **SAMPLED, clip_low=0.15, clip_high=0.3, value_coefficient=1.0, gamma=1.0, lam=0.95,
    kl_coefficient=0.0, kl_estimator='k1', whiten_rewards=False, whiten_advantages=True,
)  # fmt: skip
GROUP = dict(
    **SAMPLED, kl_coefficient=0.3, kl_in='reward', kl_estimator='k3', clip_low=0.15,
    clip_high=0.3,
)  # fmt: skip
KL = dict(kl_in='loss')
CORRECTED = dict(kl_in='loss', kl_corrected=True)
# Golden: (what makes the loss, options, which of its terms)
LOSSES = {
    'verl policy token-mean': (ppo, {}, ['policy_loss']),
    'verl policy seq-mean-token-mean': (group, dict(method='grpo'), ['policy_loss']),
    'verl dual': (ppo, dict(dual_clip=1.5), ['policy_loss']),
    'verl importance': (ppo, dict(importance_cap=1.3), ['policy_loss']),
    'verl value': (ppo, dict(clip_value=0.2), ['value_loss']),
    'verl gspo': (group, dict(method='gspo'), ['policy_loss']),
    'trl grpo': (group, dict(method='grpo'), ['policy_loss']),
    'trl bnpo': (group, dict(method='bnpo'), ['policy_loss']),
    'trl dr_grpo': (group, dict(method='dr_grpo'), ['policy_loss']),
    'trl dapo': (group, dict(method='dapo'), ['policy_loss']),
    'trl rloo': (group, dict(method='rloo'), ['policy_loss']),
    'trl gspo': (group, dict(method='gspo'), ['policy_loss']),
    'trl grpo kl': (group, dict(method='grpo', **KL), None),
    'trl dapo kl corrected': (group, dict(method='dapo', **CORRECTED), None),
    'trl gspo kl corrected': (group, dict(method='gspo', **CORRECTED), None),
    'trl dr_grpo delta': (group, dict(method='dr_grpo', dual_clip=1.31), None),
    'trl bnpo importance': (
        group,
        dict(method='bnpo', importance_cap=1.3, **KL),
        None,
    ),
}  # fmt: skip


@pytest.fixture(scope='module', autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def golden():
    with np.load(FILE) as file:
        return dict(file)


def arrays():
    return {name: jnp.asarray(x) for name, x in golden().items() if '/' not in name}


def near(found, name):
    np.testing.assert_allclose(found, golden()[name], rtol=0, atol=1e-7, err_msg=name)


@pytest.mark.parametrize('name', LOSSES)
def test_a_loss_and_its_gradient_are_those_of(name):
    module, options, terms = LOSSES[name]
    x = arrays()
    by_tokens = module is ppo or name == 'verl policy seq-mean-token-mean'
    if not by_tokens:
        x['advantages'] = x['advantage'][:, None] * x['weights']
    x['mean_tokens'] = jnp.full(6, 31 / 6)

    def loss(by):
        x2 = x | by
        answers = policy.Answers(x2['now'], 0 * x2['now'], x2['now'][..., None], {})
        if module is ppo:
            made = ppo.Options(**PPO | options)
            found = ppo.loss(made, answers, x2['now_values'], x2)
        else:
            found = group.loss(group.Options(**GROUP | options), answers, x2)
        parts = [found.terms[term] for term in terms or found.terms]
        return sum(total / weight for total, weight in parts)

    given = {key: x[key] for key in ('now', 'now_values')}
    value, gradient = jax.value_and_grad(loss)(given)
    near(value, name)
    near(gradient['now_values' if 'value' in name else 'now'], f'{name}/grad')


@pytest.mark.parametrize('beta', [0.0, 0.3, 1.0])
def test_the_divergence_from_a_teacher_is_trls(beta):
    x = arrays()

    def loss(student):
        apart = distil.divergence(student, x['teacher'], beta, 0.7)
        return jnp.sum(apart * x['weights']) / jnp.sum(x['weights'])

    value, gradient = jax.value_and_grad(loss)(x['student'])
    near(value, f'trl jsd {beta}')
    near(gradient, f'trl jsd {beta}/grad')


@pytest.mark.parametrize(('gamma', 'lam'), [(1.0, 0.95), (0.9, 0.7)])
def test_generalised_advantages_are_verls(gamma, lam):
    x = arrays()
    w = x['weights']
    found = advantages.gae(x['token_rewards'], x['values'], w, gamma, lam)
    near((found + x['values']) * w, f'verl returns {gamma}')
    near(advantages.whiten(found, w, True), f'verl gae {gamma}')


def test_whitening_that_leaves_the_mean_is_verls():
    x = arrays()
    near(advantages.whiten(x['token_rewards'], x['weights'], False), 'verl whiten')


@pytest.mark.parametrize('estimator', advantages.KL)
def test_estimates_of_the_kl_are_verls(estimator):
    x = arrays()
    pair = x['now'], x['reference_log_p'], x['weights']
    near(advantages.kl(*pair, estimator), f'verl {estimator}')


@pytest.mark.parametrize(
    ('name', 'leave_one_out', 'scale'),
    [
        ('grpo True', False, 'group'),
        ('grpo False', False, 'none'),
        ('rloo', True, 'none'),
    ],
)
def test_advantages_in_a_group_are_verls(name, leave_one_out, scale):
    x = arrays()
    found, _ = advantages.of_groups(x['rewards'], 3, leave_one_out, scale)
    near(found[:, None] * x['weights'], f'verl {name}')
