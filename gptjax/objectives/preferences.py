"""Losses of preferences, as functions of the log-probabilities of whole answers.

beta > 0 scales log(p / p_reference) to a reward; in the IPO losses it is the paper's
tau. Where a name means several formulas in the field, each has a name of its own here:
IPO of sums (the authors' paper, Mitchell's reference code, tunix) and of means a token
(TRL); a `label_smoothing` that is conservative (cdpo: Mitchell, tunix) or unbiased
(robust: TRL).
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax import command

log_sigmoid, sigmoid_of = jax.nn.log_sigmoid, jax.nn.sigmoid
Number = float | Float[Array, '']
Loss = Callable[..., Float[Array, ' B']]


class Pairs(NamedTuple):
    """Log-probabilities of answers, chosen before rejected: sums over tokens, nats."""

    policy_B2: Float[Array, 'B 2']
    reference_B2: Float[Array, 'B 2']  # 0 where there is no reference
    tokens_B2: Float[Array, 'B 2']  # how many were summed; a pair of 0 is padding

    @property
    def ratio_B2(self) -> Float[Array, 'B 2']:
        """log(p / p_reference)."""
        return self.policy_B2 - self.reference_B2

    @property
    def mean_B2(self) -> Float[Array, 'B 2']:
        """log(p / p_reference) a token."""
        return self.ratio_B2 / jnp.where(self.tokens_B2 > 0, self.tokens_B2, 1)


class Answers(NamedTuple):
    """Log-probabilities of answers that are good (1) or bad (0), each by itself."""

    policy_B: Float[Array, ' B']
    reference_B: Float[Array, ' B']
    good_B: Float[Array, ' B']


def margin(ratio_B2: Float[Array, 'B 2']) -> Float[Array, ' B']:
    """Chosen less rejected."""
    return ratio_B2[:, 0] - ratio_B2[:, 1]


def sigmoid(pairs: Pairs, beta: float) -> Float[Array, ' B']:
    """DPO (Rafailov et al., 2023, equation 7).

    Without a reference it is CPO's L_prefer (Xu et al., 2024, equation 3).
    """
    return -log_sigmoid(beta * margin(pairs.ratio_B2))


def hinge(pairs: Pairs, beta: float) -> Float[Array, ' B']:
    """SLiC's hinge on DPO's margin (Liu et al., 2023, RSO); it asks for 1 / beta."""
    return jax.nn.relu(1 - beta * margin(pairs.ratio_B2))


def ipo_sum(pairs: Pairs, beta: float) -> Float[Array, ' B']:
    """IPO (Azar et al., 2023, equation 17), as it is written: of sums."""
    return (margin(pairs.ratio_B2) - 1 / (2 * beta)) ** 2


def ipo_norm(pairs: Pairs, beta: float) -> Float[Array, ' B']:
    """IPO of means a token, TRL's 'ipo', which says that its authors meant that."""
    return (margin(pairs.mean_B2) - 1 / (2 * beta)) ** 2


def cdpo(pairs: Pairs, beta: float, label_smoothing: float) -> Float[Array, ' B']:
    """Conservative DPO (Mitchell, 2023, "A note on DPO with noisy preferences").

    label_smoothing: the share of pairs whose labels are taken to be swapped.
    """
    return _smoothed(beta * margin(pairs.ratio_B2), label_smoothing)


def _smoothed(x_B: Float[Array, ' B'], share: float) -> Float[Array, ' B']:
    return -(1 - share) * log_sigmoid(x_B) - share * log_sigmoid(-x_B)


def robust(pairs: Pairs, beta: float, label_smoothing: float) -> Float[Array, ' B']:
    """Robust DPO (Ray Chowdhury et al., 2024): unbiased under noise.

    Its mean over swapped labels, a share of label_smoothing, is DPO's with right ones.
    """
    x_B = beta * margin(pairs.ratio_B2)
    flipped_B = label_smoothing * log_sigmoid(-x_B)
    right_B = (1 - label_smoothing) * log_sigmoid(x_B)
    return (flipped_B - right_B) / (1 - 2 * label_smoothing)


