"""From the rewards of a rollout to advantages; how far a policy is from another."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Beyond this many nats between two log-probabilities an exponential is cut: e^20.
MOST_NATS = 20.0
SCALES = ('group', 'batch', 'none')

# Of d = log p - log q at a sample of p, whose mean is KL(p || q) (Schulman, 2020,
# "Approximating KL divergence"): k1 has no bias, k3 none and less variance, both are
# never negative but k1.
KL: dict[str, Callable[[Array], Array]] = {
    'k1': lambda d: d,
    'k2': lambda d: d * d / 2,
    'k3': lambda d: jnp.expm1(-jnp.clip(d, -MOST_NATS, MOST_NATS)) + d,
}


def kl(
    log_p_BT: Float[Array, 'B T'],
    reference_log_p_BT: Float[Array, 'B T'],
    weights_BT: Float[Array, 'B T'],
    estimator: str,
) -> Float[Array, 'B T']:
    """The estimate of each token, in nats; 0 where a token has no weight."""
    return jnp.where(weights_BT > 0, KL[estimator](log_p_BT - reference_log_p_BT), 0.0)


def gae(
    rewards_BT: Float[Array, 'B T'],
    values_BT: Float[Array, 'B T'],
    weights_BT: Float[Array, 'B T'],
    gamma: float,
    lam: float,
) -> Float[Array, 'B T']:
    """Generalised advantage estimation (Schulman et al., 2016, equation 16).

    A_t = delta_t + gamma lam A_t+1, with delta_t = r_t + gamma V_t+1 - V_t; after the
    last token both are 0. values: of the state before each token. Tokens without
    weight are stepped over, and theirs is 0.
    """

    def back(
        carry: tuple[Array, Array], at: tuple
    ) -> tuple[tuple[Array, Array], Array]:
        reward_B, value_B, counts_B = at
        next_value_B, next_advantage_B = carry
        delta_B = reward_B + gamma * next_value_B - value_B
        advantage_B = delta_B + gamma * lam * next_advantage_B
        carry = (
            jnp.where(counts_B, value_B, next_value_B),
            jnp.where(counts_B, advantage_B, next_advantage_B),
        )
        return carry, jnp.where(counts_B, advantage_B, 0.0)

    end_B = jnp.zeros_like(rewards_BT[:, 0])
    columns = (rewards_BT.T, values_BT.T, weights_BT.T > 0)
    return jax.lax.scan(back, (end_B, end_B), columns, reverse=True)[1].T


def whiten(
    x_BT: Float[Array, 'B T'],
    weights_BT: Float[Array, 'B T'],
    shift_mean: bool,
    unbiased: bool = True,
) -> Float[Array, 'B T']:
    """x at a variance of 1 over the tokens with weight, and a mean of 0 or its own.

    unbiased: the variance has n - 1 below; TensorFlow's moments, which the first of
    these trainers used, have n. Tokens without weight become 0.
    """
    counts_BT = weights_BT > 0
    n = jnp.sum(counts_BT)
    mean = jnp.sum(x_BT, where=counts_BT) / jnp.maximum(n, 1)
    squares = jnp.sum(jnp.square(x_BT - mean), where=counts_BT)
    variance = squares / jnp.maximum(n - unbiased, 1)
    white_BT = (x_BT - mean) * jax.lax.rsqrt(variance + 1e-8)
    return jnp.where(counts_BT, white_BT + (0 if shift_mean else mean), 0.0)


def of_groups(
    rewards_M: Float[Array, 'M'],
    group: int,
    leave_one_out: bool,
    scale: str,
    eps: float = 1e-4,
) -> tuple[Float[Array, 'M'], Float[Array, 'P']]:
    """(advantages, standard deviations of groups) where neighbours are one group.

    The baseline is the mean of the group (Shao et al., 2024, section 4.1.2), or that of
    the others in it (Ahmadian et al., 2024). scale, of SCALES: what
    divides, the standard deviation in a group (n - 1 below) or of the whole batch, plus
    eps. A reward that is no number has advantage 0 and is in no mean.
    Equal rewards in a group have advantages of exactly 0.
    """
    rewards_PG = rewards_M.reshape(-1, group)
    fine_PG = jnp.isfinite(rewards_PG)
    n_P1 = jnp.sum(fine_PG, axis=1, keepdims=True)
    # As differences from the highest, equal rewards are 0 before anything rounds.
    high_P1 = jnp.max(
        rewards_PG, axis=1, keepdims=True, where=fine_PG, initial=-jnp.inf
    )
    below_PG = jnp.where(fine_PG, rewards_PG - high_P1, 0.0)
    mean_P1 = jnp.sum(below_PG, axis=1, keepdims=True) / jnp.maximum(n_P1, 1)
    centred_PG = jnp.where(fine_PG, below_PG - mean_P1, 0.0)
    std_P1 = _std(centred_PG, n_P1, axis=1)
    advantages_PG = centred_PG
    if leave_one_out:
        advantages_PG = centred_PG * n_P1 / jnp.maximum(n_P1 - 1, 1)
    if scale == 'group':
        advantages_PG = advantages_PG / (std_P1 + eps)
    elif scale == 'batch':
        n = jnp.sum(n_P1)
        mean = jnp.sum(rewards_PG, where=fine_PG) / jnp.maximum(n, 1)
        off_PG = jnp.where(fine_PG, rewards_PG - mean, 0.0)
        advantages_PG = advantages_PG / (_std(off_PG, n, axis=None) + eps)
    return advantages_PG.reshape(-1), std_P1[:, 0]


def _std(centred: Array, n: Array, axis: int | None) -> Array:
    squares = jnp.sum(jnp.square(centred), axis=axis, keepdims=axis is not None)
    return jnp.sqrt(squares / jnp.maximum(n - 1, 1))
