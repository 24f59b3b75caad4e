"""Low-rank adaptation (Hu et al., 2022): functions on trees of parameters.

A tree of adapters holds {'down', 'up'} at the path of each weight that is adapted, with
L in front in a stack, and may hold whole weights that are trained besides. `join` lays
it over the weights of its base, which is all that a model needs.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math
from typing import Any
import zlib

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax import command, core, trees
from gptjax.model import leaves

# How many of a weight's first axes its product sums over; -1: the last axis.
_SUMMED = {
    'query': 1, 'key': 1, 'value': 1, 'out': 2, 'up': 1, 'gate': 1, 'down': 1,
    'transform': 1, 'pooler': 1, 'classes': 1, 'reward': 1, 'unembed': -1,
    'query_key_value': 1, 'up_gate': 1,
}  # fmt: skip


def adaptable(path: str) -> bool:
    """Whether `layers.einsum` multiplies by the weight: not so a bias, or experts."""
    *above, name = path.split('/')
    return name in _SUMMED and 'experts' not in above


def stacked(path: str) -> int:
    """1 where the weight is of a stack of layers, with L in front, else 0."""
    return int('blocks' in path.split('/'))


def summed(path: str) -> int:
    """How many first axes a product with the weight sums over; -1: the last; or 0."""
    return _SUMMED[path.rsplit('/', 1)[-1]] if adaptable(path) else 0


def sides(path: str, dims: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The axes of a weight, L aside, that its product sums over, and the others."""
    count = _SUMMED[path.rsplit('/', 1)[-1]]
    first, rest = tuple(dims[:count]), tuple(dims[count:])
    return (first, rest) if count > 0 else (rest, first)


def init(boxed: core.Params, targets: Iterable[str], R: int, key: Array) -> core.Params:
    """Adapters of rank R that change nothing yet, boxed with their logical axes.

    boxed: shapes of the base with theirs. targets: paths of weights. `up` is 0, `down`
    uniform in +-1/sqrt(inputs), as PEFT begins it: Kaiming-uniform with a = sqrt(5)
    (He et al., 2015, equation 14). Raises UserError for what cannot be adapted.
    """
    weights = dict(trees.paths(boxed, is_leaf=is_boxed))
    adapters = {}
    for path in targets:
        if path not in weights or not adaptable(path):
            raise command.UserError(
                f'{path} cannot be adapted: it is no weight of a product (embeddings, '
                'experts, biases and norms are none); train it whole, by adapter.train.'
            )
        box, lead = weights[path], stacked(path)
        stack, axes = box.value.shape[:lead], box.names[:lead]
        inner, outer = sides(path, box.value.shape[lead:])
        inner_axes, outer_axes = sides(path, box.names[lead:])
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        bound = math.prod(inner) ** -0.5
        down = jax.random.uniform(own, (*stack, *inner, R), minval=-bound, maxval=bound)
        up = jnp.zeros((*stack, R, *outer))
        adapters[f'{path}/down'] = type(box)(down, (*axes, *inner_axes, None))
        adapters[f'{path}/up'] = type(box)(up, (*axes, None, *outer_axes))
    return traverse_util.unflatten_dict(adapters, sep='/')


def join(base: core.Params, adapters: core.Params, scale: float) -> core.Params:
    """The base with `leaves.Adapted` where it is adapted, and whole weights replaced.

    Raises UserError where the base has no such weight.
    """
    if other := sorted(set(adapters) - set(base)):
        raise command.UserError(
            f'an adapter is for {", ".join(other)}, which its base does not have among '
            f'{", ".join(base)}; take the base that it was made for.'
        )
    joined = dict(base)
    for name, own in adapters.items():
        if isinstance(base[name], Mapping):
            joined[name] = join(base[name], own, scale)
        elif isinstance(own, Mapping):
            joined[name] = leaves.Adapted(base[name], **own, scale=scale)
        else:
            joined[name] = own
    return joined


