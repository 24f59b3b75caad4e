"""Attention over rows that are split over the mesh axis `context`.

Each device has some queries of a row, and meets the keys of all: they go round in a
ring (Liu et al., 2023), or are gathered first. Of a row in the order of `pieces`, a
device meets two pairs of pieces in each round, and none that sees nothing.
"""

from collections.abc import Callable, Iterator
import functools
import itertools
from typing import Any, NamedTuple

import jax
from jax import ad_checkpoint, lax
import jax.numpy as jnp
from jaxtyping import Array

from gptjax.model import blocked, pieces

_BLOCK = 512  # queries whose scores with a piece of keys exist at once
_UNSEEN = jnp.finfo(jnp.float32).min


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def attend(x: blocked.Inputs, sight: blocked.Sight, whole: bool) -> Array:
    """y_BTNH of a device's queries, inside `shard_map`; segments are of whole rows.

    whole: each device has all keys at once, in two messages, and is sent the sums of
    its own's gradients. Else keys go from device to device, the next ones while those
    that are here are looked at; for backward once more, and their gradients with them.
    """
    return _forward(x, sight, whole)[0]


class _Queries(NamedTuple):
    """Of one device: two pieces of n blocks each, (2, n, ...)."""

    q: Array  # B K *G T H, see `blocked.heads_first`
    segments: Array  # B T
    place: Array  # T: in the row in its natural order


class _Keys(NamedTuple):
    """Of one device: two pieces, (2, ...)."""

    k: Array  # B K S H
    v: Array
    segments: Array  # B S
    place: Array  # S


def _forward(x: blocked.Inputs, sight: blocked.Sight, whole: bool) -> tuple[Array, Any]:
    queries, t = _queries(x, sight), x.q_BTNH.shape[1] // 2
    zeros, zero = jnp.zeros(queries.q.shape), jnp.zeros((*queries.q.shape[:-1], 1))
    sums = zeros, jnp.full_like(zero, _UNSEEN), zero
    for shift, keys in _visits(x, sight, whole):

        def meet(a: Any, b: Any, sums: Any, keys: _Keys = keys) -> Any:
            more: Any = functools.partial(_more, sight, _at(keys, b))
            return _put(sums, a, lax.map(more, (_at(queries, a), _at(sums, a))))

        sums = _each_pair(sight, shift, t, meet, sums)
    y, most, total = sums
    y_BTNH = blocked.heads_last(_joined(y / total, t)).astype(x.q_BTNH.dtype)
    names = functools.partial(ad_checkpoint.checkpoint_name, name=blocked.KEPT)
    y_BTNH, log = names(y_BTNH), names(most + jnp.log(total))
    return y_BTNH, (x, y_BTNH, log)


def _more(sight: blocked.Sight, keys: _Keys, rows: Any) -> Any:
    """What a block of queries has seen, with one more piece of keys, in float32.

    The sum of values, each times e^(score - most), the largest score, and the sum of
    e^(score - most).
    """
    queries, (y, old, total) = rows
    scores = _scores(sight, keys, queries)
    most = jnp.maximum(old, jnp.max(scores, -1, keepdims=True))
    weights, scale = jnp.exp(scores - most), jnp.exp(old - most)
    new = blocked.einsum('BK*TS,BKSH->BK*TH', weights.astype(keys.v.dtype), keys.v)
    total = total * scale + jnp.sum(weights, -1, keepdims=True)
    return y * scale + new, most, total


