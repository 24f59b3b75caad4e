"""Several tokens in one pass: drafts from the row's own text, checked by the model.

What follows the last place where a row said the same before is a guess at what follows
now (Yang et al., 2023; Saxena's prompt lookup, 2023). One pass of the decoder reads the
guess behind the row; each of its positions draws the token that it would have drawn
alone, by the key of its own position, and as many tokens are taken as the guess has
right, and one more. So greedy and sampled tokens are those without a guess, but for
ties within the rounding of a product of several rows; drafts only decide the speed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from gptjax.generate import loop
from gptjax.model import transformer

MATCH = 3  # tokens that are compared; the longest match counts, then the latest


def draft(
    tokens_BS: Int[Array, 'B S'], position_B: Int[Array, 'B'], k: int
) -> Int[Array, 'B k']:
    """k tokens that may follow the one at `position_B`; those behind it do not matter.

    A match that lies less than k tokens back is taken to go on in its period.
    """
    index_S = jnp.arange(tokens_BS.shape[1])
    same_BS = index_S < position_B[:, None]
    score_BS = jnp.where(same_BS, index_S, -1)
    for back in range(MATCH):
        at_B1 = jnp.maximum(position_B - back, 0)[:, None]
        same_BS &= jnp.roll(tokens_BS, back, 1) == jnp.take_along_axis(
            tokens_BS, at_B1, 1
        )
        same_BS &= index_S >= back
        score_BS += same_BS * len(index_S)
    found_B1 = jnp.argmax(score_BS, 1)[:, None]
    period_B1 = jnp.maximum(position_B[:, None] - found_B1, 1)
    return jnp.take_along_axis(
        tokens_BS, found_B1 + 1 + jnp.arange(k) % period_B1, 1, mode='clip'
    )


def complete(
    model: transformer.Model,
    k: int,
    begin: Callable[..., Any],
    allowed_V: Array,
    params: Any,
    prompts_BT: Int[Array, 'B T'],
    last_B: Int[Array, 'B'],
    position_B: Int[Array, 'B'],
    left_B: Int[Array, 'B'],
    settings: loop.Settings,
    *,
    rooms: Sequence[int],
    dtype: str,
) -> Int[Array, 'B C']:
    """`loop.complete` with drafts of k tokens, for which the cache has room besides."""
    first_B, cache = begin(
        params, prompts_BT, last_B, settings, S=rooms[0] + k, dtype=dtype
    )
    out_BC = jnp.full((len(first_B), rooms[-1]), -1, jnp.int32)
    state = loop.State(jnp.int32(0), 0 * first_B, position_B, left_B, out_BC, cache)
    state = loop.taken(state, first_B, settings)
    tokens_BS = jnp.zeros((len(first_B), rooms[-1] + 1), jnp.int32)
    if not model.arch.encoder_L:  # a prompt, and not the source of a translation
        tokens_BS = tokens_BS.at[:, : prompts_BT.shape[1]].set(prompts_BT)
    for S in rooms:
        state = state._replace(cache=loop.grow(state.cache, S + k))
        state, tokens_BS = _run(
            model, k, allowed_V, params, settings, state, tokens_BS, S
        )
    return state.out_BC


def decode(
    model: transformer.Model,
    k: int,
    allowed_V: Array,
    params: Any,
    tokens_BS: Int[Array, 'B S'],
    token_B: Int[Array, 'B'],
    position_B: Int[Array, 'B'],
    left_B: Int[Array, 'B'],
    settings: loop.Settings,
    *,
    cache: Any,
) -> tuple[Int[Array, 'B C'], Any]:
    """`loop.decode` with drafts of k tokens: up to loop.CHUNK (k + 1) tokens a row.

    tokens_BS: the rows up to `token_B`, each token at its position; the last column is
    behind what may come. The cache has room for S - 1 tokens, and k.
    """
    out_BC = jnp.full((len(token_B), loop.CHUNK * (k + 1)), -1, jnp.int32)
    state = loop.State(jnp.int32(0), token_B, position_B, left_B, out_BC, cache)
    S, steps = tokens_BS.shape[1] - 1, loop.CHUNK
    state, _ = _run(
        model, k, allowed_V, params, settings, state, tokens_BS, S, steps=steps
    )
    return state.out_BC, state.cache


def _run(
    model: transformer.Model,
    k: int,
    allowed_V: Array,
    params: Any,
    settings: loop.Settings,
    state: loop.State,
    tokens_BS: Array,
    S: int,
    steps: int | None = None,
) -> tuple[loop.State, Array]:
    """Until all rows are done, S slots of one full, or `steps` passes are over."""
    params = loop.chosen(params, settings)
    ahead_T = jnp.arange(k + 1)
    repeated = jax.tree.map(lambda x: jnp.repeat(x, k + 1, axis=0), settings)

    def unfinished(carry: tuple[loop.State, Array]) -> Array:
        state, _ = carry
        live_B = state.left_B > 0
        fits = jnp.all(~live_B | (state.position_B < S))
        more = jnp.bool_(True) if steps is None else state.step < steps
        return more & jnp.any(live_B) & fits

    def advance(carry: tuple[loop.State, Array]) -> tuple[loop.State, Array]:
        state, tokens_BS = carry
        row_B1 = jnp.arange(len(tokens_BS))[:, None]
        at_BT = state.position_B[:, None] + ahead_T
        tokens_BS = tokens_BS.at[row_B1, at_BT[:, :1]].set(state.token_B[:, None])
        draft_Bk = draft(tokens_BS, state.position_B, k)
        read_BT = jnp.concatenate([state.token_B[:, None], draft_Bk], 1)
        logits_BTV, cache = transformer.decode(
            model, params, read_BT, at_BT, state.cache
        )
        logits_NV = logits_BTV.reshape(-1, logits_BTV.shape[-1])
        next_N = loop.draw(logits_NV, allowed_V, at_BT.reshape(-1) + 1, repeated)
        next_BT = next_N.reshape(at_BT.shape).astype(jnp.int32)
        tokens_BS = tokens_BS.at[row_B1, at_BT + 1].set(next_BT, mode='drop')
        state = state._replace(cache=cache)
        return _taken(state, draft_Bk, next_BT, settings), tokens_BS

    return jax.lax.while_loop(unfinished, advance, (state, tokens_BS))


def _taken(
    state: loop.State, draft_Bk: Array, next_BT: Array, settings: loop.Settings
) -> loop.State:
    """The state with the tokens that plain decoding would have drawn too."""
    ahead_T = jnp.arange(next_BT.shape[1])
    right_Bk = jnp.cumprod(draft_Bk == next_BT[:, :-1], axis=1)
    stops_BT = jnp.any(next_BT[..., None] == settings.stops_BX[:, None], axis=-1)
    behind_BT = jnp.cumsum(stops_BT, 1) - stops_BT > 0  # a stop token
    taken_BT = ~behind_BT & (ahead_T <= jnp.sum(right_Bk, 1, keepdims=True))
    taken_BT &= ahead_T < state.left_B[:, None]
    count_B = jnp.sum(taken_BT, 1, dtype=jnp.int32)
    final_B1 = jnp.maximum(count_B - 1, 0)[:, None]
    final_B = jnp.take_along_axis(next_BT, final_B1, 1)[:, 0]
    column_BT = jnp.sum(state.out_BC >= 0, 1, keepdims=True) + ahead_T
    column_BT = jnp.where(taken_BT, column_BT, state.out_BC.shape[1])
    row_B1 = jnp.arange(len(count_B))[:, None]
    return loop.State(
        state.step + 1,
        jnp.where(count_B > 0, final_B, state.token_B),
        state.position_B + count_B,
        jnp.where(jnp.any(taken_BT & stops_BT, 1), 0, state.left_B - count_B),
        state.out_BC.at[row_B1, column_BT].set(next_BT, mode='drop'),
        state.cache,
    )
