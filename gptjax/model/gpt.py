"""Decoders (GPT; Radford et al., 2018) and encoders (BERT; Devlin et al., 2019).

The two differ in who sees whom. `GPT` is the training view: the layers are stacked and
scanned. `decode` is the view of generation: the same blocks over unstacked weights,
with a cache that goes in and comes out (on CPU, 12 layers: 9 ms a token, against 17 to
29 through the scan).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax import core
from gptjax.model import attention, config, heads, kernels, layers, stack

Cache = list[attention.LayerCache]


class GPT(stack.Stack):
    """Tokens in, hidden states out, and the head on them."""

    def setup(self) -> None:
        arch = self.arch
        self.tokens_VD = layers.weight(
            self, 'tokens', (arch.V, arch.D), ('vocab', 'embed'), layers.normal(arch)
        )
        super().setup()
        self.head = heads.Head(arch, self.sharding, self.train)

    def hidden(
        self,
        tokens_BT: Int[Array, 'B T'],
        positions_BT: Int[Array, 'B T'],
        segments_BT: Int[Array, 'B T'],
        types_BT: Int[Array, 'B T'] | None = None,
    ) -> tuple[Float[Array, 'B T D'], core.Metrics]:
        """Hidden states after the last norm, and the router's losses.

        `positions_BT` count from 0 in each document, `segments_BT` number the documents
        of a row from 1 (0 is padding). With `train`, dropout needs the rng 'dropout'.
        """
        kernel = kernels.chosen(self)
        rows: Any = tokens_BT, positions_BT, segments_BT, types_BT
        rows = kernels.ordered(kernel, *rows)
        tokens_BT, positions_BT, segments_BT, types_BT = rows
        context = attention.packed(self.arch, positions_BT, segments_BT, kernel=kernel)
        x_BTD = self.embed(tokens_BT, positions_BT, types_BT)
        x_BTD, router = self.run(x_BTD, context)
        return kernels.natural(kernel, x_BTD), router

    def everything(self, *inputs: Int[Array, 'B T']) -> None:
        """Uses every weight once: what initialises them."""
        x_BTD, _ = self.hidden(*inputs)
        self.head.everything(x_BTD, inputs[2], self.tokens_VD)

    def embed(
        self,
        tokens_BT: Int[Array, 'B T'],
        positions_BT: Int[Array, 'B T'],
        types_BT: Int[Array, 'B T'] | None = None,
    ) -> Float[Array, 'B T D']:
        """The residual stream before the first layer."""
        with jax.named_scope('embedding'):
            x_BTD = layers.lookup(self.tokens_VD, tokens_BT, self.sharding, 'vocab')
            return self.enter(x_BTD, positions_BT, types_BT)

    def logits(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T V']:
        """Logits of tokens, in float32."""
        with jax.named_scope('head'):
            return self.head.logits(x_BTD, self.tokens_VD)

    def scores(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T W']:
        """Logits of tokens for losses: see `heads.Head.scores`."""
        with jax.named_scope('head'):
            return self.head.scores(x_BTD, self.tokens_VD)

    def classify(
        self, x_BTD: Float[Array, 'B T D'], segments_BT: Int[Array, 'B T']
    ) -> Float[Array, 'B C']:
        """Logits of classes, in float32; a row is one document."""
        return self.head.classify(x_BTD, segments_BT)

    def rewards(
        self, x_BTD: Float[Array, 'B T D'], segments_BT: Int[Array, 'B T']
    ) -> Float[Array, 'B']:
        """One number for each row, in float32; a row is one document."""
        return self.head.rewards(x_BTD, segments_BT)

    def values(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T']:
        """One number for each token, in float32."""
        return self.head.values(x_BTD)


def init_cache(arch: config.Architecture, B: int, S: int, dtype: Any) -> Cache:
    """An empty cache for B rows of at most S tokens; int8 holds codes."""
    zeros = jnp.zeros((B, arch.K, S, arch.H), dtype)
    absmax = jnp.zeros((B, arch.K, S, 1)) if zeros.dtype == jnp.int8 else None
    return [attention.LayerCache(zeros, zeros, absmax, absmax) for _ in range(arch.L)]


def grow(cache: Cache, S: int) -> Cache:
    """The cache with room for S tokens of each row, no fewer than it has."""
    more = S - cache[0].key_BKSH.shape[2]
    return jax.tree.map(
        lambda x: jnp.pad(x, [(0, 0), (0, 0), (0, more), (0, 0)]), cache
    )


def unstack(params: core.Params) -> core.Params:
    """Parameters with a list of layers in place of the stack; do it once."""
    stacked = params['blocks']
    L = jax.tree.leaves(stacked)[0].shape[0]
    layer_list = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(L)]
    return {**params, 'blocks': layer_list}


def decode(
    model: GPT,
    params: core.Params,
    tokens_BT: Int[Array, 'B T'],
    positions_BT: Int[Array, 'B T'],
    cache: Cache,
    last_B: Int[Array, 'B'] | None = None,
) -> tuple[Array, Cache]:
    """The next T tokens of each row, given what the cache holds of the past.

    `params` are unstacked. Positions of a row are consecutive; each token is written to
    the slot of its position and sees the slots up to it, so padding behind a prompt
    does no harm: its slots are overwritten before anything sees them. Returns
    logits_BTV, or with `last_B` logits_BV of that index in each row, and the cache.
    """
    context = attention.cached(model.arch, positions_BT, cache[0].key_BKSH.shape[2])
    inputs = tokens_BT, positions_BT
    sources = [None] * len(cache)
    return advance(
        model, params, params['blocks'], inputs, context, sources, cache, last_B
    )


def advance(
    model: Any,
    params: core.Params,
    blocks: list[core.Params],
    inputs: tuple[Int[Array, 'B T'], Int[Array, 'B T']],
    context: attention.Context,
    sources: Sequence[attention.LayerCache | None],
    cache: Cache,
    last_B: Int[Array, 'B'] | None,
) -> tuple[Array, Cache]:
    """Tokens and positions through the layers `blocks` of a decoder, as `decode`.

    sources: for each layer the keys and values of what an encoder has read, or None.
    """
    variables = {'params': params}
    x_BTD: Any = model.apply(variables, *inputs, method='embed')
    block = stack.Block(model.arch, model.sharding)
    new_cache: Cache = []
    layer_list = zip(blocks, sources, cache, strict=True)
    for i, (weights, source, old) in enumerate(layer_list):
        window = model.arch.window(i)
        applied: Any = block.apply(
            {'params': weights}, x_BTD, window, context, source, old
        )
        x_BTD, (new, _) = applied
        new_cache.append(new)
    if last_B is not None:
        x_BTD = jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)
    x_BTD = model.apply(variables, x_BTD, method='leave')
    logits_BTV: Any = model.apply(variables, x_BTD, method='logits')
    return logits_BTV if last_B is None else logits_BTV[:, 0], new_cache