def _backward(
    sight: blocked.Sight, whole: bool, saved: Any, dy_BTNH: Array
) -> tuple[blocked.Inputs]:
    x, y_BTNH, log = saved
    queries, (_, T, K, _) = _queries(x, sight), x.k_BTKH.shape
    t = T // 2
    mean = jnp.sum(dy_BTNH.astype(jnp.float32) * y_BTNH, -1, keepdims=True)
    firsts = (blocked.heads_first(z, K) for z in (dy_BTNH, mean))
    dy, mean = (_blocks(z, queries.q.shape[1]) for z in firsts)
    rows, dq = (queries, dy, log, mean), jnp.zeros(queries.q.shape)
    found = []
    for shift, keys in _visits(x, sight, whole):

        def meet(a: Any, b: Any, sums: Any, keys: _Keys = keys) -> Any:
            dq, dkv = sums
            more: Any = functools.partial(_gradients, sight, _at(keys, b))
            new, dq_a = lax.scan(more, _at(dkv, b), _at(rows, a))
            return _put(dq, a, _at(dq, a) + dq_a), _put(dkv, b, new)

        sums = dq, (jnp.zeros(keys.k.shape),) * 2
        dq, dkv = _each_pair(sight, shift, t, meet, sums)
        found.append((shift, dkv))
    dk, dv = (jnp.swapaxes(_joined(d[:, None], t), 1, 2) for d in _home(found, whole))
    dq = blocked.heads_last(_joined(dq, t))
    dq, dk, dv = (d.astype(y_BTNH.dtype) for d in (dq, dk, dv))
    return (blocked.Inputs(dq, dk, dv, None),)  # type: ignore[arg-type]


attend.defvjp(_forward, _backward)


def _gradients(
    sight: blocked.Sight, keys: _Keys, sums: tuple[Array, Array], rows: Any
) -> tuple[tuple[Array, Array], Array]:
    """Those of a piece of keys and of its values with a block of queries more."""
    (dk, dv), (queries, dy, log, mean) = sums, rows
    weights = jnp.exp(_scores(sight, keys, queries) - log)
    dweights = blocked.einsum('BK*TH,BKSH->BK*TS', dy, keys.v)
    dscores = weights * (dweights - mean) * keys.k.shape[-1] ** -0.5
    dscores, weights = (w.astype(dy.dtype) for w in (dscores, weights))
    spec = 'BK*TS,BK*TH->BKSH'
    dk += blocked.einsum(spec, dscores, queries.q)
    dv += blocked.einsum(spec, weights, dy)
    return (dk, dv), blocked.einsum('BK*TS,BKSH->BK*TH', dscores, keys.k)


def _scores(sight: blocked.Sight, keys: _Keys, queries: _Queries) -> Array:
    """Scaled, in float32; the lowest number for what is unseen."""
    # Else what is seen, which no layer changes, is there at once for all blocks and
    # heads, from before the first layer on: 2 GiB a pair at 16,384 tokens of 8 heads.
    queries = lax.optimization_barrier(queries)
    scores = blocked.einsum('BK*TH,BKSH->BK*TS', queries.q, keys.k)
    seen = queries.segments[:, :, None] == keys.segments[:, None]
    seen &= sight.seen(queries.place[:, None] - keys.place)
    seen = jnp.expand_dims(seen, range(1, scores.ndim - 2))
    return jnp.where(seen, scores * keys.k.shape[-1] ** -0.5, _UNSEEN)


def _each_pair(
    sight: blocked.Sight, shift: int, t: int, meet: Callable[..., Any], sums: Any
) -> Any:
    """`meet(a, b, sums)` for each pair of pieces here of which a sees something of b.

    In a causal row, the later piece sees the earlier one of every device; and of keys
    from before it the earlier sees the earlier, from behind the later the later.
    """
    C, here = lax.axis_size(pieces.AXIS), lax.axis_index(pieces.AXIS)
    devices = here, (here - shift) % C
    mine, theirs = (jnp.stack(pieces.on_device(sight.causal, i, C)) for i in devices)
    pairs: list[Any] = list(itertools.product((0, 1), (0, 1)))
    if sight.causal:
        same = jnp.where(shift <= here, 0, 1)
        pairs = [(1, 0), (same, same)] if shift else [(0, 0), (1, 0), (1, 1)]
    for a, b in pairs:
        run = functools.partial(meet, a, b)
        if sight.window:
            sees = pieces.sees(sight, t, mine[a], theirs[b])
            sums = lax.cond(sees, run, lambda sums: sums, sums)
        else:
            sums = run(sums)
    return sums


