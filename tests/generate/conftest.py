"""A tiny model with random weights, and the engine over it."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import sharding, trees
from gptjax.generate import engine as engine_lib
from gptjax.model import config, gpt
from gptjax.text import table


class Tiny:
    """Wide random weights, so that greedy text does not just repeat itself."""

    def __init__(self) -> None:
        self.tokenizer = table.make(lambda: [], name='bytes')
        arch = config.Architecture(
            T=64, V=384, D=32, F=64, N=4, H=8, L=2,
            dropout=0.0, norm_eps=1e-5, init_std=0.0,
        )  # fmt: skip
        compute = config.Compute('float32', 'none', scan_unroll=1, accumulate=1)
        self.model = gpt.GPT(arch, compute, sharding.single())
        rng = np.random.default_rng(0)

        def weight(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
            if path.endswith('scale'):
                return jnp.ones(leaf.shape)
            return jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype)

        self.params = trees.map_with_path(weight, nn.unbox(gpt.abstract(self.model)))
        self.params['norm']['bias'] *= 0  # in a tied head it would drown the rest
        self.engine = engine_lib.Engine(self.model, self.params, self.tokenizer)


@pytest.fixture(scope='session')
def tiny() -> Tiny:
    return Tiny()
