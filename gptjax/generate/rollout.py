"""Rollouts: completions of many prompts by one compiled program, from the weights of
training as they lie.

Prefill and the whole decode loop are one program, which ends when all rows are done.
The parameters are those of the train step, stacked, sharded and perhaps adapted: they
are cut into layers inside, and nothing of that outlives the call. A token's key is
fold_in(key of its row, position), and the key of a row folds the number of its prompt
and its index in the group into the seed: neither the batch nor the mesh changes what
is drawn.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32
import numpy as np

from gptjax import core
from gptjax.generate import sampling
from gptjax.model import gpt, transformer


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How completions are drawn; all rows alike."""

    max_tokens: int  # of a completion, its stop token included
    temperature: float  # above 0
    top_k: int  # 0 is off
    top_p: float  # 1 is off
    may_say_V: Bool[np.ndarray, 'V']  # see `engine.may_say`
    ends: Sequence[int]  # tokens that end a completion

    def log_probs(self, logits_BV: Float[Array, 'B V']) -> Float[Array, 'B V']:
        """Log-probabilities, in nats, of what is drawn; -inf for what cannot be."""
        B = len(logits_BV)
        return sampling.log_probs(
            jnp.where(self.may_say_V, logits_BV, -jnp.inf),
            jnp.full(B, self.temperature),
            jnp.full(B, self.top_k),
            jnp.full(B, self.top_p),
        )


class Prompts(NamedTuple):
    """Prompts as arrays, with what their keys are made of."""

    tokens_BP: Int[Array, 'B P']  # padded on the right
    length_B: Int[Array, 'B']  # at least 1
    number_B: UInt32[Array, 'B']  # in the stream of prompts, modulo 2^32
    index_B: Int[Array, 'B']  # in the group of completions of one prompt


class Completions(NamedTuple):
    """What was drawn; behind `length_M` tokens all is 0."""

    tokens_MC: Int[Array, 'M C']
    length_M: Int[Array, 'M']
    ended_M: Bool[Array, 'M']  # whether by a token that ends, not by the limit
    log_p_MC: Float[Array, 'M C']  # of each token where it was drawn, in nats


def generate(
    model: gpt.GPT,
    sampler: Sampler,
    params: core.Params,
    prompts: Prompts,
    seed_words_2: UInt32[Array, '2'],
    *,
    repeat: int = 1,
) -> tuple[Completions, core.Batch]:
    """`repeat` completions of each prompt, M = B repeat rows, and they as a batch.

    Completions of one prompt are neighbours; their indices count on from `index_B`.
    """
    layers = transformer.unstack(model, params)
    B, P = prompts.tokens_BP.shape
    positions_BP = jnp.broadcast_to(jnp.arange(P), (B, P))
    S = P + sampler.max_tokens
    cache = gpt.init_cache(model.arch, B, S, model.compute.dtype)
    logits_BV, cache = gpt.decode(
        model, layers, prompts.tokens_BP, positions_BP, cache, prompts.length_B - 1
    )
    index_M = (prompts.index_B[:, None] + jnp.arange(repeat)).reshape(-1)
    rows, logits_MV, cache = jax.tree.map(
        lambda x: jnp.repeat(x, repeat, axis=0), (prompts, logits_BV, cache)
    )
    rows = rows._replace(index_B=index_M)
    made = _decode(model, sampler, layers, rows, logits_MV, cache, seed_words_2)
    return made, _batch(rows, made)