def exo(pairs: Pairs, beta: float, label_smoothing: float) -> Float[Array, ' B']:
    """EXO of pairs (Ji et al., 2024, equation 16): a reverse KL to smoothed labels."""
    if not label_smoothing:
        raise command.UserError(
            'objective.loss.label_smoothing is 0, and exo takes its logarithm; set it '
            'above 0, for example to 0.001.'
        )
    x_B = beta * margin(pairs.ratio_B2)
    right_B = sigmoid_of(x_B) * (log_sigmoid(x_B) - jnp.log1p(-label_smoothing))
    wrong_B = sigmoid_of(-x_B) * (log_sigmoid(-x_B) - jnp.log(label_smoothing))
    return right_B + wrong_B


def nca(pairs: Pairs, beta: float) -> Float[Array, ' B']:
    """Noise contrastive alignment of pairs (Chen et al., 2024)."""
    reward_B2 = beta * pairs.ratio_B2
    return -log_sigmoid(reward_B2[:, 0]) - 0.5 * jnp.sum(log_sigmoid(-reward_B2), 1)


def bco(pairs: Pairs, beta: float, delta: Number) -> Float[Array, ' B']:
    """Binary classifier optimisation of pairs (Jung et al., 2024).

    delta: the mean reward of all answers so far, which TRL had once and takes as 0 now.
    """
    reward_B2 = beta * pairs.ratio_B2 - delta
    return -log_sigmoid(reward_B2[:, 0]) - log_sigmoid(-reward_B2[:, 1])


def sppo(pairs: Pairs, beta: float) -> Float[Array, ' B']:
    """SPPO (Wu et al., 2024, equation 4.7) where the chosen one wins always."""
    ratio_B2 = pairs.ratio_B2
    return (ratio_B2[:, 0] - 0.5 / beta) ** 2 + (ratio_B2[:, 1] + 0.5 / beta) ** 2


def apo_zero(pairs: Pairs, beta: float) -> Float[Array, ' B']:
    """APO-zero (D'Oosterlinck et al., 2024, equation 7).

    For chosen answers that are better than the model's own.
    """
    reward_B2 = beta * pairs.ratio_B2
    return sigmoid_of(-reward_B2[:, 0]) + sigmoid_of(reward_B2[:, 1])


def apo_down(pairs: Pairs, beta: float) -> Float[Array, ' B']:
    """APO-down (D'Oosterlinck et al., 2024, equation 8).

    For a model that is better than both answers.
    """
    reward_B2 = beta * pairs.ratio_B2
    return sigmoid_of(reward_B2[:, 0]) + sigmoid_of(-margin(reward_B2))


def discopop(pairs: Pairs, beta: float, tau: float) -> Float[Array, ' B']:
    """DiscoPOP, the log-ratio modulated loss (Lu et al., 2024, equation 5)."""
    x_B = beta * margin(pairs.ratio_B2)
    share_B = sigmoid_of(x_B / tau)
    return -(1 - share_B) * log_sigmoid(x_B) + share_B * jnp.exp(-x_B)


def aot(pairs: Pairs, beta: float, label_smoothing: float) -> Float[Array, ' B']:
    """Alignment by optimal transport of pairs (Melnyk et al., 2024).

    The i-th smallest margin of the policy goes with the i-th smallest of the reference,
    over the whole batch.
    """
    real_B = jnp.min(pairs.tokens_B2, axis=1) > 0  # padding is sorted behind all
    policy_B = jnp.where(real_B, margin(pairs.policy_B2), jnp.inf)
    reference_B = jnp.where(real_B, margin(pairs.reference_B2), jnp.inf)
    rank_B = jnp.argsort(jnp.argsort(policy_B))
    against_B = jnp.where(real_B, jnp.sort(reference_B)[rank_B], 0)
    apart_B = jnp.where(real_B, policy_B, 0) - against_B
    return _smoothed(beta * apart_B, label_smoothing)


def orpo(pairs: Pairs, beta: float) -> Float[Array, ' B']:
    """The odds-ratio term of ORPO (Hong et al., 2024, equations 4 and 7).

    beta is the paper's lambda. The objective adds the cross-entropy of the chosen
    answers (equation 6): TRL adds that of their prompts, too.
    """
    log_odds_B2 = pairs.mean_B2 - _log1mexp(pairs.mean_B2)
    return -beta * log_sigmoid(margin(log_odds_B2))


