"""Weights in 8 or 4 bits: of a base that is not trained, and for serving.

The first is QLoRA's (Dettmers et al., 2023). The second is of unstacked weights, and
lies as the kernel of `native` reads it.
"""

from collections.abc import Collection, Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax import command, core, trees
from gptjax import sharding as sharding_lib
from gptjax.model import leaves, lora

KINDS = ('int8', 'nf4')
SERVED = {'int8': 127, 'int4': 7}  # the largest code
_BLOCK = 64  # elements that share one absmax in nf4


def quantised(path: str) -> bool:
    """Whether a base may hold the weight in few bits: those of products in layers.

    Embeddings, heads, routers and experts, norms and biases stay float32.
    """
    return lora.adaptable(path) and bool(lora.stacked(path))


def abstract(boxed: core.Params, kind: str, whole: Collection[str] = ()) -> core.Params:
    """Boxed shapes with `leaves.Quantised` of boxed shapes, but for the paths `whole`.

    Codes are split along the axes of the weight. Raises UserError for a `kind` that is
    not of KINDS.
    """
    command.lookup(dict.fromkeys(KINDS), kind, 'kind of quantised weights')

    def leaf(path: str, box: Any) -> Any:
        if path in whole or not quantised(path):
            return box
        shapes = jax.eval_shape(lambda weight: quantise(path, weight, kind), box.value)
        lead, axes = lora.stacked(path), tuple(box.names)
        if kind == 'int8':
            inner, outer = lora.sides(path, axes[lead:])
            of = axes, (*axes[:lead], *(None for _ in inner), *outer)
        else:
            of = (*axes[: lead + 1], None, None), (*axes[: lead + 1], None)
        codes = type(box)(shapes.codes, of[0])
        absmax = type(box)(shapes.absmax, of[1])
        return leaves.Quantised(codes, absmax, shapes.dims, kind)

    return trees.map_with_path(leaf, boxed, is_leaf=lora.is_boxed)


def tree(
    params: core.Params, boxed: core.Params, sharding: sharding_lib.Sharding
) -> core.Params:
    """`params` in few bits where `boxed`, which is `abstract`'s, is."""
    both = trees.paths(boxed, is_leaf=lambda x: lora.is_boxed(x) or _few(x))
    boxes = {path: box for path, box in both if _few(box)}

    def make(weights: Mapping[str, Array]) -> dict[str, leaves.Quantised]:
        return {
            path: quantise(path, x, boxes[path].kind) for path, x in weights.items()
        }

    weights = {path: leaf for path, leaf in trees.paths(params) if path in boxes}
    few = jax.jit(make, out_shardings=sharding.of_boxed(boxes))(weights)
    return trees.map_with_path(lambda path, leaf: few.get(path, leaf), params)


def quantise(path: str, weight: Float[Array, '...'], kind: str) -> leaves.Quantised:
    """A weight of a stack in few bits, each element the nearest code."""
    lead = lora.stacked(path)
    dims = weight.shape[lead:]
    if kind == 'int8':
        inner, _ = lora.sides(path, dims)
        summed = tuple(range(lead, lead + len(inner)))
        absmax = jnp.max(jnp.abs(weight), summed, keepdims=True)
        codes = jnp.round(weight * (127 / _some(absmax))).astype(jnp.int8)
        return leaves.Quantised(codes, absmax, dims, kind)
    rows = weight.reshape(*weight.shape[: lead + 1], -1)
    short = -rows.shape[-1] % _BLOCK
    rows = jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, short)])
    blocks = rows.reshape(*rows.shape[:-1], -1, _BLOCK)
    absmax = jnp.max(jnp.abs(blocks), -1)
    book = jnp.array(leaves.NF4)
    nearest = jnp.searchsorted(
        (book[1:] + book[:-1]) / 2, blocks / _some(absmax)[..., None]
    ).astype(jnp.uint8)
    codes = (nearest[..., 0::2] << 4) | nearest[..., 1::2]
    return leaves.Quantised(codes, absmax, dims, kind)


def for_serving(params: core.Params, kind: str) -> core.Params:
    """Unstacked parameters whose weights of products, and the embedding, are few bits.

    kind: int8 has a scale for each output, int4 one for 32 inputs of an output, each
    element the nearest code. Norms, biases, positions, routers, experts and adapters
    stay as they are, as does an encoder, whose layers are stacked. Raises UserError
    for a `kind` that is not of SERVED.
    """
    command.lookup(SERVED, kind, 'kind of served weights')

    def serve(path: str, leaf: Any) -> Any:
        if isinstance(leaf, leaves.Adapted):
            return dataclasses.replace(leaf, base=serve(path, leaf.base))
        inner = -1 if path == 'tokens' else lora.summed(path)
        if not inner or (lora.stacked(path) and not _unstacked(path)):
            return leaf
        return rows(leaves.dense(leaf), inner, kind)

    few = (leaves.Adapted, leaves.Quantised)
    return trees.map_with_path(serve, params, is_leaf=lambda x: isinstance(x, few))


@functools.partial(jax.jit, static_argnames=('inner', 'kind'))
def rows(weight: Float[Array, '...'], inner: int, kind: str) -> leaves.Rows:
    """A weight that sums over its first `inner` axes, or (-1) its last, in few bits."""
    made = leaves.Rows(None, None, weight.shape, inner)
    I = math.prod(made.sides[0])  # noqa: E741
    rows_OI = weight.reshape(-1, I) if inner < 0 else weight.reshape(I, -1).T
    O = rows_OI.shape[0]  # noqa: E741
    rows_OI = jnp.pad(rows_OI, [(0, -O % 4), (0, -I % 32)])
    # (O / 4, I / 32, 4, 32)
    blocks = jnp.swapaxes(rows_OI.reshape(-1, 4, (I + 31) // 32, 32), 1, 2)
    summed = -1 if kind == 'int4' else (1, 3)
    scale = jnp.max(jnp.abs(blocks), summed, keepdims=True) / SERVED[kind]
    codes = jnp.round(blocks / _some(scale)).astype(jnp.int8)
    if kind == 'int8':
        return dataclasses.replace(made, codes=codes, scale=scale.reshape(-1))
    codes = (codes + 8).astype(jnp.uint8)
    codes = codes[..., :16] | (codes[..., 16:] << 4)
    return dataclasses.replace(made, codes=codes, scale=scale[..., 0])


def _unstacked(path: str) -> bool:
    """Whether a layer's weight is behind the number of the layer."""
    names = path.split('/')
    return names[names.index('blocks') + 1].isdigit()


def _few(leaf: Any) -> bool:
    return isinstance(leaf, leaves.Quantised)


def _some(absmax: Array) -> Array:
    """For division: 1 where all is 0."""
    return jnp.where(absmax > 0, absmax, 1)
