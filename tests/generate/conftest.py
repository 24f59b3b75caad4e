"""A tiny model with random weights, and the engine over it."""

import jax
import pytest

from gptjax import sharding
from gptjax.generate import engine as engine_lib
from gptjax.model import config, gpt
from gptjax.text import table


class Tiny:
    """Wide random weights, so that greedy text does not just repeat itself."""

    def __init__(self, T: int = 128) -> None:
        self.tokenizer = table.make(lambda: [], name='bytes')
        arch = config.Architecture(
            T=T, V=384, D=32, F=64, N=4, H=8, L=2,
            dropout=0.0, norm_eps=1e-5, init_std=0.3,
        )  # fmt: skip
        compute = config.Compute('float32', 'none', scan_unroll=1, accumulate=1)
        self.model = gpt.GPT(arch, compute, sharding.single())
        self.params = gpt.init(self.model, jax.random.key(0))
        self.engine = engine_lib.Engine(self.model, self.params, self.tokenizer)


@pytest.fixture(scope='session')
def tiny() -> Tiny:
    return Tiny()
