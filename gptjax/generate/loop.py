"""The compiled half of the engine: prefill, and the loop that decodes a chunk."""

from typing import NamedTuple

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


def _chosen(params: core.Params, settings: Settings) -> core.Params:
    """The parameters where each row goes through its own adapter, if there are some."""
    if settings.adapter_B is None:
        return params
    return lora.choose(params, settings.adapter_B)


def _next(
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
) -> tuple[Int[Array, 'B'], gpt.Cache]:
    """The token after each prompt, which ends at index `last_B`, and the cache.

    The cache has room for S tokens of each row, its prompt among them.
    """
    B, T = prompts_BT.shape
    params = _chosen(params, settings)
    positions_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
    cache = gpt.init_cache(model.arch, B, S, model.compute.dtype)
    logits_BV, cache = gpt.decode(
        model, params, prompts_BT, positions_BT, cache, last_B
    )
    return _next(logits_BV, allowed_V, last_B + 1, settings), cache


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
) -> tuple[Int[Array, 'B'], seq2seq.Cache]:
    """The first token for each source, which ends at index `last_B`, and the cache.

    The encoder-decoder's counterpart of `prefill`: targets begin behind `start`, and
    the cache has room for S of their tokens.
    """
    params = _chosen(params, settings)
    segments_BT = jnp.arange(sources_BT.shape[1]) <= last_B[:, None]
    segments_BT = segments_BT.astype(jnp.int32)
    cache = seq2seq.begin(model, params, sources_BT, segments_BT, S)
    first_B1 = jnp.full_like(last_B[:, None], start)
    zeros_B1 = jnp.zeros_like(first_B1)
    logits_BV, cache = seq2seq.decode(
        model, params, first_B1, zeros_B1, cache, zeros_B1[:, 0]
    )
    return _next(logits_BV, allowed_V, zeros_B1[:, 0] + 1, settings), cache


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

    A row is done after a stop token or `left_B` tokens; -1 follows. A done row decodes
    its last token again, which changes nothing.
    """

    params = _chosen(params, settings)

    def unfinished(state: tuple) -> Array:
        step, _, _, left_B, _, _ = state
        return (step < CHUNK) & jnp.any(left_B > 0)

    def advance(state: tuple) -> tuple:
        step, token_B, position_B, left_B, out_BC, cache = state
        logits_BV, cache = transformer.decode(
            model, params, token_B[:, None], position_B[:, None], cache, 0 * token_B
        )
        live_B = left_B > 0
        next_B = _next(logits_BV, allowed_V, position_B + 1, settings)
        out_BC = out_BC.at[:, step].set(jnp.where(live_B, next_B, -1))
        stops_B = jnp.any(next_B[:, None] == settings.stops_BX, axis=-1)
        return (
            step + 1,
            jnp.where(live_B, next_B, token_B),
            position_B + live_B,
            jnp.where(live_B & ~stops_B, left_B - 1, 0),
            out_BC,
            cache,
        )

    out_BC = jnp.full((token_B.shape[0], CHUNK), -1, jnp.int32)
    state = (jnp.int32(0), token_B, position_B, left_B, out_BC, cache)
    *_, out_BC, cache = jax.lax.while_loop(unfinished, advance, state)
    return out_BC, cache