def _queries(x: blocked.Inputs, sight: blocked.Sight) -> _Queries:
    n = -(-x.q_BTNH.shape[1] // (2 * _BLOCK))
    q = _blocks(blocked.heads_first(x.q_BTNH, x.k_BTKH.shape[2]), n)
    where = _where(x, sight, lax.axis_index(pieces.AXIS))
    segments, place = (_padded(z, n).reshape(*z.shape[:-1], n, -1) for z in where)
    return _Queries(q, jnp.moveaxis(segments, 2, 1), place)


def _where(x: blocked.Inputs, sight: blocked.Sight, device: Array) -> Any:
    """The segments (2, B, t) and the places (2, t) of the tokens of a device."""
    (B, T), C = x.segments_BT.shape, lax.axis_size(pieces.AXIS)
    segments = jnp.moveaxis(x.segments_BT.reshape(B, C, 2, -1), (1, 2), (0, 1))
    first = jnp.stack(pieces.on_device(sight.causal, device, C)) * (T // (2 * C))
    return _at(segments, device), first[:, None] + jnp.arange(T // (2 * C))


def _visits(
    x: blocked.Inputs, sight: blocked.Sight, whole: bool
) -> Iterator[tuple[int, _Keys]]:
    """How far back in the ring keys are from, and they."""
    C, here = lax.axis_size(pieces.AXIS), lax.axis_index(pieces.AXIS)
    kv = [_blocks(jnp.swapaxes(y, 1, 2), 1)[:, 0] for y in (x.k_BTKH, x.v_BTKH)]
    shifts = pieces.shifts(sight, x.k_BTKH.shape[1] // 2, C)
    everything = lax.all_gather(kv, pieces.AXIS) if whole else None
    for shift, after in itertools.zip_longest(shifts, shifts[1:]):
        device = (here - shift) % C
        ahead = kv if whole or after is None else _sent(kv, after - shift)
        if whole:
            kv = _at(everything, device)
        yield shift, _Keys(*kv, *_where(x, sight, device))
        kv = ahead


def _home(found: list[tuple[int, Any]], whole: bool) -> Any:
    """The sums (2, B, K, S, H) of what devices have found for each other's keys."""
    C, here = lax.axis_size(pieces.AXIS), lax.axis_index(pieces.AXIS)
    before, sums = found[0]
    if whole:
        everything = jax.tree.map(lambda d: jnp.zeros((C, *d.shape)), sums)
        for shift, new in found:
            everything = _put(everything, (here - shift) % C, new)
        return lax.psum_scatter(everything, pieces.AXIS)
    for shift, new in found[1:]:
        sums = jax.tree.map(jnp.add, _sent(sums, shift - before), new)
        before = shift
    return _sent(sums, C - before) if before else sums


def _sent(tree: Any, steps: int) -> Any:
    """What lay so many devices before."""
    C = lax.axis_size(pieces.AXIS)
    return lax.ppermute(tree, pieces.AXIS, [(i, (i + steps) % C) for i in range(C)])


def _at(tree: Any, i: Any) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, 0, False), tree)


def _put(tree: Any, i: Any, part: Any) -> Any:
    put = lax.dynamic_update_index_in_dim
    return jax.tree.map(lambda x, new: put(x, new, i, 0), tree, part)


def _blocks(x: Array, n: int) -> Array:
    """The two pieces of (..., T, H) in n blocks each, in front: (2, n, ..., t, H).

    The last block may end in zeros: blocks that divide a piece can be of one query,
    with which rows of 2,084 tokens took 3.2 times as long on 2 devices (CPU).
    """
    x = x.reshape(*x.shape[:-2], 2, -1, x.shape[-1])
    x = _padded(x, n, -2).reshape(*x.shape[:-2], n, -1, x.shape[-1])
    return jnp.moveaxis(x, (-4, -3), (0, 1))


def _padded(x: Array, n: int, axis: int = -1) -> Array:
    """With zeros behind an axis, so that n divides it."""
    more = [(0, 0)] * x.ndim
    more[axis] = 0, -x.shape[axis] % n
    return jnp.pad(x, more)


def _joined(x: Array, t: int) -> Array:
    """The inverse of `_blocks`, of pieces of t tokens."""
    x = jnp.moveaxis(x, (0, 1), (-4, -3))
    x = x.reshape(*x.shape[:-3], -1, x.shape[-1])[..., :t, :]
    return x.reshape(*x.shape[:-3], 2 * t, x.shape[-1])
