"""Policy losses whose baseline is the group of answers to one prompt: six of them.

What one name means has changed with papers and versions, so each is a row of METHODS.

Where the KL to the reference stands decides what is learned. In the reward ('reward'),
a sequence's sum of log(p / p_ref) with k1, the gradient is that of E[r] - coefficient x
KL(p || p_ref), and the optimum is p_ref exp(r / coefficient) up to a constant. In the
loss ('loss'), the gradient of an estimate d(token) is taken through log p alone, not
through the sampling: the mean of k1's is then 0, of k2's that of KL(p || p_ref) given
the tokens before, and of k3's, -(p_ref / p) grad log p + grad log p, that of the OTHER
divergence, KL(p_ref || p). `kl_corrected` multiplies by p / p of the rollout, whose own
gradient adds what is missing token by token; what a token does to the KL of later ones
is in none of those but the reward.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax import command, core
from gptjax.model import transformer
from gptjax.objectives import advantages, heads, policy


@dataclasses.dataclass(frozen=True)
class Method:
    """A named loss.

    ratio: p / p at the rollout, of a 'token', of a 'sequence', or the geometric 'mean'
        of a sequence's tokens.
    over: what the loss is a mean over. 'sequences': means over tokens, of each; the
        'tokens' of an update; 'rollout', tokens again, but as many as an update has on
        average; 'room', max_tokens for each sequence, however long it is.
    """

    ratio: str
    over: str
    scale: str  # of advantages.of_groups
    leave_one_out: bool = False
    clip_low: float = 0.2
    clip_high: float = 0.2


METHODS = {
    # Shao et al. (2024), equation 3.
    'grpo': Method('token', 'sequences', 'group'),
    # As TRL names it: Beta normalisation (Xiao et al., 2025) is not in it.
    'bnpo': Method('token', 'tokens', 'group'),
    # Liu et al. (2025): neither lengths nor deviations divide.
    'dr_grpo': Method('token', 'room', 'none'),
    # Yu et al. (2025), equation 8 and section 4.1.
    'dapo': Method('token', 'rollout', 'group', clip_high=0.28),
    # Ahmadian et al. (2024), with PPO's clipping of whole sequences.
    'rloo': Method('sequence', 'sequences', 'none', leave_one_out=True),
    # Zheng et al. (2025), equations 5 and 7, section 5.1.
    'gspo': Method('mean', 'sequences', 'group', clip_low=3e-4, clip_high=4e-4),
}

IN_LOSS = {'loss': True, 'reward': False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(policy.Options):
    """A method, and what may be changed in it; None is the method's own, or off."""

    method: str  # of METHODS
    kl_coefficient: float
    kl_in: str  # 'loss' or 'reward'
    kl_estimator: str  # of advantages.KL
    kl_corrected: bool = False  # see the head of this file
    scale: str | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    mask_unended: bool = False  # completions that were cut bear no weight
    # Yu et al. (2025), equation 13: the last tokens of max_tokens cost up to 1.
    soft_overlong: int | None = None
    drop_equal: bool = False  # groups whose rewards are equal bear no weight

    def __post_init__(self) -> None:
        super().__post_init__()
        command.lookup(METHODS, self.method, 'objective.method')
        command.lookup(advantages.KL, self.kl_estimator, 'objective.kl_estimator')
        command.lookup(IN_LOSS, self.kl_in, 'objective.kl_in')
        scales = dict.fromkeys(advantages.SCALES)
        command.lookup(scales, self.settled.scale, 'objective.scale')
        if self.group < 2:
            raise command.UserError(
                f"rollout.group is {self.group}, and objective 'group' compares the "
                'completions of a prompt with each other; set it to 2 or more.'
            )

    @property
    def settled(self) -> Method:
        """The method with what the options change in it."""
        names = ('scale', 'clip_low', 'clip_high')
        changed = {name: getattr(self, name) for name in names}
        changed = {name: x for name, x in changed.items() if x is not None}
        return dataclasses.replace(METHODS[self.method], **changed)


def make(model: transformer.Model, options: Options) -> core.LossFn:
    """The policy loss of a method, and the KL where it is in the loss.

    The batch is of `prepare`; a row without weights counts in no mean. Terms,
    coefficients in: `policy_loss`, `kl_loss`, `entropy_loss`; the metrics are those of
    `policy.clipped`. Raises UserError for a model without a causal head over tokens.
    """
    heads.require(model, 'group', 'tokens', 'masked', causal=True)

    def loss_fn(
        params: core.Params, frozen: core.Params, batch: core.Batch, key: Array | None
    ) -> core.Loss:
        answers = policy.read(model, params, batch, key, options)
        return loss(options, answers, batch)

    return loss_fn


