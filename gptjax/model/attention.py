"""Attention: masks, the scores, and the KV cache as a value."""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
from jax import ad_checkpoint
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from gptjax import sharding as sharding_lib
from gptjax.model import blocked, config, joined, kernels, layers, split_kv
from gptjax.model import positions as positions_lib


class LayerCache(NamedTuple):
    """Keys and values of one layer; the slot of a token is its position.

    The slots of a head lie together: on CPU, with 16 rows of 128 slots, 12 layers of
    attention take 8 ms so, and 42 where the heads of a slot do. int8 codes have what
    127 stands for beside them, for each token and head.
    """

    key_BKSH: Num[Array, 'B K S H']
    value_BKSH: Num[Array, 'B K S H']
    key_absmax_BKS1: Float[Array, 'B K S 1'] | None = None
    value_absmax_BKS1: Float[Array, 'B K S 1'] | None = None


class Context(NamedTuple):
    """What all layers know of a row: who sees whom, and where each token stands."""

    mask_BTS: Bool[Array, 'B T S'] | None  # None where a kernel needs no mask
    distance_bTS: Int[Array, 'b T S'] | None  # of a query to a key, in tokens
    real_BT: Bool[Array, 'B T']  # no padding
    positions_BT: Int[Array, 'B T']
    turn: positions_lib.Turn | None
    cross_mask_BTS: Bool[Array, 'B T S2'] | None = None
    segments_BT: Int[Array, 'B T'] | None = None
    kernel: kernels.Chosen | None = None  # of a row that looks at itself


def packed(
    arch: config.Architecture,
    positions_BT: Int[Array, 'B T'],
    segments_BT: Int[Array, 'B T'],
    source_segments_BS: Int[Array, 'B S'] | None = None,
    kernel: kernels.Chosen | None = None,
) -> Context:
    """The context of packed rows: a token sees its own document, or its past alone.

    Segments number the documents of a row from 1; 0 is padding, which sees padding. A
    document of a decoder sees the source of the same number.
    """
    T = segments_BT.shape[1]
    mask_BTT = distance_1TT = None
    if kernel is None:
        mask_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
        if arch.causal:
            mask_BTT &= jnp.tril(jnp.ones((T, T), bool))
        index_T = jnp.arange(T)
        distance_1TT = (index_T[:, None] - index_T)[None]
    cross = None
    if source_segments_BS is not None:
        cross = segments_BT[:, :, None] == source_segments_BS[:, None, :]
    return Context(
        mask_BTT,
        distance_1TT,
        segments_BT > 0,
        positions_BT,
        _turn(arch, positions_BT),
        cross,
        segments_BT,
        kernel,
    )


def cached(
    arch: config.Architecture,
    positions_BT: Int[Array, 'B T'],
    S: int,
    source_segments_BS: Int[Array, 'B S2'] | None = None,
) -> Context:
    """The context of decoding: a query sees the slots up to its own position."""
    distance_BTS = positions_BT[:, :, None] - jnp.arange(S)
    cross = None
    if source_segments_BS is not None:
        shape = (*positions_BT.shape, source_segments_BS.shape[1])
        cross = jnp.broadcast_to(source_segments_BS[:, None] > 0, shape)
    return Context(
        distance_BTS >= 0,
        distance_BTS,
        jnp.ones(positions_BT.shape, bool),
        positions_BT,
        _turn(arch, positions_BT),
        cross,
    )


def _turn(
    arch: config.Architecture, positions_BT: Int[Array, 'B T']
) -> positions_lib.Turn | None:
    if arch.positions.kind != 'rotary':
        return None
    return positions_lib.turn(positions_BT, arch.H, arch.positions)


