"""What losses on a policy's own answers share: its tokens, ratios and clipping."""

from collections.abc import Sequence
import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from gptjax import command, core
from gptjax.model import transformer
from gptjax.objectives import advantages, next_token

_NEVER = -1e9  # a logit without probability, which has differences
_ABOVE_0 = 'importance_cap', 'clip_value', 'clip_score', 'kl_target', 'kl_horizon'
_LEAST_0 = (
    'clip_high', 'value_coefficient', 'entropy_coefficient', 'kl_coefficient',
    'unended_penalty',
)  # fmt: skip
_RANGES: dict[str, command.Range] = {
    **dict.fromkeys((*_ABOVE_0, 'soft_overlong'), command.ABOVE_0),
    **dict.fromkeys(_LEAST_0, command.LEAST_0),
    **dict.fromkeys(('clip_low', 'gamma', 'lam'), ('in [0, 1]', lambda x: 0 <= x <= 1)),
    'dual_clip': ('above 1 (3.0 is usual)', lambda x: 1 < x < math.inf),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What losses on rollouts share; the first four are those of the sampler."""

    temperature: float
    max_tokens: int  # of a completion
    group: int  # completions of one prompt
    unsaid: Sequence[int] = ()  # tokens that the sampler never draws
    dual_clip: float | None = None  # above 1: most of a ratio where the advantage < 0
    entropy_coefficient: float = 0.0
    importance_cap: float | None = None  # of p / p of the sampler

    def __post_init__(self) -> None:
        command.check_ranges('objective', vars(self), _RANGES)


class Answers(NamedTuple):
    """What a model makes of answers: of each target, and of the state before it.

    log_p and entropy are 0 outside of the answers.
    """

    log_p_BT: Float[Array, 'B T']
    entropy_BT: Float[Array, 'B T']  # nats
    x_BTD: Float[Array, 'B T D']
    router: core.Metrics


def read(
    model: transformer.Model,
    params: core.Params,
    batch: core.Batch,
    key: Array | None,
    options: Options,
) -> Answers:
    """Log-probabilities and entropies of the distribution that the sampler draws from.

    That is the one at its temperature, over the tokens that it may draw; top-k and
    top-p are left out: what they cut away depends on the weights, and would have no
    probability after an update. A row has weight on at most `max_tokens` neighbouring
    targets, and logits are computed for as many.
    """
    x_BTD, router = transformer.hidden(model, params, batch, key)
    T = x_BTD.shape[1]
    C = min(T, options.max_tokens)
    first_B1 = jnp.argmax(batch['weights'] > 0, axis=1, keepdims=True)
    first_B1 = jnp.minimum(first_B1, T - C)
    answer_BC = first_B1 + jnp.arange(C)
    x_BCD = jnp.take_along_axis(x_BTD, answer_BC[..., None], axis=1)
    logits_BCV = transformer.logits(model, params, x_BCD) / options.temperature
    said_V = np.isin(np.arange(model.arch.V), options.unsaid, invert=True)
    logits_BCV = jnp.where(said_V, logits_BCV, _NEVER)
    targets_BC = jnp.take_along_axis(batch['targets'], answer_BC, axis=1)
    log_p_BC = next_token.log_likelihood(logits_BCV, targets_BC)
    p_BCV = jax.nn.softmax(logits_BCV)
    mean_BC = jnp.sum(p_BCV * logits_BCV, axis=-1)
    entropy_BC = jax.nn.logsumexp(logits_BCV, axis=-1) - mean_BC
    place_BT = jnp.arange(T) - first_B1

    def laid(of_BC: Array) -> Array:
        of_BT = jnp.take_along_axis(of_BC, jnp.clip(place_BT, 0, C - 1), axis=1)
        return jnp.where((place_BT >= 0) & (place_BT < C), of_BT, 0.0)

    return Answers(laid(log_p_BC), laid(entropy_BC), x_BTD, router)


def log_ratio(log_p_BT: Float[Array, 'B T'], batch: core.Batch) -> Float[Array, 'B T']:
    """log(p / p at the rollout), cut where its exponential would run off."""
    most = advantages.MOST_NATS
    change_BT = jnp.clip(log_p_BT - batch['log_p'], -most, most)
    return jnp.where(batch['weights'] > 0, change_BT, 0.0)


def clipped(
    options: Options,
    answers: Answers,
    batch: core.Batch,
    log_ratio_BT: Float[Array, 'B T'],
    low: float,
    high: float,
) -> tuple[Float[Array, 'B T'], core.Metrics]:
    """The loss of each token by the ratio it counts with, and metrics.

    -min(ratio A, clip(ratio, 1 - low, 1 + high) A) (Schulman et al., 2017, equation 7);
    with dual_clip c, at most -c A where A < 0 (Ye et al., 2020, equation 5). A sampler
    of another precision, or with a cache, is another policy: importance_cap weights its
    tokens by min(p / p of the sampler, cap), both at the rollout (Yao et al., 2025,
    "Your efficient RL framework secretly brings you off-policy RL training").

    Metrics, per token: `clip_share`, where the gradient is clipped away, `entropy`, and
    `approx_kl`, from the rollout's policy to this one (k3).
    """
    weights_BT, advantages_BT = batch['weights'], batch['advantages']
    ratio_BT = jnp.exp(log_ratio_BT)
    plain_BT = -advantages_BT * ratio_BT
    near_BT = -advantages_BT * jnp.clip(ratio_BT, 1 - low, 1 + high)
    loss_BT, bound_BT = jnp.maximum(plain_BT, near_BT), near_BT > plain_BT
    if options.dual_clip is not None:
        most_BT = -options.dual_clip * advantages_BT
        over_BT = (advantages_BT < 0) & (loss_BT > most_BT)
        loss_BT, bound_BT = jnp.where(over_BT, most_BT, loss_BT), bound_BT | over_BT
    if options.importance_cap is not None:
        moved_BT = jnp.exp(batch['log_p'] - batch['sampler_log_p'])
        moved_BT = jnp.minimum(moved_BT, options.importance_cap)
        loss_BT = loss_BT * jnp.where(weights_BT > 0, moved_BT, 0.0)
    told = {
        'clip_share': bound_BT,
        'entropy': answers.entropy_BT,
        'approx_kl': advantages.KL['k3'](-log_ratio(answers.log_p_BT, batch)),
    }
    weight = jnp.sum(weights_BT)
    return loss_BT, {k: (jnp.sum(x * weights_BT), weight) for k, x in told.items()}


def sequence_kl(arrays: core.Batch, rows_M: Array) -> Float[Array, '']:
    """The mean KL (k1) of the rollout's policy from the reference, nats a sequence.

    rows_M: 1 where a row counts.
    """
    pair = arrays['log_p'], arrays['reference_log_p'], arrays['weights']
    kl_M = jnp.sum(advantages.kl(*pair, 'k1'), axis=1)
    return jnp.sum(kl_M * rows_M) / jnp.maximum(jnp.sum(rows_M), 1)


def more_terms(
    options: Options, answers: Answers, weights_BT: Float[Array, 'B T']
) -> core.Metrics:
    """What keeps a policy from settling too soon, where asked for, and experts busy."""
    if not options.entropy_coefficient:
        return answers.router
    total = jnp.sum(answers.entropy_BT * weights_BT)
    pair = -options.entropy_coefficient * total, jnp.sum(weights_BT)
    return {'entropy_loss': pair, **answers.router}


def of_batches(arrays: core.Batch) -> dict[str, Array]:
    """The arrays of a rollout that every loss reads."""
    names = ('tokens', 'targets', 'segments', 'positions', 'weights')
    log_ps = ('log_p', 'sampler_log_p', 'reference_log_p')
    return {name: arrays[name] for name in (*names, *log_ps)}
