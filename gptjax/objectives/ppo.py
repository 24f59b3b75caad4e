"""Proximal policy optimisation (Schulman et al., 2017) of a model's own answers.

What implementations do besides is an option here, each by itself: Huang et al. (2023),
"The N implementation details of RLHF with PPO", and (2024), of summarisation.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax import command, core
from gptjax.model import transformer
from gptjax.objectives import advantages, heads, policy

SPREAD = {'end': False, 'spread': True}
# What `prepare` keeps from rollout to rollout.
RUNNING = {'kl_factor': 1.0, 'score_mean': 0.0, 'score_squares': 0.0, 'scores': 0.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(policy.Options):
    """Each detail of PPO by itself; None is off."""

    clip_low: float  # the ratio is at least 1 - clip_low,
    clip_high: float  # and at most 1 + clip_high, where that matters
    value_coefficient: float
    gamma: float
    lam: float
    kl_coefficient: float  # of the penalty in the reward, a token
    kl_estimator: str  # of advantages.KL
    whiten_rewards: bool  # with the KL in them; their mean stays
    whiten_advantages: bool
    whiten_unbiased: bool = True  # False: n below the variance, as in TensorFlow
    clip_value: float | None = None  # how far a value moves from that of the rollout
    kl_target: float | None = None  # nats a sequence, which the coefficient follows
    kl_horizon: float | None = None  # in sequences: how fast it does
    reward_at: str = 'end'  # the last token, or 'spread' over all of them
    normalise_score: bool = False  # by the mean and deviation of all scores so far
    clip_score: float | None = None  # scores are within -clip_score and clip_score
    unended_score: float | None = None  # in place of the score of what did not end
    unended_penalty: float | None = None  # taken from it

    def __post_init__(self) -> None:
        super().__post_init__()
        command.lookup(advantages.KL, self.kl_estimator, 'objective.kl_estimator')
        command.lookup(SPREAD, self.reward_at, 'objective.reward_at')
        if (self.kl_target is None) != (self.kl_horizon is None):
            raise command.UserError(
                f'objective.kl_target is {self.kl_target} and objective.kl_horizon '
                f'{self.kl_horizon}; the coefficient adapts with both (6.0 and '
                '10_000.0 are usual), and stays as it is without either.'
            )


def make(model: transformer.Model, options: Options) -> core.LossFn:
    """The clipped policy loss and the value loss, means over tokens with weight.

    The batch is of `prepare`. Terms, coefficients in: `policy_loss`, `value_loss` (half
    the square, the greater of the clipped and the plain one) and `entropy_loss`; the
    metrics are those of `policy.clipped`, and `value_clip_share`. Raises UserError for
    a model without a causal head over tokens with values beside it.
    """
    heads.require(model, 'ppo', 'tokens', 'masked', causal=True)
    if not model.arch.head.values:
        raise command.UserError(
            "model.head.values is False, and objective 'ppo' trains a value for each "
            'token; set model.head.values=True, or another objective.name.'
        )

    def loss_fn(
        params: core.Params, frozen: core.Params, batch: core.Batch, key: Array | None
    ) -> core.Loss:
        answers = policy.read(model, params, batch, key, options)
        values_BT = transformer.values(model, params, answers.x_BTD)
        return loss(options, answers, values_BT, batch)

    return loss_fn


def loss(
    options: Options,
    answers: policy.Answers,
    values_BT: Float[Array, 'B T'],
    batch: core.Batch,
) -> core.Loss:
    """The loss of what a model makes of a batch; see `make`."""
    weights_BT, weight = batch['weights'], jnp.sum(batch['weights'])
    ratio_BT = policy.log_ratio(answers.log_p_BT, batch)
    edges = options.clip_low, options.clip_high
    loss_BT, told = policy.clipped(options, answers, batch, ratio_BT, *edges)
    returns_BT, clip = batch['returns'], options.clip_value
    plain_BT = value_BT = jnp.square(values_BT - returns_BT)
    if clip is not None:
        before_BT = batch['values']
        near_BT = jnp.clip(values_BT, before_BT - clip, before_BT + clip)
        value_BT = jnp.maximum(plain_BT, jnp.square(near_BT - returns_BT))
    half = options.value_coefficient / 2
    off = jnp.sum((value_BT > plain_BT) * weights_BT)
    return core.Loss(
        terms={
            'policy_loss': (jnp.sum(loss_BT * weights_BT), weight),
            'value_loss': (half * jnp.sum(value_BT * weights_BT), weight),
            **policy.more_terms(options, answers, weights_BT),
        },
        metrics={**told, 'value_clip_share': (off, weight)},
    )


def prepare(options: Options) -> Callable[[Any, Any], tuple[Any, Any, Any]]:
    """A function (arrays of a rollout, running) -> (arrays of batches, means, running).

    The reward of a token is -coefficient x KL, and at the last token, or spread, the
    score of the completion; a score that is no number takes the weights of its
    completion away. `advantages` are by `advantages.gae`, `returns` = advantages +
    values, before advantages are whitened. Means: `kl` (k1, nats a sequence) and
    `kl_coefficient`, that of this rollout.
    """

    def prepared(arrays: Any, running: Any) -> tuple[Any, Any, Any]:
        fine_M = jnp.isfinite(arrays['rewards'])
        weights_MT = arrays['weights'] * fine_M[:, None]
        score_M = jnp.where(fine_M, arrays['rewards'], 0.0)
        score_M, running = _score(options, score_M, fine_M, arrays['ended'], running)
        if not SPREAD[options.reward_at]:
            left_MT = jnp.cumsum(weights_MT[:, ::-1] > 0, axis=1)[:, ::-1]
            share_MT = (weights_MT > 0) & (left_MT == 1)
        else:
            share_MT = weights_MT / jnp.maximum(jnp.sum(weights_MT, 1), 1)[:, None]
        coefficient = options.kl_coefficient * running['kl_factor']
        pair = arrays['log_p'], arrays['reference_log_p'], weights_MT
        penalty_MT = coefficient * advantages.kl(*pair, options.kl_estimator)
        rewards_MT = share_MT * score_M[:, None] - penalty_MT
        unbiased = options.whiten_unbiased
        if options.whiten_rewards:
            rewards_MT = advantages.whiten(rewards_MT, weights_MT, False, unbiased)
        values_MT = arrays['values']
        advantages_MT = advantages.gae(
            rewards_MT, values_MT, weights_MT, options.gamma, options.lam
        )
        returns_MT = advantages_MT + values_MT
        if options.whiten_advantages:
            advantages_MT = advantages.whiten(advantages_MT, weights_MT, True, unbiased)
        kl = policy.sequence_kl(arrays, fine_M)
        running = _adapt(options, running, kl, jnp.sum(fine_M))
        made = policy.of_batches(arrays) | {
            'weights': weights_MT,
            'advantages': advantages_MT,
            'values': values_MT,
            'returns': returns_MT,
        }
        return made, {'kl': kl, 'kl_coefficient': coefficient}, running

    return prepared


def _score(
    options: Options, score_M: Array, fine_M: Array, ended_M: Array, running: Any
) -> tuple[Array, Any]:
    """Scores normalised, clipped, then those of what did not end; statistics."""
    if options.normalise_score:
        # Means and squares of two sets as those of their union (Chan et al., 1979).
        n, before = jnp.sum(fine_M), running['scores']
        total = jnp.maximum(n + before, 1)
        mean = jnp.sum(score_M) / jnp.maximum(n, 1)
        step = mean - running['score_mean']
        squares = jnp.sum(jnp.square(score_M - mean), where=fine_M)
        squares += running['score_squares'] + jnp.square(step) * n * before / total
        mean = running['score_mean'] + step * n / total
        running = running | dict(
            score_mean=mean, score_squares=squares, scores=n + before
        )
        deviation = jnp.sqrt(squares / jnp.maximum(total - 1, 1))
        score_M = (score_M - mean) / (deviation + 1e-8)
    if options.clip_score is not None:
        score_M = jnp.clip(score_M, -options.clip_score, options.clip_score)
    if options.unended_score is not None:
        score_M = jnp.where(ended_M > 0, score_M, options.unended_score)
    if options.unended_penalty is not None:
        score_M = score_M - options.unended_penalty * (ended_M == 0)
    return score_M, running


def _adapt(options: Options, running: Any, kl: Array, sequences: Array) -> Any:
    """The coefficient follows its target (Ziegler et al., 2019, section 2.2)."""
    if options.kl_target is None or options.kl_horizon is None:
        return running
    error = jnp.clip(kl / options.kl_target - 1, -0.2, 0.2)
    factor = running['kl_factor'] * (1 + error * sequences / options.kl_horizon)
    return running | {'kl_factor': factor}
