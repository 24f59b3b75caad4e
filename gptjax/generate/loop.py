"""The compiled half of the engine: prefill, and the loop that decodes tokens.

`complete` is a whole completion in one program; `decode` is a chunk of one, after which
the host looks. Attention reads all slots of a cache, so caches are short at first and
grow as they fill up.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from gptjax import core
from gptjax.generate import sampling
from gptjax.model import gpt, lora, seq2seq, transformer

# Tokens between two looks of the host: the grain of streams and of cancelling.
CHUNK = 8


class Settings(NamedTuple):
    """The sampling settings of a batch, as arrays."""

    temperature_B: Float[Array, 'B']
    top_k_B: Int[Array, 'B']
    top_p_B: Float[Array, 'B']
    seed_words_B2: UInt32[Array, 'B 2']
    stops_BX: Int[Array, 'B X']  # padded with -1
    adapter_B: Int[Array, 'B'] | None = None  # of models with `lora.several`


class State(NamedTuple):
    """How far the rows of a batch are."""

    step: Int[Array, '']  # the column to write next
    token_B: Int[Array, 'B']  # to decode next
    position_B: Int[Array, 'B']  # of that token
    left_B: Int[Array, 'B']  # tokens that may come; 0 is done
    out_BC: Int[Array, 'B C']  # -1 where nothing has come
    cache: gpt.Cache | seq2seq.Cache


def chosen(params: core.Params, settings: Settings) -> core.Params:
    """The parameters where each row goes through its own adapter, if there are some."""
    if settings.adapter_B is None:
        return params
    return lora.choose(params, settings.adapter_B)


def draw(
    logits_BV: Float[Array, 'B V'],
    allowed_V: Bool[Array, 'V'],
    position_B: Int[Array, 'B'],
    settings: Settings,
) -> Int[Array, 'B']:
    """The token at `position_B` of each row."""
    return sampling.sample(
        jnp.where(allowed_V, logits_BV, -jnp.inf),
        sampling.keys(settings.seed_words_B2, position_B),
        settings.temperature_B,
        settings.top_k_B,
        settings.top_p_B,
    )


def prefill(
    model: gpt.GPT,
    allowed_V: Bool[Array, 'V'],
    params: core.Params,
    prompts_BT: Int[Array, 'B T'],
    last_B: Int[Array, 'B'],
    settings: Settings,
    *,
    S: int,
    dtype: str,
) -> tuple[Int[Array, 'B'], gpt.Cache]:
    """The token after each prompt, which ends at index `last_B`, and the cache.

    The cache has room for S tokens of each row, its prompt among them, of this type.
    """
    B, T = prompts_BT.shape
    params = chosen(params, settings)
    positions_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
    cache = gpt.init_cache(model.arch, B, S, dtype)
    logits_BV, cache = gpt.decode(
        model, params, prompts_BT, positions_BT, cache, last_B
    )
    return draw(logits_BV, allowed_V, last_B + 1, settings), cache


def read(
    model: seq2seq.Seq2Seq,
    start: int,
    allowed_V: Bool[Array, 'V'],
    params: core.Params,
    sources_BT: Int[Array, 'B T'],
    last_B: Int[Array, 'B'],
    settings: Settings,
    *,
    S: int,
    dtype: str,
) -> tuple[Int[Array, 'B'], seq2seq.Cache]:
    """The first token for each source, which ends at index `last_B`, and the cache.

    The encoder-decoder's counterpart of `prefill`: targets begin behind `start`, and
    the cache has room for S of their tokens.
    """
    params = chosen(params, settings)
    segments_BT = jnp.arange(sources_BT.shape[1]) <= last_B[:, None]
    segments_BT = segments_BT.astype(jnp.int32)
    cache = seq2seq.begin(model, params, sources_BT, segments_BT, S, dtype)
    first_B1 = jnp.full_like(last_B[:, None], start)
    zeros_B1 = jnp.zeros_like(first_B1)
    logits_BV, cache = seq2seq.decode(
        model, params, first_B1, zeros_B1, cache, zeros_B1[:, 0]
    )
    return draw(logits_BV, allowed_V, zeros_B1[:, 0] + 1, settings), cache


def grow(cache: gpt.Cache | seq2seq.Cache, S: int) -> gpt.Cache | seq2seq.Cache:
    """The cache with room for S tokens that are written, no fewer than it has."""
    if isinstance(cache, seq2seq.Cache):
        return cache._replace(target=gpt.grow(cache.target, S))
    return gpt.grow(cache, S)


def complete(
    model: transformer.Model,
    begin: Callable[..., Any],
    allowed_V: Bool[Array, 'V'],
    params: core.Params,
    prompts_BT: Int[Array, 'B T'],
    last_B: Int[Array, 'B'],
    position_B: Int[Array, 'B'],
    left_B: Int[Array, 'B'],
    settings: Settings,
    *,
    rooms: Sequence[int],
    dtype: str,
) -> Int[Array, 'B C']:
    """All tokens of each row, up to `left_B` or a stop token; -1 follows.

    begin: `prefill` or `read`, with what it takes before `params`. The token that is
    decoded last of what it reads is at `position_B`. rooms: sizes of the cache; the
    last has room for every row, and is the number of columns C.
    """
    first_B, cache = begin(
        params, prompts_BT, last_B, settings, S=rooms[0], dtype=dtype
    )
    out_BC = jnp.full((len(first_B), rooms[-1]), -1, jnp.int32)
    nothing = State(jnp.int32(0), 0 * first_B, position_B, left_B, out_BC, cache)
    state = taken(nothing, first_B, settings)
    for S in rooms:
        state = state._replace(cache=grow(state.cache, S))
        state = _run(model, allowed_V, params, settings, state, S)
    return state.out_BC


def decode(
    model: transformer.Model,
    allowed_V: Bool[Array, 'V'],
    params: core.Params,
    token_B: Int[Array, 'B'],
    position_B: Int[Array, 'B'],
    left_B: Int[Array, 'B'],
    settings: Settings,
    *,
    cache: gpt.Cache | seq2seq.Cache,
) -> tuple[Int[Array, 'B C'], gpt.Cache | seq2seq.Cache]:
    """The next CHUNK tokens of each row after `token_B` at `position_B`.

    A row is done after a stop token or `left_B` tokens; -1 follows. The cache has room
    for a chunk of each row that is not done.
    """
    out_BC = jnp.full((len(token_B), CHUNK), -1, jnp.int32)
    state = State(jnp.int32(0), token_B, position_B, left_B, out_BC, cache)
    state = _run(model, allowed_V, params, settings, state)
    return state.out_BC, state.cache


def _run(
    model: transformer.Model,
    allowed_V: Bool[Array, 'V'],
    params: core.Params,
    settings: Settings,
    state: State,
    S: int | None = None,
) -> State:
    """The state when all columns are full, all rows done, or S slots of one full.

    A done row decodes its last token again, which changes nothing that it needs.
    """
    params = chosen(params, settings)

    def unfinished(state: State) -> Array:
        live_B = state.left_B > 0
        fits_B = jnp.bool_(True) if S is None else ~live_B | (state.position_B < S)
        return (state.step < state.out_BC.shape[1]) & jnp.any(live_B) & jnp.all(fits_B)

    def advance(state: State) -> State:
        token_B1, position_B1 = state.token_B[:, None], state.position_B[:, None]
        logits_BV, cache = transformer.decode(
            model, params, token_B1, position_B1, state.cache, 0 * state.token_B
        )
        next_B = draw(logits_BV, allowed_V, state.position_B + 1, settings)
        return taken(state._replace(cache=cache), next_B, settings)

    return jax.lax.while_loop(unfinished, advance, state)


def taken(state: State, next_B: Int[Array, 'B'], settings: Settings) -> State:
    """The state with one token more in each row that is not done."""
    live_B = state.left_B > 0
    stops_B = jnp.any(next_B[:, None] == settings.stops_BX, axis=-1)
    return State(
        state.step + 1,
        jnp.where(live_B, next_B, state.token_B),
        state.position_B + live_B,
        jnp.where(live_B & ~stops_B, state.left_B - 1, 0),
        state.out_BC.at[:, state.step].set(jnp.where(live_B, next_B, -1)),
        state.cache,
    )