def attention_weights(
    q_BTNH: Float[Array, 'B T N H'],
    k_BSKH: Float[Array, 'B S K H'],
    mask_BTS: Bool[Array, 'B T S'],
) -> Float[Array, 'B K *G T S']:
    """softmax(q k / sqrt(H)) over what is seen, in float32 (Vaswani et al., 2017).

    Each key head serves G = N / K query heads (Ainslie et al., 2023). If that is one,
    there is no axis G: on CPU, one of length 1 costs 8 % of a step (width 128).
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    G = 'G' if N > K else ''
    if G:
        q_BTNH = q_BTNH.reshape(B, T, K, N // K, H)
    scores = jnp.einsum(
        f'BTK{G}H,BSKH->BK{G}TS', q_BTNH, k_BSKH, preferred_element_type=jnp.float32
    )
    scores *= H**-0.5
    seen = mask_BTS[:, None, None] if G else mask_BTS[:, None]
    scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def write(
    cache: LayerCache,
    k_BTKH: Float[Array, 'B T K H'],
    v_BTKH: Float[Array, 'B T K H'],
    start_B: Int[Array, 'B'],
) -> LayerCache:
    """The cache with T new slots from `start_B[b]` on in each row b."""

    new = LayerCache(jnp.swapaxes(k_BTKH, 1, 2), jnp.swapaxes(v_BTKH, 1, 2))
    if cache.key_absmax_BKS1 is not None:
        codes, absmax = zip(_codes(new.key_BKSH), _codes(new.value_BKSH), strict=True)
        new = LayerCache(*codes, *absmax)

    def put(row: Array, new: Array, start: Array) -> Array:
        return jax.lax.dynamic_update_slice(row, new.astype(row.dtype), (0, start, 0))

    return jax.tree.map(lambda old, new: jax.vmap(put)(old, new, start_B), cache, new)


def read(cache: LayerCache, dtype: Any) -> tuple[Array, Array]:
    """The keys and values that a cache holds, (B, S, K, H)."""
    keys, values, key_absmax, value_absmax = cache
    keys, values = keys.astype(dtype), values.astype(dtype)
    if key_absmax is not None and value_absmax is not None:
        keys *= jnp.astype(key_absmax / 127, dtype)
        values *= jnp.astype(value_absmax / 127, dtype)
    return jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2)


def _codes(x: Float[Array, '*rows H']) -> tuple[Array, Array]:
    """int8 codes, each the nearest, and what 127 stands for."""
    x = x.astype(jnp.float32)
    absmax = jnp.max(jnp.abs(x), -1, keepdims=True)
    scale = 127 / jnp.where(absmax > 0, absmax, 1)
    return jnp.round(x * scale).astype(jnp.int8), absmax


# The norms behind a product.
_NORMS: dict[str, tuple[str, ...]] = {
    'query': ('query_norm',),
    'key': ('key_norm',),
    joined.QKV: ('query_norm', 'key_norm'),
}


class _Attention(nn.Module):
    """The projections around the weighted sum."""

    arch: config.Architecture
    sharding: sharding_lib.Sharding
    train: bool = False

    def setup(self) -> None:
        arch = self.arch
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        weights = {}
        for name in self._projections():
            heads, axis = self._heads(name)
            shape, axes = (arch.D, heads, arch.H), ('embed', axis, 'head_dim')
            hidden = layers.hidden(arch)
            weights[name] = layers.weight(self, name, shape, axes, hidden)
            if arch.attention_bias != 'none':
                bias = f'{name}_bias'
                weights[bias] = layers.weight(self, bias, shape[1:], axes[1:], zeros)
            for norm in _NORMS.get(name, ()) if arch.norms.query_key else ():
                weights[norm] = layers.weight(
                    self, norm, (arch.H,), ('head_dim',), ones
                )
        shape, axes = (arch.N, arch.H, arch.D), ('heads', 'head_dim', 'embed')
        weights['out'] = layers.weight(self, 'out', shape, axes, layers.residual(arch))
        if arch.attention_bias == 'all':
            weights['out_bias'] = layers.weight(
                self, 'out_bias', (arch.D,), ('embed',), zeros
            )
        self.weights = weights
        self.dropout = nn.Dropout(arch.dropout, deterministic=not self.train)

    def _projections(self) -> tuple[str, ...]:
        """The names of the weights: of three products, or of one (`joined`)."""
        whole = self.has_variable('params', joined.QKV)
        return (joined.QKV,) if whole else ('query', 'key', 'value')

    def _heads(self, name: str) -> tuple[int, str]:
        N, K = self.arch.N, self.arch.K
        heads = {'query': N, joined.QKV: N + 2 * K}
        return heads.get(name, K), 'heads' if name == 'query' else 'kv_heads'

    def project_all(self, x_BTD: Float[Array, 'B T D']) -> list[Array]:
        """Queries (B, T, N, H), keys and values (B, T, K, H)."""
        names = ('query', 'key', 'value')
        if joined.QKV not in self.weights:
            return [self.project(name, x_BTD) for name in names]
        y_BTNH = self._product(joined.QKV, x_BTD)
        cuts = self.arch.N, self.arch.N + self.arch.K
        parts = jnp.split(y_BTNH, cuts, axis=2)
        return [self._normed(*pair) for pair in zip(names, parts, strict=True)]

    def project(
        self, name: str, x_BTD: Float[Array, 'B T D']
    ) -> Float[Array, 'B T heads H']:
        """Queries (N heads), or keys or values (K heads)."""
        return self._normed(name, self._product(name, x_BTD))

    def _product(self, name: str, x_BTD: Array) -> Array:
        y_BTNH = layers.einsum('BTD,DNH->BTNH', x_BTD, self.weights[name])
        if f'{name}_bias' in self.weights:
            y_BTNH = layers.biased(y_BTNH, self.weights[f'{name}_bias'])
        return y_BTNH

    def _normed(self, name: str, y_BTNH: Array) -> Array:
        _, axis = self._heads(name)
        y_BTNH = self.sharding.constrain(y_BTNH, 'batch', 'length', axis, 'head_dim')
        if f'{name}_norm' in self.weights:
            scale_H, eps = self.weights[f'{name}_norm'], self.arch.norms.eps
            wide_BTNH = y_BTNH.astype(jnp.float32)
            y_BTNH = layers.rms_norm(wide_BTNH, scale_H, eps).astype(y_BTNH.dtype)
        return y_BTNH

    def attend(
        self,
        q_BTNH: Float[Array, 'B T N H'],
        k_BSKH: Float[Array, 'B S K H'],
        v_BSKH: Float[Array, 'B S K H'],
        mask_BTS: Bool[Array, 'B T S'],
    ) -> Float[Array, 'B T D']:
        """The weighted sum of values, and the projection back to the model's width."""
        weights = attention_weights(q_BTNH, k_BSKH, mask_BTS)
        weights = self.dropout(weights).astype(q_BTNH.dtype)
        G = 'G' if self.arch.G > 1 else ''
        y_BTNH = jnp.einsum(f'BK{G}TS,BSKH->BTK{G}H', weights, v_BSKH)
        return self.leave(y_BTNH.reshape(q_BTNH.shape))

    def leave(self, y_BTNH: Float[Array, 'B T N H']) -> Float[Array, 'B T D']:
        """The projection back to the model's width."""
        y_BTNH = ad_checkpoint.checkpoint_name(y_BTNH, blocked.KEPT)
        # Its gradient lies so too: else XLA splits backward as the stream is split.
        y_BTNH = self.sharding.constrain(y_BTNH, 'batch', 'length', 'heads', 'head_dim')
        y_BTD = layers.einsum('BTNH,NHD->BTD', y_BTNH, self.weights['out'])
        if 'out_bias' in self.weights:
            y_BTD = layers.biased(y_BTD, self.weights['out_bias'])
        return y_BTD


