"""A stack of layers: what encoders and decoders of all families are made of."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from gptjax import core, platforms
from gptjax import sharding as sharding_lib
from gptjax.model import attention, blocked, config, experts, layers, pipeline
from gptjax.model import positions as positions_lib

_BY_NAME = jax.checkpoint_policies.save_only_these_names
# Kernels of attention, which return statistics besides.
_KERNELS = ('dot_product_attention_fwd', 'pallas_call')


def _minimal(primitive: Any, *args: Any, **params: Any) -> Any:
    kept = _BY_NAME(layers.PRODUCT, blocked.KEPT)(primitive, *args, **params)
    return primitive.name in _KERNELS or kept


_REMAT = {
    'minimal': _minimal,
    'dots': _BY_NAME(layers.PRODUCT),
    'offload': jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[layers.PRODUCT],
        offload_src='device',
        offload_dst='pinned_host',
    ),
    'full': jax.checkpoint_policies.nothing_saveable,
}


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream, with a norm each.

    A decoder's block beside an encoder looks at `source` in between. Returns the
    stream, the cache with the new tokens, and the router's losses.
    """

    arch: config.Architecture
    sharding: sharding_lib.Sharding
    train: bool = False

    @nn.compact
    def __call__(
        self,
        x_BTD: Float[Array, 'B T D'],
        window: int | Int[Array, ''],
        context: attention.Context,
        source: Float[Array, 'B S D'] | attention.LayerCache | None = None,
        cache: attention.LayerCache | None = None,
    ) -> tuple[Float[Array, 'B T D'], tuple[attention.LayerCache | None, core.Metrics]]:
        modules = self.arch, self.sharding, self.train
        router: core.Metrics = {}
        with jax.named_scope('attention'):
            y_BTD = self._before('attention', x_BTD)
            y_BTD, cache = attention.SelfAttention(*modules, name='attention')(
                y_BTD, context, window, cache
            )
            x_BTD = self._after('attention', x_BTD, y_BTD)
        if source is not None:
            with jax.named_scope('cross'):
                y_BTD = self._before('cross', x_BTD)
                y_BTD = attention.CrossAttention(*modules, name='cross')(
                    y_BTD, context, source
                )
                x_BTD = self._after('cross', x_BTD, y_BTD)
        with jax.named_scope('mlp'):
            y_BTD = self._before('mlp', x_BTD)
            if self.arch.experts is None:
                y_BTD = layers.MLP(self.arch, self.sharding, name='mlp')(y_BTD)
            else:
                y_BTD, router = experts.Mixture(
                    self.arch, self.sharding, name='experts'
                )(y_BTD, context.real_BT)
            x_BTD = self._after('mlp', x_BTD, y_BTD)
        x_BTD = self.sharding.constrain(x_BTD, 'batch', 'length', None)
        return x_BTD, (cache, router)

    def _before(self, part: str, x_BTD: Array) -> Array:
        """What a branch reads."""
        if self.arch.norms.order == 'post':
            return x_BTD
        return layers.Norm(self.arch, name=f'{part}_norm')(x_BTD)

    def _after(self, part: str, x_BTD: Array, y_BTD: Array) -> Array:
        """The stream with the branch's result `y_BTD` added."""
        dropout = nn.Dropout(self.arch.dropout, deterministic=not self.train)
        x_BTD = x_BTD + dropout(y_BTD)
        if self.arch.norms.order == 'pre':
            return x_BTD
        return layers.Norm(self.arch, name=f'{part}_norm')(x_BTD)


