"""What losses on a policy's own answers share: its tokens, ratios and clipping."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax import command, core
from gptjax.model import transformer
from gptjax.objectives import advantages, next_token


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
    """What a loss knows of the rollouts that it reads: from the section `rollout`."""

    temperature: float
    max_tokens: int  # of a completion
    group: int  # completions of one prompt


class Answers(NamedTuple):
    """What a model makes of answers: of each target, and of the state before it."""

    log_p_BT: Float[Array, 'B T']
    entropy_BT: Float[Array, 'B T']  # nats
    x_BTD: Float[Array, 'B T D']
    router: core.Metrics


def read(
    model: transformer.Model,
    params: core.Params,
    batch: core.Batch,
    key: Array | None,
    temperature: float,
) -> Answers:
    """Log-probabilities at the temperature of the sampler, and entropies."""
    x_BTD, router = transformer.hidden(model, params, batch, key)
    logits_BTV = transformer.logits(model, params, x_BTD) / temperature
    log_p_BT = next_token.log_likelihood(logits_BTV, batch['targets'])
    p_BTV = jax.nn.softmax(logits_BTV)
    mean_BT = jnp.sum(p_BTV * logits_BTV, axis=-1)
    entropy_BT = jax.nn.logsumexp(logits_BTV, axis=-1) - mean_BT
    return Answers(log_p_BT, entropy_BT, x_BTD, router)


def log_ratio(log_p_BT: Float[Array, 'B T'], batch: core.Batch) -> Float[Array, 'B T']:
    """log(p / p at the rollout), cut where its exponential would run off."""
    most = advantages.MOST_NATS
    change_BT = jnp.clip(log_p_BT - batch['log_p'], -most, most)
    return jnp.where(batch['weights'] > 0, change_BT, 0.0)


def surrogate(
    ratio_BT: Float[Array, 'B T'],
    advantages_BT: Float[Array, 'B T'],
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> tuple[Float[Array, 'B T'], Float[Array, 'B T']]:
    """(loss, 1 where clipping takes the gradient away) of each token.

    -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) (Schulman et al., 2017,
    equation 7); with dual_clip c > 1, at most -c A where A < 0 (Ye et al., 2020,
    equation 5).
    """
    plain_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * jnp.clip(ratio_BT, 1 - clip_low, 1 + clip_high)
    loss_BT = jnp.maximum(plain_BT, clipped_BT)
    bound_BT = clipped_BT > plain_BT
    if dual_clip is not None:
        most_BT = -dual_clip * advantages_BT
        over_BT = (advantages_BT < 0) & (loss_BT > most_BT)
        loss_BT = jnp.where(over_BT, most_BT, loss_BT)
        bound_BT |= over_BT
    return loss_BT, bound_BT.astype(jnp.float32)


def importance(batch: core.Batch, cap: float | None) -> Array | float:
    """min(p / p of the sampler, cap), both at the rollout: what rounding has moved.

    A sampler of another precision, or with a cache, is another policy; its tokens are
    weighted (Yao et al., 2025, "Your efficient RL framework secretly brings you
    off-policy RL training"). 1 without a cap.
    """
    if cap is None:
        return 1.0
    moved_BT = jnp.exp(batch['log_p'] - batch['sampler_log_p'])
    return jnp.where(batch['weights'] > 0, jnp.minimum(moved_BT, cap), 0.0)


def metrics(
    answers: Answers,
    log_ratio_BT: Float[Array, 'B T'],
    bound_BT: Float[Array, 'B T'],
    weights_BT: Float[Array, 'B T'],
) -> core.Metrics:
    """`clip_share`, `entropy` and `approx_kl` (rollout to policy, k3), per token."""
    told = {
        'clip_share': bound_BT,
        'entropy': answers.entropy_BT,
        'approx_kl': advantages.KL['k3'](-log_ratio_BT),
    }
    weight = jnp.sum(weights_BT)
    return {name: (jnp.sum(x_BT * weights_BT), weight) for name, x_BT in told.items()}


def entropy_loss(
    answers: Answers, weights_BT: Float[Array, 'B T'], coefficient: float
) -> core.Metrics:
    """The term that keeps a policy from settling too soon; none at 0."""
    if not coefficient:
        return {}
    total = jnp.sum(answers.entropy_BT * weights_BT)
    return {'entropy_loss': (-coefficient * total, jnp.sum(weights_BT))}


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises UserError where an option is none of the known ones."""
    command.lookup(dict.fromkeys(known), value, name)


def of_batches(arrays: core.Batch) -> dict[str, Array]:
    """The arrays of a rollout that every loss reads."""
    names = ('tokens', 'targets', 'segments', 'positions', 'weights')
    log_ps = ('log_p', 'sampler_log_p', 'reference_log_p')
    return {name: arrays[name] for name in (*names, *log_ps)}