def merge(joined: core.Params) -> core.Params:
    """Plain float32 weights: low-rank products added, quantised bases as they read."""

    def dense(path: str, leaf: Any) -> Any:
        if not _adapted(leaf):
            return leaves.dense(leaf)
        added = leaf.scale * product(path, leaf.down, leaf.up)
        return leaves.dense(leaf.base) + added

    return trees.map_with_path(dense, joined, is_leaf=lambda x: not _tree(x))


def unmerge(merged: core.Params, adapters: core.Params, scale: float) -> core.Params:
    """The base of `merged`, but for weights that were replaced whole."""
    factors = dict(trees.paths(adapters))

    def before(path: str, leaf: Any) -> Any:
        if f'{path}/down' not in factors:
            return leaf
        down, up = factors[f'{path}/down'], factors[f'{path}/up']
        return leaf - scale * product(path, down, up)

    return trees.map_with_path(before, merged)


def product(path: str, down: Array, up: Array) -> Float[Array, '...']:
    """down up, of the shape of the weight at `path`."""
    lead = stacked(path)
    # `down` ends and `up` begins, behind L, with R.
    inner, outer = down.shape[lead:-1], up.shape[lead + 1 :]
    stack = 'l' * lead
    left, right = 'abc'[: len(inner)], 'xyz'[: len(outer)]
    whole = left + right if _SUMMED[path.rsplit('/', 1)[-1]] > 0 else right + left
    return jnp.einsum(
        f'{stack}{left}r,{stack}r{right}->{stack}{whole}',
        down.astype(jnp.float32),
        up.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )


def several(given: Sequence[tuple[core.Params, float]]) -> core.Params:
    """(adapters, scale) of each as one tree of scale 1, to be joined and then chosen.

    Behind L, its arrays have an axis of as many as were given. The largest R is that of
    all, padded with zeros; where one adapts nothing, it is zeros: ({}, 1.0) is the base
    alone. Raises UserError for weights that are replaced whole.
    """
    flat = [dict(trees.paths(adapters)) for adapters, _ in given]
    like = {path: leaf for one in flat for path, leaf in one.items()}
    for path in like:
        if not _factor(path):
            raise command.UserError(
                f'an adapter replaces {path} whole, and so cannot share its base with '
                'others; serve it alone.'
            )
    R = max(leaf.shape[_rank_axis(path)] for one in flat for path, leaf in one.items())

    def padded(path: str, one: Mapping[str, Any], scale: float) -> Array:
        leaf = one[path] if path in one else jnp.zeros_like(like[path])
        width = [(0, 0)] * leaf.ndim
        width[_rank_axis(path)] = (0, R - leaf.shape[_rank_axis(path)])
        return jnp.pad(leaf * scale if path.endswith('/up') else leaf, width)

    scales = [scale for _, scale in given]
    together = {
        path: jnp.stack(
            [padded(path, *pair) for pair in zip(flat, scales, strict=True)],
            stacked(path),
        )
        for path in like
    }
    return traverse_util.unflatten_dict(together, sep='/')


def choose(joined: core.Params, index_B: Int[Array, 'B']) -> core.Params:
    """Weights joined with `several` adapters, where row b goes through index_B[b].

    joined: after `transformer.unstack`.
    """
    return jax.tree.map(
        lambda leaf: (
            dataclasses.replace(leaf, index_B=index_B) if _adapted(leaf) else leaf
        ),
        joined,
        is_leaf=_adapted,
    )


def _factor(path: str) -> bool:
    """Whether it is the path of `down` or `up`, and not of a weight of that name."""
    weight, _, name = path.rpartition('/')
    return name in ('down', 'up') and adaptable(weight)


def _rank_axis(path: str) -> int:
    return -1 if path.endswith('/down') else stacked(path)


def _adapted(leaf: Any) -> bool:
    return isinstance(leaf, leaves.Adapted)


def is_boxed(leaf: Any) -> bool:
    """Whether it is a shape or an array with its logical axes."""
    return isinstance(leaf, nn.meta.AxisMetadata)


def _tree(node: Any) -> bool:
    return isinstance(node, Mapping | list)
