"""Where the activations of a model lie: what its traced program says of them."""

from collections.abc import Iterator
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from gptjax.model import heads, transformer

# What an array is, by the named scopes around it, the innermost last.
_STAGES = ('embedding', 'layers', 'cross', 'attention', 'mlp', 'head')


def activations(model: transformer.Model, rows: int, T: int) -> list[list[str]]:
    """Cells for each array whose place the model names: stage, shape, split, bytes.

    Of the forward pass of `rows` rows of T tokens; the last two cells are bytes of the
    whole array and on one device. The partitioner finds places for all others.
    """
    batch = _batch(model, rows, T)

    def forward(params: Any, batch: Any) -> Any:
        x_BTD, _ = transformer.hidden(model, params, batch)
        if model.arch.head.kind not in heads.OVER_TOKENS:
            return x_BTD
        return transformer.scores(model, params, x_BTD)

    params = nn.unbox(transformer.abstract(model))
    traced = jax.make_jaxpr(forward)(params, batch)
    found: dict[tuple[str, ...], None] = {}
    for name, array, place in _constraints(traced.jaxpr, ''):
        if jax.sharding.PartitionSpec.UNCONSTRAINED in place.spec:
            continue  # XLA decides
        dims = [*place.spec, *[None] * (len(array.shape) - len(place.spec))]
        split = [_over(dim, place.mesh) for dim in dims]
        sizes = array.shape, place.shard_shape(array.shape)
        row = (
            name,
            ' x '.join(map(str, array.shape)),
            str(array.dtype),
            ', '.join(split),
            *(f'{math.prod(size) * array.dtype.itemsize:,}' for size in sizes),
        )
        found[row] = None
    return [list(row) for row in found]


def _batch(model: transformer.Model, rows: int, T: int) -> dict[str, Any]:
    row = jax.ShapeDtypeStruct((rows, T), jnp.int32)
    names = ['tokens', 'positions', 'segments']
    if model.arch.encoder_L:
        names += ['source', 'source_positions', 'source_segments']
    return dict.fromkeys(names, row)


def _over(dim: Any, mesh: Any) -> str:
    names = (dim,) if isinstance(dim, str) else tuple(dim or ())
    return '+'.join(name for name in names if mesh.shape[name] > 1) or '-'


def _constraints(jaxpr: Any, above: str) -> Iterator[tuple[str, Any, Any]]:
    """(stage, array, place) of each sharding constraint, those inside loops too."""
    for equation in jaxpr.eqns:
        path = f'{above}/{equation.source_info.name_stack}'
        if equation.primitive.name == 'sharding_constraint':
            stages = [part for part in path.split('/') if part in _STAGES]
            yield (
                stages[-1] if stages else '',
                equation.outvars[0].aval,
                equation.params['sharding'],
            )
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, 'jaxpr', inner)
                if hasattr(inner, 'eqns'):
                    yield from _constraints(inner, path)
