"""A tiny model and tiny batches, for tests of everything above the model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import sharding as sharding_lib
from gptjax.model import config, transformer
from gptjax.model.families import gpt2

ARCH = dataclasses.replace(gpt2.sized(L=2, N=4, D=16, T=16, V=48), F=32, init_std=0.2)
COMPUTE = config.Compute(dtype='float32', remat='none', scan_unroll=1, accumulate=1)


@functools.cache
def sharding(data: int = 1, fsdp: int = 1, tensor: int = 1, rules: str = 'data'):
    return sharding_lib.make(data, fsdp, tensor, rules)


def model(arch=ARCH, compute=COMPUTE, place=None, **changes) -> transformer.Model:
    """A model on one device, with `changes` to its Architecture."""
    arch = dataclasses.replace(arch, **changes)
    return transformer.make(arch, compute, place or sharding())


def packed_batch(rows: int, arch=ARCH, seed: int = 0, padding: int = 3):
    """Rows of two or three documents and some padding, with ragged weights."""
    rng = np.random.default_rng(seed)
    T = arch.T
    tokens = rng.integers(1, arch.V, (rows, T + 1))
    segments = np.zeros((rows, T), np.int32)
    positions = np.zeros((rows, T), np.int32)
    for row in range(rows):
        cuts = np.sort(rng.choice(np.arange(2, T - padding), 2, replace=False))
        for number, (a, b) in enumerate(
            zip([0, *cuts], [*cuts, T - row % (padding + 1)], strict=True), start=1
        ):
            segments[row, a:b] = number
            positions[row, a:b] = np.arange(b - a)
    weights = (segments > 0) * (rng.random((rows, T)) < 0.7)
    return {
        'tokens': jnp.asarray(tokens[:, :-1], jnp.int32),
        'targets': jnp.asarray(tokens[:, 1:], jnp.int32),
        'segments': jnp.asarray(segments),
        'positions': jnp.asarray(positions),
        'weights': jnp.asarray(weights, jnp.float32),
    }


def whole_rows(rows: int, arch=ARCH, seed: int = 0):
    """(tokens, positions, segments) of rows that are one document each."""
    tokens = jax.random.randint(jax.random.key(seed), (rows, arch.T), 0, arch.V)
    positions = jnp.broadcast_to(jnp.arange(arch.T, dtype=jnp.int32), tokens.shape)
    return tokens, positions, jnp.ones_like(tokens)
