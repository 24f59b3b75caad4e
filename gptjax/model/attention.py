"""Causal self-attention: masks, the scores, and the KV cache as a value."""

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gptjax import sharding as sharding_lib
from gptjax.model import config, layers


class LayerCache(NamedTuple):
    """Keys and values of one layer; the slot of a token is its position."""

    key_BSNH: Float[Array, 'B S N H']
    value_BSNH: Float[Array, 'B S N H']


def packed_mask(segments_BT: Int[Array, 'B T']) -> Bool[Array, 'B T T']:
    """Who sees whom in packed rows: the past of the same document, and oneself.

    Segments number the documents of a row from 1; 0 is padding, which sees itself.
    """
    T = segments_BT.shape[1]
    causal_TS = jnp.tril(jnp.ones((T, T), bool))
    return causal_TS & (segments_BT[:, :, None] == segments_BT[:, None, :])


def cache_mask(positions_BT: Int[Array, 'B T'], S: int) -> Bool[Array, 'B T S']:
    """A query sees the slots up to its own position."""
    return jnp.arange(S) <= positions_BT[:, :, None]


def attention_weights(
    q_BTNH: Float[Array, 'B T N H'],
    k_BSNH: Float[Array, 'B S N H'],
    mask_BTS: Bool[Array, 'B T S'],
) -> Float[Array, 'B N T S']:
    """softmax(q k / sqrt(H)) over what is seen, in float32 (Vaswani et al., 2017)."""
    scores_BNTS = jnp.einsum(
        'BTNH,BSNH->BNTS', q_BTNH, k_BSNH, preferred_element_type=jnp.float32
    )
    scores_BNTS *= q_BTNH.shape[-1] ** -0.5
    lowest = jnp.finfo(jnp.float32).min
    scores_BNTS = jnp.where(mask_BTS[:, None], scores_BNTS, lowest)
    return jax.nn.softmax(scores_BNTS, axis=-1)


def write(
    cache: LayerCache,
    k_BTNH: Float[Array, 'B T N H'],
    v_BTNH: Float[Array, 'B T N H'],
    start_B: Int[Array, 'B'],
) -> LayerCache:
    """The cache with T new slots from `start_B[b]` on in each row b."""

    def put(row: Array, new: Array, start: Array) -> Array:
        return jax.lax.dynamic_update_slice(row, new.astype(row.dtype), (start, 0, 0))

    return LayerCache(
        jax.vmap(put)(cache.key_BSNH, k_BTNH, start_B),
        jax.vmap(put)(cache.value_BSNH, v_BTNH, start_B),
    )


class MultiHeadAttention(nn.Module):
    """Multi-head self-attention with biases, as in GPT-2 (Radford et al., 2019).

    Without a cache, the keys are those of the row itself. With one, they are written at
    `positions_BT` first, and the queries see the whole cache through the mask.
    """

    arch: config.Architecture
    sharding: sharding_lib.Sharding
    train: bool

    @nn.compact
    def __call__(
        self,
        x_BTD: Float[Array, 'B T D'],
        mask_BTS: Bool[Array, 'B T S'],
        positions_BT: Int[Array, 'B T'],
        cache: LayerCache | None,
    ) -> tuple[Float[Array, 'B T D'], LayerCache | None]:
        arch = self.arch
        normal = nn.initializers.normal(arch.init_std)
        small = nn.initializers.normal(arch.init_std / (2 * arch.L) ** 0.5)
        projected = []
        for name in ('query', 'key', 'value'):
            kernel = layers.weight(
                self,
                name,
                (arch.D, arch.N, arch.H),
                ('embed', 'heads', 'head_dim'),
                normal,
            )
            bias = layers.weight(
                self,
                f'{name}_bias',
                (arch.N, arch.H),
                ('heads', 'head_dim'),
                nn.initializers.zeros,
            )
            y_BTNH = layers.einsum('BTD,DNH->BTNH', x_BTD, kernel) + bias.astype(
                x_BTD.dtype
            )
            projected.append(
                self.sharding.constrain(y_BTNH, 'batch', 'length', 'heads', 'head_dim')
            )
        q_BTNH, k_BTNH, v_BTNH = projected
        if cache is not None:
            cache = write(cache, k_BTNH, v_BTNH, positions_BT[:, 0])
            k_BTNH, v_BTNH = (c.astype(x_BTD.dtype) for c in cache)
        weights_BNTS = attention_weights(q_BTNH, k_BTNH, mask_BTS)
        weights_BNTS = nn.Dropout(arch.dropout, deterministic=not self.train)(
            weights_BNTS
        )
        y_BTNH = jnp.einsum('BNTS,BSNH->BTNH', weights_BNTS.astype(x_BTD.dtype), v_BTNH)
        out = layers.weight(
            self, 'out', (arch.N, arch.H, arch.D), ('heads', 'head_dim', 'embed'), small
        )
        out_bias = layers.weight(
            self, 'out_bias', (arch.D,), ('embed',), nn.initializers.zeros
        )
        y_BTD = layers.einsum('BTNH,NHD->BTD', y_BTNH, out) + out_bias.astype(
            x_BTD.dtype
        )
        return y_BTD, cache
