"""Encoder-decoders (Vaswani et al., 2017; BART, Lewis et al., 2020)."""

import dataclasses
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax import core
from gptjax import sharding as sharding_lib
from gptjax.model import attention, config, gpt, heads, kernels, layers, stack


class Seq2Seq(nn.Module):
    """An encoder of the source, and a decoder of the target that looks at it.

    Both embed tokens with the same weights, which are the logits' too where tied.
    """

    arch: config.Architecture
    compute: config.Compute
    sharding: sharding_lib.Sharding
    train: bool = False

    def setup(self) -> None:
        arch = self.arch
        self.tokens_VD = layers.weight(
            self, 'tokens', (arch.V, arch.D), ('vocab', 'embed'), layers.normal(arch)
        )
        places = self.compute, self.sharding, self.train
        self.encoder = stack.Stack(encoder_arch(arch), *places)
        self.decoder = stack.Stack(arch, *places)
        self.head = heads.Head(arch, self.sharding, self.train)

    def encode(
        self,
        source_BS: Int[Array, 'B S'],
        positions_BS: Int[Array, 'B S'],
        segments_BS: Int[Array, 'B S'],
    ) -> tuple[Float[Array, 'B S D'], core.Metrics]:
        """The encoder's output for the source, and its router's losses."""
        with jax.named_scope('embedding'):
            x_BSD = layers.lookup(self.tokens_VD, source_BS, self.sharding, 'vocab')
            x_BSD = self.encoder.enter(x_BSD, positions_BS)
        context = attention.packed(
            self.encoder.arch,
            positions_BS,
            segments_BS,
            kernel=kernels.chosen(self.encoder),
        )
        return self.encoder.run(x_BSD, context)

    def hidden(
        self,
        tokens_BT: Int[Array, 'B T'],
        positions_BT: Int[Array, 'B T'],
        segments_BT: Int[Array, 'B T'],
        source_BS: Int[Array, 'B S'],
        source_positions_BS: Int[Array, 'B S'],
        source_segments_BS: Int[Array, 'B S'],
    ) -> tuple[Float[Array, 'B T D'], core.Metrics]:
        """The decoder's hidden states, and the routers' losses."""
        source_BSD, encoder_router = self.encode(
            source_BS, source_positions_BS, source_segments_BS
        )
        kernel = kernels.chosen(self)
        rows: Any = kernels.ordered(kernel, tokens_BT, positions_BT, segments_BT)
        tokens_BT, positions_BT, segments_BT = rows
        context = attention.packed(
            self.arch, positions_BT, segments_BT, source_segments_BS, kernel
        )
        x_BTD = self.embed(tokens_BT, positions_BT)
        x_BTD, router = self.decoder.run(x_BTD, context, source_BSD)
        x_BTD = kernels.natural(kernel, x_BTD)
        return x_BTD, jax.tree.map(jnp.add, router, encoder_router)

    def everything(self, *inputs: Int[Array, 'B T']) -> None:
        """Uses every weight once: what initialises them."""
        x_BTD, _ = self.hidden(*inputs)
        self.head.everything(x_BTD, inputs[2], self.tokens_VD)

    def embed(
        self, tokens_BT: Int[Array, 'B T'], positions_BT: Int[Array, 'B T']
    ) -> Float[Array, 'B T D']:
        """The decoder's residual stream before its first layer."""
        with jax.named_scope('embedding'):
            x_BTD = layers.lookup(self.tokens_VD, tokens_BT, self.sharding, 'vocab')
            return self.decoder.enter(x_BTD, positions_BT)

    def leave(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
        """The decoder's last norm."""
        return self.decoder.leave(x_BTD)

    def logits(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T V']:
        """Logits of tokens, in float32."""
        with jax.named_scope('head'):
            return self.head.logits(x_BTD, self.tokens_VD)

    def scores(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T W']:
        """Logits of tokens for losses: see `heads.Head.scores`."""
        with jax.named_scope('head'):
            return self.head.scores(x_BTD, self.tokens_VD)


def encoder_arch(arch: config.Architecture) -> config.Architecture:
    """The encoder of an encoder-decoder: as many layers as it says, not causal."""
    return dataclasses.replace(arch, causal=False, L=arch.encoder_L, encoder_L=0)


class Cache(NamedTuple):
    """What decoding remembers: of the source, and of the tokens so far."""

    segments_BS: Int[Array, 'B S']  # of the source; 0 is padding
    source: list[attention.LayerCache]  # the decoder's keys and values of the source
    target: gpt.Cache


def unstack(params: core.Params) -> core.Params:
    """Parameters with the decoder's layers as a list; do it once."""
    return {**params, 'decoder': gpt.unstack(params['decoder'])}


def begin(
    model: Seq2Seq,
    params: core.Params,
    source_BS: Int[Array, 'B S'],
    segments_BS: Int[Array, 'B S'],
    T: int,
    dtype: Any,
) -> Cache:
    """Reads the source, one document a row (segment 1, then padding), once.

    The cache has room for T tokens of the target, of this type.
    """
    B, S = source_BS.shape
    positions_BS = jnp.broadcast_to(jnp.arange(S), (B, S))
    encoded: Any = model.apply(
        {'params': params}, source_BS, positions_BS, segments_BS, method='encode'
    )
    source_BSD, _ = encoded
    cross = attention.CrossAttention(model.arch, model.sharding)
    keys: list[Any] = [
        cross.apply({'params': weights['cross']}, source_BSD, method='keys')
        for weights in params['decoder']['blocks']
    ]
    empty = gpt.init_cache(model.arch, B, T, dtype)
    return Cache(segments_BS, keys, empty)


def decode(
    model: Seq2Seq,
    params: core.Params,
    tokens_BT: Int[Array, 'B T'],
    positions_BT: Int[Array, 'B T'],
    cache: Cache,
    last_B: Int[Array, 'B'] | None = None,
) -> tuple[Array, Cache]:
    """The next T tokens of each target; arguments and results as of `gpt.decode`."""
    S = cache.target[0].key_BKSH.shape[2]
    context = attention.cached(model.arch, positions_BT, S, cache.segments_BS)
    inputs = tokens_BT, positions_BT
    blocks = params['decoder']['blocks']
    logits, target = gpt.advance(
        model, params, blocks, inputs, context, cache.source, cache.target, last_B
    )
    return logits, cache._replace(target=target)
