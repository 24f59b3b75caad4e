"""A tiny model with random weights, and the engine over it."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import sharding, trees
from gptjax.generate import engine as engine_lib
from gptjax.model import config, transformer
from gptjax.model.families import gpt2
from gptjax.text import table


class Tiny:
    """Wide random weights, so that greedy text does not just repeat itself."""

    def __init__(self, L: int = 2) -> None:
        self.tokenizer = table.make(lambda: [], name='bytes')
        arch = dataclasses.replace(
            gpt2.sized(L=L, N=4, D=32, T=64, V=384), F=64, init_std=0.0
        )
        compute = config.Compute('float32', 'none', scan_unroll=1, accumulate=1)
        self.model = transformer.make(arch, compute, sharding.single())
        rng = np.random.default_rng(0)

        def weight(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
            if path.endswith('scale'):
                return jnp.ones(leaf.shape)
            return jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype)

        self.params = trees.map_with_path(
            weight, nn.unbox(transformer.abstract(self.model))
        )
        self.params['norm']['bias'] *= 0  # in a tied head it would drown the rest
        self.engine = engine_lib.Engine(self.model, self.params, self.tokenizer)


@pytest.fixture(scope='session')
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope='session')
def flat() -> Tiny:
    """Of one layer, where more only take longer to compile."""
    return Tiny(L=1)
