"""From logits to the next token: a pure function, each row with settings of its own.

The distribution of a row, in this order:

1. temperature: p = softmax(logits / temperature); 0 puts all mass on the argmax, on the
   lowest id where several are highest;
2. top-k (Fan et al., 2018, section 5.2): the k most probable tokens stay; 0 is off;
3. top-p (Holtzman et al., 2020, section 3.1): of what stays, renormalised, the fewest
   most probable tokens whose mass reaches p stay, at least one; 1 is off;
4. renormalise what stays.

Ties: a token as probable as the last that stays, stays too. So the support is a
function of the probabilities alone; neither the order of a sort nor the ids decide.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32
import numpy as np


def seed_words(seed: int) -> UInt32[np.ndarray, '2']:
    """The 64 low bits of a seed, high word first: below 2^32, as `jax.random.key`."""
    seed %= 2**64
    return np.array([seed >> 32, seed % 2**32], np.uint32)


def keys(
    seed_words_B2: UInt32[Array, 'B 2'], positions_B: Int[Array, 'B']
) -> Key[Array, 'B']:
    """One key a row: fold_in(key(seed), position), whatever the batch around it is."""

    def key(words: Array, position: Array) -> Array:
        base = jax.random.wrap_key_data(words, impl='threefry2x32')
        return jax.random.fold_in(base, position)

    return jax.vmap(key)(seed_words_B2, positions_B)


def support(
    logits_BV: Float[Array, 'B V'],
    top_k_B: Int[Array, 'B'],
    top_p_B: Float[Array, 'B'],
) -> Bool[Array, 'B V']:
    """The tokens that top-k and top-p leave, of logits with the temperature applied."""
    V = logits_BV.shape[-1]
    k_B = jnp.where((top_k_B <= 0) | (top_k_B > V), V, top_k_B)
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    kth_B1 = jnp.take_along_axis(sorted_BV, k_B[:, None] - 1, axis=-1)
    probs_BV = jax.nn.softmax(
        jnp.where(sorted_BV >= kth_B1, sorted_BV, -jnp.inf), axis=-1
    )
    # A token stays while the mass above it is short of p; at 1, rounding has no say.
    above_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    in_p_BV = (above_BV < top_p_B[:, None]) | (top_p_B[:, None] >= 1)
    stays_BV = (sorted_BV >= kth_B1) & in_p_BV.at[:, 0].set(True)
    last_B1 = jnp.where(stays_BV, sorted_BV, jnp.inf).min(axis=-1, keepdims=True)
    return logits_BV >= last_B1


def sample(
    logits_BV: Float[Array, 'B V'],
    keys_B: Key[Array, 'B'],
    temperature_B: Float[Array, 'B'],
    top_k_B: Int[Array, 'B'],
    top_p_B: Float[Array, 'B'],
) -> Int[Array, 'B']:
    """The next token of each row; the formula is at the top of this file.

    `temperature_B` >= 0, `top_k_B` >= 0, `top_p_B` in [0, 1]. A logit of -inf is never
    sampled. What no row asks for is not computed: without top-k and top-p there is no
    sort, and where all rows are greedy there is no random number.
    """
    greedy_B = jnp.argmax(logits_BV, axis=-1)

    def draw() -> Array:
        kept_BV = _kept(logits_BV, temperature_B, top_k_B, top_p_B)
        drawn_B = jax.vmap(jax.random.categorical)(keys_B, kept_BV)
        return jnp.where(temperature_B == 0, greedy_B, drawn_B)

    return jax.lax.cond(jnp.any(temperature_B > 0), draw, lambda: greedy_B)


def log_probs(
    logits_BV: Float[Array, 'B V'],
    temperature_B: Float[Array, 'B'],
    top_k_B: Int[Array, 'B'],
    top_p_B: Float[Array, 'B'],
) -> Float[Array, 'B V']:
    """Log-probabilities, in nats, of the distribution that `sample` draws from.

    -inf where a token cannot be drawn. `temperature_B` > 0.
    """
    return jax.nn.log_softmax(_kept(logits_BV, temperature_B, top_k_B, top_p_B))


def _kept(
    logits_BV: Float[Array, 'B V'],
    temperature_B: Float[Array, 'B'],
    top_k_B: Int[Array, 'B'],
    top_p_B: Float[Array, 'B'],
) -> Float[Array, 'B V']:
    """Logits with the temperature applied, and -inf outside of the support."""
    # From the highest logit down, a tiny temperature cannot overflow.
    tiny = jnp.finfo(jnp.float32).tiny
    highest_B1 = logits_BV.max(axis=-1, keepdims=True)
    scaled_BV = (logits_BV - highest_B1) / jnp.maximum(temperature_B, tiny)[:, None]
    kept_BV = jax.lax.cond(
        jnp.any((top_k_B > 0) | (top_p_B < 1)),
        lambda: support(scaled_BV, top_k_B, top_p_B),
        lambda: jnp.ones_like(scaled_BV, bool),
    )
    return jnp.where(kept_BV, scaled_BV, -jnp.inf)