def _decode(
    model: gpt.GPT,
    sampler: Sampler,
    layers: core.Params,
    rows: Prompts,
    logits_MV: Float[Array, 'M V'],
    cache: gpt.Cache,
    seed_words_2: UInt32[Array, '2'],
) -> Completions:
    """The completions of prompts that lie in the cache, and end in `logits_MV`."""
    M, C = len(logits_MV), sampler.max_tokens
    words_M2 = _row_keys(seed_words_2, rows.number_B, rows.index_B)
    ends_X = jnp.array(tuple(sampler.ends), jnp.int32)

    def draw(step: Array, logits_MV: Array, made: Completions, live_M: Array) -> tuple:
        """Token `step` of each row that is not done."""
        log_p_MV = sampler.log_probs(logits_MV)
        keys_M = sampling.keys(words_M2, rows.length_B + step)
        token_M = jax.vmap(jax.random.categorical)(keys_M, log_p_MV)
        log_p_M = jnp.take_along_axis(log_p_MV, token_M[:, None], axis=1)[:, 0]
        ended_M = live_M & jnp.any(token_M[:, None] == ends_X, axis=1)
        made = Completions(
            made.tokens_MC.at[:, step].set(jnp.where(live_M, token_M, 0)),
            made.length_M + live_M,
            made.ended_M | ended_M,
            made.log_p_MC.at[:, step].set(jnp.where(live_M, log_p_M, 0)),
        )
        return token_M, made, live_M & ~ended_M

    def unfinished(state: tuple) -> Array:
        step, _, _, live_M, _ = state
        return (step < C) & jnp.any(live_M)

    def advance(state: tuple) -> tuple:
        step, token_M, made, live_M, cache = state
        position_M = rows.length_B + step - 1
        logits_M1V, cache = gpt.decode(
            model, layers, token_M[:, None], position_M[:, None], cache
        )
        return step + 1, *draw(step, logits_M1V[:, 0], made, live_M), cache

    nothing = Completions(
        jnp.zeros((M, C), jnp.int32),
        jnp.zeros(M, jnp.int32),
        jnp.zeros(M, bool),
        jnp.zeros((M, C)),
    )
    first = draw(jnp.int32(0), logits_MV, nothing, jnp.ones(M, bool))
    state = jax.lax.while_loop(unfinished, advance, (jnp.int32(1), *first, cache))
    made: Completions = state[2]
    return made


def _row_keys(
    seed_words_2: UInt32[Array, '2'],
    number_M: UInt32[Array, 'M'],
    index_M: Int[Array, 'M'],
) -> UInt32[Array, 'M 2']:
    """The words of each row's key, as `sampling.keys` takes them."""
    seed = jax.random.wrap_key_data(seed_words_2, impl='threefry2x32')

    def words(number: Array, index: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(seed, number), index)
        return jax.random.key_data(key)

    return jax.vmap(words)(number_M, index_M)


def _batch(rows: Prompts, made: Completions) -> core.Batch:
    """The sequences as rows of T = P + C - 1 tokens, with weight on completions.

    tokens, targets, segments, positions (int32), weights and sampler_log_p (float32),
    aligned with the targets; and `ended` (M,).
    """
    P, C = rows.tokens_BP.shape[1], made.tokens_MC.shape[1]
    place_W = jnp.arange(P + C)
    since_MW = place_W - rows.length_B[:, None]  # the place in the completion

    def laid(prompt_MP: Array, completion_MC: Array) -> Array:
        before = jnp.pad(prompt_MP, ((0, 0), (0, C)))
        behind = jnp.take_along_axis(
            completion_MC, jnp.clip(since_MW, 0, C - 1), axis=1
        )
        return jnp.where(since_MW < 0, before, jnp.where(said_MW, behind, 0))

    said_MW = (since_MW >= 0) & (since_MW < made.length_M[:, None])
    whole_MW = laid(rows.tokens_BP, made.tokens_MC)
    log_p_MW = laid(jnp.zeros_like(rows.tokens_BP, jnp.float32), made.log_p_MC)
    real_MT = (since_MW < made.length_M[:, None])[:, 1:]  # the target is there
    return {
        'tokens': jnp.where(real_MT, whole_MW[:, :-1], 0),
        'targets': whole_MW[:, 1:],
        'segments': real_MT.astype(jnp.int32),
        'positions': jnp.where(real_MT, place_W[:-1], 0),
        'weights': said_MW[:, 1:].astype(jnp.float32),
        'sampler_log_p': log_p_MW[:, 1:],
        'ended': made.ended_M.astype(jnp.float32),
    }
