"""The GPT-2 decoder (Radford et al., 2019): tokens in, logits out, a pure function.

`GPT` is the training view: the layers are stacked and scanned. `decode` is the view of
generation: the same blocks over unstacked weights, with a cache that goes in and comes
out (on CPU, 12 layers: 9 ms a token, against 17 to 29 through the scan).
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gptjax import core
from gptjax import sharding as sharding_lib
from gptjax.model import attention, config, layers

Cache = list[attention.LayerCache]


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    arch: config.Architecture
    sharding: sharding_lib.Sharding
    train: bool = False

    @nn.compact
    def __call__(
        self,
        x_BTD: Float[Array, 'B T D'],
        mask_BTS: Bool[Array, 'B T S'],
        positions_BT: Int[Array, 'B T'],
        cache: attention.LayerCache | None = None,
    ) -> tuple[Float[Array, 'B T D'], attention.LayerCache | None]:
        arch = self.arch
        dropout = nn.Dropout(arch.dropout, deterministic=not self.train)
        with jax.named_scope('attention'):
            y_BTD = layers.LayerNorm(arch, name='attention_norm')(x_BTD)
            y_BTD, cache = attention.MultiHeadAttention(
                arch, self.sharding, self.train, name='attention'
            )(y_BTD, mask_BTS, positions_BT, cache)
            x_BTD = x_BTD + dropout(y_BTD)
        with jax.named_scope('mlp'):
            y_BTD = layers.LayerNorm(arch, name='mlp_norm')(x_BTD)
            y_BTD = layers.MLP(arch, self.sharding, name='mlp')(y_BTD)
            x_BTD = x_BTD + dropout(y_BTD)
        return self.sharding.constrain(x_BTD, 'batch', 'length', None), cache


_REMAT = {
    'full': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class GPT(nn.Module):
    """A decoder-only Transformer with learned positions and a tied head."""

    arch: config.Architecture
    compute: config.Compute
    sharding: sharding_lib.Sharding
    train: bool = False

    def setup(self) -> None:
        arch = self.arch
        normal = nn.initializers.normal(arch.init_std)
        self.tokens_VD = layers.weight(
            self, 'tokens', (arch.V, arch.D), ('vocab', 'embed'), normal
        )
        self.positions_TD = layers.weight(
            self, 'positions', (arch.T, arch.D), ('length', 'embed'), normal
        )
        block = Block
        if self.compute.remat != 'none':
            block = nn.remat(
                Block, policy=_REMAT[self.compute.remat], prevent_cse=False
            )
        self.blocks = nn.scan(
            block,
            variable_axes={'params': 0},
            split_rngs={'params': True, 'dropout': True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=arch.L,
            unroll=min(self.compute.scan_unroll, arch.L),
            metadata_params={nn.PARTITION_NAME: 'layers'},
        )(arch, self.sharding, self.train)
        self.norm = layers.LayerNorm(arch)
        self.dropout = nn.Dropout(arch.dropout, deterministic=not self.train)

    def __call__(
        self,
        tokens_BT: Int[Array, 'B T'],
        positions_BT: Int[Array, 'B T'],
        segments_BT: Int[Array, 'B T'],
    ) -> Float[Array, 'B T V']:
        """Logits in float32. Documents of a packed row do not see each other.

        `positions_BT` count from 0 in each document, `segments_BT` number the documents
        of a row from 1 (0 is padding). With `train`, dropout needs the rng 'dropout'.
        """
        x_BTD = self.dropout(self.embed(tokens_BT, positions_BT))
        mask_BTT = attention.packed_mask(segments_BT)
        x_BTD, _ = self.blocks(x_BTD, mask_BTT, positions_BT)
        return self.unembed(x_BTD)

    def embed(
        self, tokens_BT: Int[Array, 'B T'], positions_BT: Int[Array, 'B T']
    ) -> Float[Array, 'B T D']:
        x_BTD = self.tokens_VD[tokens_BT] + self.positions_TD[positions_BT]
        x_BTD = x_BTD.astype(self.compute.dtype)
        return self.sharding.constrain(x_BTD, 'batch', 'length', None)

    def unembed(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T V']:
        with jax.named_scope('head'):
            y_BTD = self.norm(x_BTD)
            logits_BTV = layers.einsum('BTD,VD->BTV', y_BTD, self.tokens_VD)
            logits_BTV = self.sharding.constrain(logits_BTV, 'batch', 'length', 'vocab')
            return logits_BTV.astype(jnp.float32)


def abstract(model: GPT) -> Any:
    """The boxed shapes of the parameters: shapes, types and logical axes, no memory."""
    row = jax.ShapeDtypeStruct((1, model.arch.T), jnp.int32)
    boxed = jax.eval_shape(model.init, jax.random.key(0), row, row, row)
    return boxed['params']


def init(model: GPT, key: Array) -> core.Params:
    """Fresh parameters, born with the shardings of their logical axes."""
    shardings = model.sharding.of_boxed(abstract(model))
    row = jnp.zeros((model.sharding.batch_shards, model.arch.T), jnp.int32)

    def make(key: Array) -> core.Params:
        return nn.unbox(model.init(key, row, row, row)['params'])

    return jax.jit(make, out_shardings=shardings)(key)


def forward(
    model: GPT, params: core.Params, batch: core.Batch, key: Array | None = None
) -> Float[Array, 'B T V']:
    """Logits of a batch (tokens, positions, segments); a key turns dropout on."""
    logits_BTV: Any = model.clone(train=key is not None).apply(
        {'params': params},
        batch['tokens'],
        batch['positions'],
        batch['segments'],
        rngs={} if key is None else {'dropout': key},
    )
    return logits_BTV


def init_cache(arch: config.Architecture, B: int, S: int, dtype: Any) -> Cache:
    """An empty cache for B rows of at most S tokens."""
    zeros = jnp.zeros((B, S, arch.N, arch.H), dtype)
    return [attention.LayerCache(zeros, zeros) for _ in range(arch.L)]


def unstack(params: core.Params) -> core.Params:
    """Parameters with a list of layers in place of the stack; do it once."""
    stack = params['blocks']
    L = jax.tree.leaves(stack)[0].shape[0]
    layer_list = [jax.tree.map(lambda leaf, i=i: leaf[i], stack) for i in range(L)]
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
    S = cache[0].key_BSNH.shape[1]
    mask_BTS = attention.cache_mask(positions_BT, S)
    variables = {'params': params}
    x_BTD: Any = model.apply(variables, tokens_BT, positions_BT, method='embed')
    block = Block(model.arch, model.sharding)
    new_cache: Cache = []
    for layer_params, old in zip(params['blocks'], cache, strict=True):
        applied: Any = block.apply(
            {'params': layer_params}, x_BTD, mask_BTS, positions_BT, old
        )
        x_BTD, new = applied
        new_cache.append(new)
    if last_B is not None:
        x_BTD = jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)
    logits_BTV: Any = model.apply(variables, x_BTD, method='unembed')
    return logits_BTV if last_B is None else logits_BTV[:, 0], new_cache