def loss(options: Options, answers: policy.Answers, batch: core.Batch) -> core.Loss:
    """The loss of what a model makes of a batch; see `make`."""
    method, weights_BT = options.settled, batch['weights']
    ratio_BT = policy.log_ratio(answers.log_p_BT, batch)
    ratio_BT = _together(ratio_BT, weights_BT, method.ratio)
    edges = method.clip_low, method.clip_high
    loss_BT, told = policy.clipped(options, answers, batch, ratio_BT, *edges)
    terms = {'policy_loss': _mean(loss_BT, batch, method, options)}
    if options.kl_coefficient and IN_LOSS[options.kl_in]:
        pair = answers.log_p_BT, batch['reference_log_p'], weights_BT
        kl_BT = options.kl_coefficient * advantages.kl(*pair, options.kl_estimator)
        kl_BT = kl_BT * jnp.exp(ratio_BT) if options.kl_corrected else kl_BT
        terms['kl_loss'] = _mean(kl_BT, batch, method, options)
    return core.Loss(terms | policy.more_terms(options, answers, weights_BT), told)


def _together(
    change_BT: Float[Array, 'B T'], weights_BT: Float[Array, 'B T'], ratio: str
) -> Float[Array, 'B T']:
    """The log-ratio that each token counts with."""
    if ratio == 'token':
        return change_BT
    total_B1 = jnp.sum(change_BT * weights_BT, axis=1, keepdims=True)
    if ratio == 'mean':
        total_B1 /= jnp.maximum(jnp.sum(weights_BT, axis=1, keepdims=True), 1)
    most = advantages.MOST_NATS
    return jnp.broadcast_to(jnp.clip(total_B1, -most, most), change_BT.shape)


def _mean(
    x_BT: Float[Array, 'B T'], batch: core.Batch, method: Method, options: Options
) -> tuple[Array, Array]:
    """(sum, weight), of which the weight depends on the batch alone."""
    weights_BT = batch['weights']
    total_B, tokens_B = jnp.sum(x_BT * weights_BT, 1), jnp.sum(weights_BT, 1)
    rows = jnp.sum(tokens_B > 0).astype(jnp.float32)
    if method.over == 'sequences':
        return jnp.sum(total_B / jnp.maximum(tokens_B, 1)), rows
    if method.over == 'room':
        return jnp.sum(total_B), rows * options.max_tokens
    weight_B = batch['mean_tokens'] if method.over == 'rollout' else tokens_B
    return jnp.sum(total_B), jnp.sum(weight_B)


def prepare(options: Options) -> Callable[[Any, Any], tuple[Any, Any, Any]]:
    """A function (arrays of a rollout, running) -> (arrays of batches, means, running).

    The advantage of a completion is that of each of its tokens. A reward that is no
    number is in no mean and takes the weights of its completion away, as the options
    do for others, which stay in the baseline. Means: `kl` (k1, nats a sequence),
    `zero_variance`, the share of groups with equal rewards (before a KL), and
    `unweighted`, that of completions without weight. `mean_tokens` (M) is the weight of
    the rollout over M, in each row.
    """
    method = options.settled

    def prepared(arrays: Any, running: Any) -> tuple[Any, Any, Any]:
        weights_MT = arrays['weights']
        score_M = arrays['rewards']
        if options.soft_overlong is not None:
            over_M = jnp.sum(weights_MT, 1) - options.max_tokens + options.soft_overlong
            score_M = score_M - jnp.clip(over_M / options.soft_overlong, 0, 1)
        fine_M = jnp.isfinite(score_M)
        pair = arrays['log_p'], arrays['reference_log_p'], weights_MT
        group, out = options.group, method.leave_one_out
        _, deviation_P = advantages.of_groups(score_M, group, out, 'none')
        if not IN_LOSS[options.kl_in]:
            penalty_MT = advantages.kl(*pair, options.kl_estimator)
            score_M = score_M - options.kl_coefficient * jnp.sum(penalty_MT, axis=1)
        of_M, _ = advantages.of_groups(score_M, group, out, method.scale)
        kept_M = fine_M
        if options.mask_unended:
            kept_M &= arrays['ended'] > 0
        if options.drop_equal:
            kept_M &= jnp.repeat(deviation_P > 0, group)
        weights_MT = weights_MT * kept_M[:, None]
        made = policy.of_batches(arrays) | {
            'weights': weights_MT,
            'advantages': of_M[:, None] * weights_MT,
            'mean_tokens': jnp.full_like(of_M, jnp.sum(weights_MT) / len(of_M)),
        }
        told = {
            'kl': policy.sequence_kl(arrays, fine_M),
            'zero_variance': jnp.mean(deviation_P == 0),
            'unweighted': 1 - jnp.mean(kept_M),
        }
        return made, told, running

    return prepared
