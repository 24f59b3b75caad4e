"""PPO's, group's and distillation's losses beside those of verl and TRL.

Their values and gradients on one rollout are in tests/golden/rl.npz, of
tests/golden/make_rl.py; here is what ours are, and how far they are apart.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.objectives import advantages, distil, group, policy, ppo

GOLDEN = Path(__file__).parents[2] / 'tests' / 'golden' / 'rl.npz'
SAMPLED = dict(temperature=1.0, max_tokens=9, group=3)
PPO: dict[str, Any] = dict(
    **SAMPLED, clip_low=0.15, clip_high=0.3, value_coefficient=1.0, gamma=1.0, lam=0.95,
    kl_coefficient=0.0, kl_estimator='k1', whiten_rewards=False, whiten_advantages=True,
)  # fmt: skip
GROUP: dict[str, Any] = dict(
    **SAMPLED, kl_coefficient=0.3, kl_in='reward', kl_estimator='k3', clip_low=0.15,
    clip_high=0.3,
)  # fmt: skip
IN_LOSS = dict(kl_in='loss')
CORRECTED = dict(kl_in='loss', kl_corrected=True)
POLICY, VALUE = ('policy_loss',), ('value_loss',)
BOTH = ('policy_loss', 'kl_loss')
# The golden: (whose options, what they are besides, the terms).
LOSSES: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    'verl policy token-mean': (ppo, {}, POLICY),
    'verl dual': (ppo, dict(dual_clip=1.5), POLICY),
    'verl importance': (ppo, dict(importance_cap=1.3), POLICY),
    'verl value': (ppo, dict(clip_value=0.2), VALUE),
    'verl gspo': (group, dict(method='gspo'), POLICY),
    'trl grpo': (group, dict(method='grpo'), POLICY),
    'trl bnpo': (group, dict(method='bnpo'), POLICY),
    'trl dr_grpo': (group, dict(method='dr_grpo'), POLICY),
    'trl dapo': (group, dict(method='dapo'), POLICY),
    'trl rloo': (group, dict(method='rloo'), POLICY),
    'trl gspo': (group, dict(method='gspo'), POLICY),
    'trl grpo kl': (group, dict(method='grpo', **IN_LOSS), BOTH),
    'trl dapo kl corrected': (group, dict(method='dapo', **CORRECTED), BOTH),
    'trl gspo kl corrected': (group, dict(method='gspo', **CORRECTED), BOTH),
    'trl dr_grpo delta': (group, dict(method='dr_grpo', dual_clip=1.31), POLICY),
    'trl bnpo importance': (
        group, dict(method='bnpo', importance_cap=1.3, **IN_LOSS), BOTH,
    ),
}  # fmt: skip


def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def ours(given: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """{name in the golden file: our value}, in the precision of jax's arrays."""
    inputs = {name: jnp.asarray(x) for name, x in given.items() if ' ' not in name}
    found: dict[str, jax.Array] = jax.jit(lambda inputs: dict(_each(inputs)))(inputs)
    return found


def _each(x: dict[str, jax.Array]) -> Iterator[tuple[str, jax.Array]]:
    weights = x['weights']
    x = x | {'mean_tokens': jnp.full(len(weights), 31 / 6)}
    of_rows = x | {'advantages': x['advantage'][:, None] * weights}
    for name, (module, options, terms) in LOSSES.items():
        batch = x if module is ppo else of_rows
        made = module.Options(**(PPO if module is ppo else GROUP) | options)
        yield from _loss(name, made, terms, batch)
    # A mean over sequences of tokens with advantages of their own.
    plain = group.Options(**GROUP, method='grpo')
    yield from _loss('verl policy seq-mean-token-mean', plain, POLICY, x)
    for beta in (0.0, 0.3, 1.0):
        value, gradient = jax.value_and_grad(_divergence)(x['student'], x, beta)
        yield f'trl jsd {beta}', value
        yield f'trl jsd {beta}/grad', gradient
    yield from _of_rollouts(x)


def _loss(
    name: str, options: Any, terms: tuple[str, ...], batch: dict[str, jax.Array]
) -> Iterator[tuple[str, jax.Array]]:
    def loss(now: jax.Array, values: jax.Array) -> jax.Array:
        answers = policy.Answers(now, 0 * now, now[..., None], {})
        if isinstance(options, ppo.Options):
            found = ppo.loss(options, answers, values, batch)
        else:
            found = group.loss(options, answers, batch)
        parts = [total / weight for total, weight in map(found.terms.get, terms)]
        return sum(parts[1:], start=parts[0])

    by = int(terms == VALUE)
    pair = batch['now'], batch['now_values']
    value, gradient = jax.value_and_grad(loss, by)(*pair)
    yield name, value
    yield f'{name}/grad', gradient


def _divergence(student: jax.Array, x: Mapping[str, jax.Array], beta: float) -> Any:
    apart = distil.divergence(student, x['teacher'], beta, 0.7)
    return jnp.sum(apart * x['weights']) / jnp.sum(x['weights'])


def _of_rollouts(x: Mapping[str, jax.Array]) -> Iterator[tuple[str, jax.Array]]:
    """Advantages, returns, whitening and the KL."""
    weights = x['weights']
    for gamma, lam in ((1.0, 0.95), (0.9, 0.7)):
        pair = x['token_rewards'], x['values']
        found = advantages.gae(*pair, weights, gamma, lam)
        yield f'verl returns {gamma}', (found + x['values']) * weights
        yield f'verl gae {gamma}', advantages.whiten(found, weights, True)
    yield 'verl whiten', advantages.whiten(x['token_rewards'], weights, False)
    for estimator in advantages.KL:
        pair = x['now'], x['reference_log_p']
        yield f'verl {estimator}', advantages.kl(*pair, weights, estimator)
    for name, leave_one_out, scale in (
        ('grpo True', False, 'group'),
        ('grpo False', False, 'none'),
        ('rloo', True, 'none'),
    ):
        found, _ = advantages.of_groups(x['rewards'], 3, leave_one_out, scale)
        yield f'verl {name}', found[:, None] * weights


def rows() -> Iterator[dict[str, Any]]:
    wanted = golden()
    found = ours(wanted)
    for peer in ('verl', 'TRL'):
        apart = {
            name: float(np.abs(np.asarray(value, np.float64) - wanted[name]).max())
            for name, value in found.items()
            if name.startswith(peer.lower())
        }
        for what, gradients in (('losses and advantages', False), ('gradients', True)):
            some = [
                x for name, x in apart.items() if name.endswith('/grad') is gradients
            ]
            yield {
                'name': f'{len(some)} {what} beside those of {peer}: difference',
                'value': max(some), 'goal': 1e-6, 'direction': 'min', 'unit': '',
            }  # fmt: skip