class SelfAttention(_Attention):
    """A row looks at itself.

    Without a cache, the keys are those of the row. With one, they are written at
    `positions_BT` first, and the queries see the whole cache through the mask. `window`
    is how many tokens a query sees, itself included; 0 is all.
    """

    def __call__(
        self,
        x_BTD: Float[Array, 'B T D'],
        context: Context,
        window: int | Int[Array, ''],
        cache: LayerCache | None,
    ) -> tuple[Float[Array, 'B T D'], LayerCache | None]:
        q_BTNH, k_BSKH, v_BSKH = self.project_all(x_BTD)
        if context.turn is not None:
            q_BTNH = positions_lib.rotate(q_BTNH, context.turn)
            k_BSKH = positions_lib.rotate(k_BSKH, context.turn)
        if cache is not None:
            cache = write(cache, k_BSKH, v_BSKH, context.positions_BT[:, 0])
            k_BSKH, v_BSKH = read(cache, x_BTD.dtype)
        if context.kernel is not None:
            assert context.segments_BT is not None
            inputs = blocked.Inputs(q_BTNH, k_BSKH, v_BSKH, context.segments_BT)
            return self.leave(kernels.attend(context.kernel, inputs, window)), cache
        S, devices = k_BSKH.shape[1], self.sharding.mesh.size
        if cache is not None and split_kv.fits(self.arch, devices, q_BTNH, S):
            assert isinstance(window, int)
            place_B = context.positions_BT[:, 0]
            y_BTNH = split_kv.attend(q_BTNH, k_BSKH, v_BSKH, place_B, window)
            return self.leave(y_BTNH), cache
        mask_BTS, distance_bTS = context.mask_BTS, context.distance_bTS
        assert mask_BTS is not None
        if any(self.arch.windows):
            assert distance_bTS is not None
            near_bTS = jnp.abs(distance_bTS) < window
            mask_BTS &= near_bTS | (jnp.asarray(window) == 0)
        return self.attend(q_BTNH, k_BSKH, v_BSKH, mask_BTS), cache


class CrossAttention(_Attention):
    """A decoder's row looks at the encoder's: its output, or its keys and values."""

    def __call__(
        self,
        x_BTD: Float[Array, 'B T D'],
        context: Context,
        source: Float[Array, 'B S D'] | LayerCache,
    ) -> Float[Array, 'B T D']:
        q_BTNH = self.project('query', x_BTD)
        if isinstance(source, LayerCache):
            k_BSKH, v_BSKH = read(source, x_BTD.dtype)
        else:
            k_BSKH, v_BSKH = self.project('key', source), self.project('value', source)
        assert context.cross_mask_BTS is not None
        return self.attend(q_BTNH, k_BSKH, v_BSKH, context.cross_mask_BTS)

    def keys(self, source_BSD: Float[Array, 'B S D']) -> LayerCache:
        """The keys and values of the encoder's output, once for a whole decoding."""
        keys, values = (self.project(x, source_BSD) for x in ('key', 'value'))
        return LayerCache(jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2))
