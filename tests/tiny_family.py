"""Every family at a size for tests, with weights that leave no branch silent."""

import dataclasses
import functools
import zlib

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tiny

from gptjax import trees
from gptjax.model import config, table, transformer


def arch(family: str, **changes) -> config.Architecture:
    """The family's nano with widths that differ, and divide on the test meshes."""
    nano = table.FAMILIES[family]['nano']
    sizes = dict(
        T=16, V=48, D=16, F=24, N=4, K=4 if nano.K == nano.N else 2, H=6, L=3,
        dropout=0.0,
        init_std=0.3,
        encoder_L=2 if nano.encoder_L else 0,
        windows=tuple(min(window, 5) for window in nano.windows),
    )  # fmt: skip
    return dataclasses.replace(nano, **(sizes | changes))


def model(family: str, compute=tiny.COMPUTE, place=None, **changes):
    made = arch(family, **changes)
    return transformer.make(made, compute, place or tiny.sharding())


def params(model, std: float = 0.3):
    """Random weights, of biases and of what would begin at zero as well."""

    def weight(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        values = rng.normal(0, std, leaf.shape)
        around = float(path.endswith(('scale', 'query_norm', 'key_norm')))
        return jnp.asarray(around + values, leaf.dtype)

    return trees.map_with_path(weight, nn.unbox(transformer.abstract(model)))


@functools.cache
def hidden(model):
    """The jitted hidden states of a model: (params, batch) -> hidden_BTD."""
    return jax.jit(lambda params, batch: transformer.hidden(model, params, batch)[0])


def batch(arch, rows: int = 2, seed: int = 0):
    """Rows of one document each; no token stands twice, in source and target."""
    rng = np.random.default_rng(seed)
    T = arch.T
    ids = np.stack([rng.permutation(arch.V)[: 2 * T] for _ in range(rows)])
    steps = np.broadcast_to(np.arange(T), (rows, T))
    made = dict(tokens=ids[:, :T], positions=steps, segments=np.ones((rows, T)))
    if arch.types > 1:
        made['types'] = steps % arch.types
    if arch.encoder_L:
        made |= dict(
            source=ids[:, T:], source_positions=steps, source_segments=made['segments']
        )
    return {name: jnp.asarray(value, jnp.int32) for name, value in made.items()}