def _log1mexp(x: Float[Array, '*s']) -> Float[Array, '*s']:
    """log(1 - exp(x)) for x < 0, by the form that is exact on either side of -ln 2."""
    near = x > -jnp.log(2)
    x = jnp.minimum(x, -jnp.finfo(x.dtype).tiny)  # certainty, and padding
    by_expm1 = jnp.log(-jnp.expm1(jnp.where(near, x, -0.5)))
    return jnp.where(near, by_expm1, jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))))


def simpo(pairs: Pairs, beta: float, gamma: float) -> Float[Array, ' B']:
    """SimPO (Meng et al., 2024, equation 6): means a token, with a target margin gamma.

    gamma is in units of the reward, as in the paper; beta and gamma / beta are what
    its tables have.
    """
    return -log_sigmoid(beta * margin(pairs.mean_B2) - gamma)


def kto(
    answers: Answers, beta: float, desirable: float, undesirable: float, kl: Number
) -> Float[Array, ' B']:
    """KTO (Ethayarajh et al., 2024, equation 7), less its constant: TRL's.

    desirable, undesirable: the weights of good and of bad answers. kl: the estimate of
    KL(policy | reference), at least 0, that rewards are measured from.
    """
    above_B = beta * (answers.policy_B - answers.reference_B - kl)
    good_B, bad_B = sigmoid_of(-above_B), sigmoid_of(above_B)
    return jnp.where(answers.good_B > 0, desirable * good_B, undesirable * bad_B)


def _named(*losses: Loss) -> dict[str, Loss]:
    return {loss.__name__: loss for loss in losses}


LOSSES = _named(
    sigmoid, hinge, ipo_sum, ipo_norm, cdpo, robust, exo, nca, bco, sppo, apo_zero,
    apo_down, discopop, aot, orpo, simpo,
)  # fmt: skip
UNPAIRED = _named(kto)
WITHOUT_REFERENCE = ('orpo', 'simpo')  # whose rewards are beta x log p a token

# Statistics of a loss, at the start: arguments of it that are renewed by `RENEWED`.
RUNNING: dict[str, dict[str, float]] = {
    'bco': {'delta': 0.0, 'steps': 0.0},
    'kto': {'kl': 0.0},
}


def _mean_reward(running: Any, metrics: Any) -> Any:
    """The mean reward of all steps so far."""
    mean = (metrics['reward_chosen'] + metrics['reward_rejected']) / 2
    steps = running['steps'] + 1
    return {
        'delta': running['delta'] + (mean - running['delta']) / steps,
        'steps': steps,
    }


def _last_kl(running: Any, metrics: Any) -> Any:
    """The estimate of the step before.

    TRL has that of the same step, which has no gradient either. At the first step both
    are 0; from then on, the loss of an example does not depend on its batch.
    """
    return {'kl': jnp.maximum(metrics['kl'], 0)}


RENEWED: dict[str, Callable[[Any, Any], Any]] = {'bco': _mean_reward, 'kto': _last_kl}

_RANGES: dict[str, command.Range] = {
    **dict.fromkeys(('beta', 'tau'), command.ABOVE_0),
    **dict.fromkeys(('gamma', 'desirable', 'undesirable'), command.LEAST_0),
    'label_smoothing': ('at least 0 and below 0.5', lambda x: 0 <= x < 0.5),
}


def of(losses: Mapping[str, Loss], section: Any) -> tuple[str, Loss]:
    """(the name of a loss, the loss with its options), of the settings `section`.

    Raises UserError for an unknown loss, and for options that are not its own, are
    missing or are out of range.
    """
    if not isinstance(section, Mapping) or 'name' not in section:
        raise command.UserError(
            f'objective.loss is {section!r}; it needs a name and its options, such as '
            f"dict(name='{next(iter(losses))}', beta=0.1)."
        )
    options = dict(section)
    name = options.pop('name')
    loss = command.lookup(losses, name, 'loss')
    command.check_ranges('objective.loss', options, _RANGES)
    made, name_of, shape = (
        (Pairs, 'pairs', (1, 2)) if losses is LOSSES else (Answers, 'answers', (1,))
    )
    given: dict[str, Any] = {name_of: made(*[jnp.ones(shape)] * 3)}
    given |= {key: 0.0 for key in RUNNING.get(name, {}) if key != 'steps'}
    command.splat(loss, 'objective.loss', options, **given)  # all of them are right
    return name, functools.partial(loss, **options)
