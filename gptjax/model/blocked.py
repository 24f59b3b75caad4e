"""Attention over blocks of queries, each with the keys that it can see, in plain XLA.

What a block cannot see is not computed: of causal attention nearly half. Backward has
the scores computed again, so that none of them outlives its block.
"""

from collections.abc import Iterator
import functools
from typing import Any, NamedTuple

import jax
from jax import ad_checkpoint
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

KEPT = 'attention'  # what compute.remat='minimal' keeps of it


class Inputs(NamedTuple):
    """What attention reads; equal numbers of `segments_BT` are one document."""

    q_BTNH: Float[Array, 'B T N H']
    k_BTKH: Float[Array, 'B T K H']  # each serves N / K query heads
    v_BTKH: Float[Array, 'B T K H']
    segments_BT: Int[Array, 'B T']  # 0 is padding


class Sight(NamedTuple):
    """Who sees whom in a document."""

    causal: bool  # only what is not after it
    window: int  # so many tokens, itself included; 0 is all

    def seen(self, distance_TS: Int[Array, 'T S']) -> Bool[Array, 'T S']:
        """Whether a query sees a key so many tokens before it."""
        seen = distance_TS >= 0 if self.causal else jnp.ones(distance_TS.shape, bool)
        return seen & (jnp.abs(distance_TS) < self.window) if self.window else seen

    def spans(self, T: int) -> Iterator[tuple[slice, slice]]:
        """The queries of each block, and the keys that any of them sees.

        More blocks save more work and are slower to compile.
        """
        parts = 4 if T <= 512 else 16 if self.window else 8
        length, reach = max(32, -(-T // parts)), (self.window or T) - 1
        for start in range(0, T, length):
            stop = min(start + length, T)
            last = stop if self.causal else min(stop + reach, T)
            # Slices that begin at a multiple of 8 keep vectors whole.
            yield slice(start, stop), slice(max(0, start - reach) // 8 * 8, last)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def attend(x: Inputs, sight: Sight) -> Array:
    """softmax(q k / sqrt(H)) v within documents, y_BTNH, as `kernels.reference`."""
    return _forward(x, sight)[0]


def _forward(x: Inputs, sight: Sight) -> tuple[Array, Any]:
    k, v = jnp.swapaxes(x.k_BTKH, 1, 2), jnp.swapaxes(x.v_BTKH, 1, 2)
    q, outputs, logs = heads_first(x.q_BTNH, k.shape[1]), [], []
    for queries, keys in sight.spans(q.shape[-2]):
        scores = _scores(q, k, x.segments_BT, queries, keys, sight)
        most = jnp.max(scores, -1, keepdims=True)
        weights = jnp.exp(scores - most)
        total = jnp.sum(weights, -1, keepdims=True)
        y = einsum('BK*TS,BKSH->BK*TH', weights.astype(q.dtype), v[:, :, keys])
        outputs.append((y / total).astype(q.dtype))
        log = most + jnp.log(total)
        logs.append(ad_checkpoint.checkpoint_name(log, KEPT))
    return heads_last(jnp.concatenate(outputs, -2)), (q, k, v, x.segments_BT, logs)


def _backward(sight: Sight, saved: Any, dy_BTNH: Array) -> tuple[Inputs]:
    q, k, v, segments_BT, logs = saved
    dy, scale = heads_first(dy_BTNH, k.shape[1]), q.shape[-1] ** -0.5
    dk, dv = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    blocks = []
    for (queries, keys), log in zip(sight.spans(q.shape[-2]), logs, strict=True):
        scores = _scores(q, k, segments_BT, queries, keys, sight)
        weights, dy_block = jnp.exp(scores - log), dy[..., queries, :]
        dweights = einsum('BK*TH,BKSH->BK*TS', dy_block, v[:, :, keys])
        mean = jnp.sum(weights * dweights, -1, keepdims=True)
        dscores = (weights * (dweights - mean) * scale).astype(q.dtype)
        blocks.append(einsum('BK*TS,BKSH->BK*TH', dscores, k[:, :, keys]))
        spec, weights = 'BK*TS,BK*TH->BKSH', weights.astype(q.dtype)
        dk = dk.at[:, :, keys].add(einsum(spec, dscores, q[..., queries, :]))
        dv = dv.at[:, :, keys].add(einsum(spec, weights, dy_block))
    dq = heads_last(jnp.concatenate(blocks, -2)).astype(q.dtype)
    dk, dv = (jnp.swapaxes(d, 1, 2).astype(q.dtype) for d in (dk, dv))
    return (Inputs(dq, dk, dv, None),)  # type: ignore[arg-type]


attend.defvjp(_forward, _backward)


def _scores(
    q: Array, k: Array, segments_BT: Array, queries: slice, keys: slice, sight: Sight
) -> Array:
    """Those of a block, scaled, in float32; the lowest number for what is unseen."""
    scores = einsum('BK*TH,BKSH->BK*TS', q[..., queries, :], k[:, :, keys])
    index_T = jnp.arange(segments_BT.shape[1])
    seen = segments_BT[:, queries, None] == segments_BT[:, None, keys]
    seen &= sight.seen(index_T[queries, None] - index_T[keys])
    seen = jnp.expand_dims(seen, range(1, scores.ndim - 2))
    return jnp.where(seen, scores * q.shape[-1] ** -0.5, jnp.finfo(jnp.float32).min)


def heads_first(x_BTNH: Array, K: int) -> Array:
    """BKTH, or with several queries a key head BKGTH: on CPU, axes of 1 are slow."""
    B, T, N, H = x_BTNH.shape
    x_BNTH = jnp.swapaxes(x_BTNH, 1, 2)
    return x_BNTH if N == K else x_BNTH.reshape(B, K, N // K, T, H)


def heads_last(x: Array) -> Array:
    return jnp.swapaxes(x.reshape(x.shape[0], -1, *x.shape[-2:]), 1, 2)


def einsum(spec: str, left: Array, right: Array) -> Array:
    """With float32 sums; `*` stands for the axis G where there is one."""
    spec = spec.replace('*', 'G' if left.ndim == 5 else '')
    return jnp.einsum(spec, left, right, preferred_element_type=jnp.float32)