class Stack(nn.Module):
    """Positions, token types, L layers stacked and scanned, and the last norm."""

    arch: config.Architecture
    compute: config.Compute
    sharding: sharding_lib.Sharding
    train: bool = False

    def setup(self) -> None:
        arch = self.arch
        normal = layers.normal(arch)
        if arch.positions.kind == 'learned':
            self.positions_TD = layers.weight(
                self,
                'positions',
                (arch.T + arch.positions.offset, arch.D),
                ('positions', 'embed'),
                normal,
            )
        if arch.types:
            self.types_CD = layers.weight(
                self, 'types', (arch.types, arch.D), ('classes', 'embed'), normal
            )
        if arch.norms.embedding:
            self.embedding_norm = layers.Norm(arch)
        block = Block
        if self.compute.remat != 'none':
            block = nn.remat(
                Block, policy=_REMAT[self.compute.remat], prevent_cse=False
            )
        self.blocks = nn.scan(
            block,
            variable_axes={'params': 0},
            split_rngs={'params': True, 'dropout': True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=arch.L,
            unroll=self._unroll(),
            metadata_params={nn.PARTITION_NAME: 'layers'},
        )(arch, self.sharding, self.train)
        if arch.norms.order == 'pre':
            self.norm = layers.Norm(arch)
        self.dropout = nn.Dropout(arch.dropout, deterministic=not self.train)

    def _unroll(self) -> int:
        """Layers in one iteration of the scan."""
        devices, L = self.sharding.mesh.devices, self.arch.L
        asked = self.compute.scan_unroll or platforms.unroll(
            devices.flat[0].platform, L, devices.size
        )
        return min(asked, L)

    def enter(
        self,
        x_BTD: Float[Array, 'B T D'],
        positions_BT: Int[Array, 'B T'],
        types_BT: Int[Array, 'B T'] | None = None,
    ) -> Float[Array, 'B T D']:
        """The residual stream of embedded tokens: positions and types are added."""
        arch = self.arch
        if arch.scale_embedding:
            x_BTD *= arch.D**0.5
        if arch.positions.kind == 'learned':
            index_BT = positions_BT + arch.positions.offset
            x_BTD += layers.lookup(self.positions_TD, index_BT, self.sharding)
        elif arch.positions.kind == 'sinusoidal':
            x_BTD += positions_lib.sinusoids(positions_BT, arch.D, arch.positions.base)
        if arch.types:
            zeros = jnp.zeros_like(positions_BT)
            types_BT = zeros if types_BT is None else types_BT
            x_BTD += layers.lookup(self.types_CD, types_BT, self.sharding)
        if arch.norms.embedding:
            x_BTD = self.embedding_norm(x_BTD)
        x_BTD = self.dropout(x_BTD).astype(self.compute.dtype)
        return self.sharding.constrain(x_BTD, 'batch', 'length', None)

    def run(
        self,
        x_BTD: Float[Array, 'B T D'],
        context: attention.Context,
        source_BSD: Float[Array, 'B S D'] | None = None,
    ) -> tuple[Float[Array, 'B T D'], core.Metrics]:
        """The stream after all layers and the last norm, and the router's losses."""
        windows_L = np.array([self.arch.window(i) for i in range(self.arch.L)])
        how = pipeline.plan(self.compute, self.sharding, len(x_BTD))
        with jax.named_scope('layers'):  # what slices and stacks of them leave
            losses: Any
            if how and not self.is_initializing():
                beside = context, source_BSD
                x_BTD, losses = self._over_stages(how, x_BTD, windows_L, beside)
            else:
                windows = jnp.asarray(windows_L)
                x_BTD, (_, router) = self.blocks(x_BTD, windows, context, source_BSD)
                losses = jax.tree.map(lambda per_layer: jnp.sum(per_layer, 0), router)
            return self.leave(x_BTD), losses

    def _over_stages(
        self, how: pipeline.Plan, x_BTD: Array, windows_L: np.ndarray, beside: Any
    ) -> tuple[Array, core.Metrics]:
        """The layers as `blocks` has them, over the mesh axis `stage`."""
        block = Block(self.arch, self.sharding, self.train, parent=None)

        def layer(weights: Any, *inputs: Any) -> tuple[Array, core.Metrics]:
            rngs = {} if inputs[-1] is None else {'dropout': inputs[-1]}
            applied: Any = block.apply({'params': weights}, *inputs[:-1], rngs=rngs)
            x_BTD, (_, router) = applied
            return x_BTD, router

        policy = _REMAT.get(self.compute.remat)
        if policy:
            layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
        x_BTD, router = pipeline.run(
            layer,
            policy,
            how,
            self._unroll(),
            self.sharding,
            self.variables['params']['blocks'],
            windows_L,
            x_BTD,
            beside,
            self.make_rng('dropout') if self.has_rng('dropout') else None,
        )
        return self.sharding.constrain(x_BTD, 'batch', 'length', None), router

    def leave(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
        """The last norm, of models that have one."""
        return self.norm(x_BTD) if self.arch.norms.order == 'pre' else x_BTD
