"""Preference optimisation: of pairs of answers, and of answers by themselves (KTO)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax import command, core
from gptjax.model import transformer
from gptjax.objectives import heads, next_token, preferences

_ARRAYS = ('tokens', 'targets', 'segments', 'positions', 'weights')
# Of the setting `reference`: what the loss reads. Where it is stored, the batch has
# `reference_log_p`, float32 (B, 2).
FROZEN = {'stored': ('reference_log_p',), 'live': ('reference',), 'none': ()}

Answered = tuple[Float[Array, '*rows'], core.Metrics]


def answers(
    model: transformer.Model, params: core.Params, batch: core.Batch, key: Array | None
) -> Answered:
    """(log-probabilities of the weighted targets of each row, the router's terms).

    Arrays of the batch are (*rows, T); the sums are in nats, float32.
    """
    shape = batch['weights'].shape
    flat = {name: batch[name].reshape(-1, shape[-1]) for name in _ARRAYS}
    x_BTD, router = transformer.hidden(model, params, flat, key)
    log_p_BT = next_token.of_targets(model, params, x_BTD, flat['targets'])
    return jnp.sum(log_p_BT * flat['weights'], -1).reshape(shape[:-1]), router


def make(model: transformer.Model, loss: Any, reference: str) -> core.LossFn:
    """A loss of `preferences.LOSSES`, a mean over pairs.

    loss: its name and options. reference: 'stored', 'live' (frozen['reference'] goes
    forward beside the policy) or 'none', where the reference is 0. orpo, which has an
    `sft` term too, the mean cross-entropy a token of the chosen answers, and simpo need
    'none'. Arrays of the batch are (B, 2, T), chosen before rejected; a pair without
    weights is padding. Metrics: `reward_chosen` and `reward_rejected`, beta times
    log(p / p_reference) (orpo, simpo: beta times log p a token); `reward_margin`;
    `reward_accuracy`, the share of pairs whose reward prefers the chosen answer;
    `log_p_chosen`, `log_p_rejected`; `accuracy`, the share whose plain log-probability
    does. Raises UserError for wrong options, and for a model without a causal head over
    tokens.
    """
    heads.require(model, 'preference', 'tokens', 'masked', causal=True)
    name, loss_of = preferences.of(preferences.LOSSES, loss)
    mean = name in preferences.WITHOUT_REFERENCE
    _check_reference(reference, name, ('none',) if mean else tuple(FROZEN))
    stages, copies = model.sharding.mesh.shape['stage'], model.sharding.copies
    if name == 'aot' and (model.compute.accumulate > 1 or (stages > 1 and copies > 1)):
        raise command.UserError(
            f'compute.accumulate is {model.compute.accumulate}, mesh.stage {stages} '
            f'and mesh.data x mesh.slice {copies}, and the loss aot sorts the pairs of '
            'the whole batch; set the first to 1 and one of the others, or take '
            'another objective.loss.'
        )

    def loss_fn(
        params: core.Params,
        frozen: Mapping[str, Any],
        batch: core.Batch,
        key: Array | None,
    ) -> core.Loss:
        policy_B2, router = answers(model, params, batch, key)
        tokens_B2 = jnp.sum(batch['weights'], -1)
        reference_B2 = _reference(model, reference, frozen, batch, policy_B2)
        pairs = preferences.Pairs(policy_B2, reference_B2, tokens_B2)
        loss_B = loss_of(pairs, **_running(name, frozen))
        pair_B = (jnp.min(tokens_B2, axis=1) > 0).astype(jnp.float32)
        count = jnp.sum(pair_B)
        reward_B2 = loss['beta'] * (pairs.mean_B2 if mean else pairs.ratio_B2)
        found_B = {
            'reward_accuracy': reward_B2[:, 0] > reward_B2[:, 1],
            'reward_margin': reward_B2[:, 0] - reward_B2[:, 1],
            'reward_chosen': reward_B2[:, 0],
            'reward_rejected': reward_B2[:, 1],
            'accuracy': policy_B2[:, 0] > policy_B2[:, 1],
            'log_p_chosen': policy_B2[:, 0],
            'log_p_rejected': policy_B2[:, 1],
        }
        terms = {'loss': (jnp.sum(loss_B * pair_B), count)}
        if name == 'orpo':
            tokens = jnp.sum(tokens_B2[:, 0] * pair_B)
            terms['sft'] = -jnp.sum(policy_B2[:, 0] * pair_B), tokens
        metrics = {key: (jnp.sum(x * pair_B), count) for key, x in found_B.items()}
        return core.Loss({**terms, **router}, metrics)

    return loss_fn


def make_kto(model: transformer.Model, loss: Any, reference: str) -> core.LossFn:
    """A loss of `preferences.UNPAIRED`, a mean over answers; loss, reference: as above.

    Arrays of the batch are (B, 2, T): an answer to a prompt, and the answer of another
    example to the same prompt, on which kto estimates KL(policy | reference); `labels`
    (int32 B) are 1 for a good answer. Metrics: `kl` (nats, before it is cut at 0),
    `reward_accuracy`, the share of answers whose reward has the sign of their label;
    `reward_chosen`, `log_p_chosen` over the good ones, `..._rejected` over the bad.
    """
    heads.require(model, 'kto', 'tokens', 'masked', causal=True)
    name, loss_of = preferences.of(preferences.UNPAIRED, loss)
    _check_reference(reference, name, ('stored', 'live'))

    def loss_fn(
        params: core.Params,
        frozen: Mapping[str, Any],
        batch: core.Batch,
        key: Array | None,
    ) -> core.Loss:
        own, other = ({k: batch[k][:, side] for k in _ARRAYS} for side in (0, 1))
        policy_B, router = answers(model, params, own, key)
        other_B, _ = answers(model, jax.lax.stop_gradient(params), other, None)
        policy_B2 = jnp.stack([policy_B, other_B], axis=1)
        reference_B2 = _reference(model, reference, frozen, batch, policy_B2)
        ratio_B2 = policy_B2 - reference_B2
        real_B2 = (jnp.sum(batch['weights'], -1) > 0).astype(jnp.float32)
        real_B, good_B = real_B2[:, 0], batch['labels'].astype(jnp.float32)
        given = preferences.Answers(policy_B, reference_B2[:, 0], good_B)
        loss_B = loss_of(given, **_running(name, frozen))
        count, reward_B = jnp.sum(real_B), loss['beta'] * ratio_B2[:, 0]
        right_B = (reward_B > 0) == (good_B > 0)
        sides = {'chosen': real_B * good_B, 'rejected': real_B * (1 - good_B)}
        values_B = {'reward': reward_B, 'log_p': policy_B}
        return core.Loss(
            terms={'loss': (jnp.sum(loss_B * real_B), count), **router},
            metrics={
                'kl': (jnp.sum(ratio_B2[:, 1] * real_B2[:, 1]), jnp.sum(real_B2[:, 1])),
                'reward_accuracy': (jnp.sum(right_B * real_B), count),
                **{
                    f'{value}_{side}': (jnp.sum(x_B * weight_B), jnp.sum(weight_B))
                    for side, weight_B in sides.items()
                    for value, x_B in values_B.items()
                },
            },
        )

    return loss_fn


def _check_reference(reference: str, name: str, taken: Sequence[str]) -> None:
    if reference not in taken:
        raise command.UserError(
            f'objective.reference is {reference!r}, and the loss {name} needs '
            f'{" or ".join(map(repr, taken))}.'
        )


def _reference(
    model: transformer.Model,
    reference: str,
    frozen: Mapping[str, Any],
    batch: core.Batch,
    policy_B2: Float[Array, 'B 2'],
) -> Float[Array, 'B 2']:
    if reference == 'stored':
        return batch['reference_log_p']
    if reference == 'live':
        return answers(model, frozen['reference'], batch, None)[0]
    return jnp.zeros_like(policy_B2)


def _running(name: str, frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The statistics that a loss takes besides its options."""
    names = set(preferences.RUNNING.get(name, {})) - {'steps'}
    return {key: frozen['running'][key] for key in names}
