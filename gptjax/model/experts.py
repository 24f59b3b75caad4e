"""A mixture of experts in place of the MLP (Shazeer et al., 2017; Jiang et al., 2024).

Each token goes to its k likeliest experts, and no token is ever dropped: the rows of a
device are sorted by expert and met by the experts' weights in one grouped product.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from gptjax import core
from gptjax import sharding as sharding_lib
from gptjax.model import config, layers


class Mixture(nn.Module):
    """The router and the experts, which are MLPs without biases."""

    arch: config.Architecture
    sharding: sharding_lib.Sharding

    @nn.compact
    def __call__(
        self, x_BTD: Float[Array, 'B T D'], real_BT: Bool[Array, 'B T']
    ) -> tuple[Float[Array, 'B T D'], core.Metrics]:
        arch = self.arch
        assert arch.experts is not None
        D, F, E = arch.D, arch.F, arch.experts.E
        hidden, wide = layers.hidden(arch), ('experts', 'embed', 'mlp')
        router = layers.weight(
            self, 'router', (D, E), ('embed', 'experts'), layers.output(arch)
        )
        weights = {'up': layers.weight(self, 'up', (E, D, F), wide, hidden)}
        if arch.gated:
            weights['gate'] = layers.weight(self, 'gate', (E, D, F), wide, hidden)
        weights['down'] = layers.weight(
            self, 'down', (E, F, D), ('experts', 'mlp', 'embed'), layers.residual(arch)
        )
        logits_BTE = layers.einsum('BTD,DE->BTE', x_BTD.astype(jnp.float32), router)
        shares_BTE = jax.nn.softmax(logits_BTE, axis=-1)
        share_BTk, chosen_BTk = jax.lax.top_k(shares_BTE, arch.experts.k)
        share_BTk /= jnp.sum(share_BTk, -1, keepdims=True)
        y_BTD = self._apply(x_BTD, chosen_BTk, share_BTk.astype(x_BTD.dtype), weights)
        return y_BTD, _losses(arch, logits_BTE, shares_BTE, chosen_BTk, real_BT)

    def _apply(
        self, x_BTD: Array, chosen_BTk: Array, share_BTk: Array, weights: dict
    ) -> Array:
        """Each device serves the tokens that lie on it, with its part of the MLPs."""
        spec = self.sharding.spec
        rows = spec(('batch', None, None))
        places = {name: spec((None, None, 'mlp')) for name in weights}
        places['down'] = spec((None, 'mlp', None))
        return jax.shard_map(
            functools.partial(_serve, self.arch, spec(('batch',)), spec(('mlp',))),
            mesh=self.sharding.mesh,
            in_specs=(rows, rows, rows, places),
            out_specs=rows,
        )(x_BTD, chosen_BTk, share_BTk, weights)


def _serve(
    arch: config.Architecture,
    rows: P,
    split: P,
    x_BTD: Array,
    chosen_BTk: Array,
    share_BTk: Array,
    weights: dict[str, Array],
) -> Array:
    """The tokens of one device through their experts.

    rows, split: the mesh axes of tokens and of F. What is the same along one of them
    is marked as varying there, so that its gradient is summed over it.
    """
    assert arch.experts is not None
    B, T, D = x_BTD.shape
    k = arch.experts.k
    x_BTD = _varying(x_BTD, split)
    weights = {name: _varying(weight, rows) for name, weight in weights.items()}
    order = jnp.argsort(chosen_BTk.ravel())
    sizes_E = jnp.bincount(chosen_BTk.ravel(), length=arch.experts.E)
    x_MD = x_BTD.reshape(B * T, D)[order // k]
    activate = functools.partial(layers.activate, arch.activation)
    y_MF = layers.grouped(x_MD, weights['up'], sizes_E)
    if arch.gated:
        y_MF *= activate(layers.grouped(x_MD, weights['gate'], sizes_E))
    else:
        y_MF = activate(y_MF)
    y_MD = layers.grouped(y_MF, weights['down'], sizes_E)
    y_MD *= share_BTk.ravel()[order, None]
    y_BTkD = jnp.zeros_like(y_MD).at[order].set(y_MD).reshape(B, T, k, D)
    y_BTD = jnp.sum(y_BTkD, axis=2)
    return jax.lax.psum(y_BTD, _names(split)) if _names(split) else y_BTD


def _names(spec: P) -> tuple[str, ...]:
    """The mesh axes of a spec of one dimension."""
    (axes,) = spec
    return (axes,) if isinstance(axes, str) else tuple(axes or ())


def _varying(x: Array, spec: P) -> Array:
    return jax.lax.pcast(x, _names(spec), to='varying') if _names(spec) else x


def _losses(
    arch: config.Architecture,
    logits_BTE: Float[Array, 'B T E'],
    shares_BTE: Float[Array, 'B T E'],
    chosen_BTk: Array,
    real_BT: Bool[Array, 'B T'],
) -> core.Metrics:
    """Load balance of each row, and the z-loss: sums with weights, coefficients in.

    Balance is E sum_e f_e P_e (Fedus et al., 2022, equation 4), f_e the part of the
    row's tokens that chose expert e and P_e its mean share; even routing gives k.
    The z-loss is the mean of logsumexp(logits)^2 (Zoph et al., 2022, equation 5).
    """
    assert arch.experts is not None
    E = arch.experts.E
    real_BT1 = real_BT[..., None].astype(jnp.float32)
    tokens_B = jnp.sum(real_BT1, (1, 2))
    some_B1 = jnp.maximum(tokens_B, 1)[:, None]
    choices_BTE = jnp.sum(jax.nn.one_hot(chosen_BTk, E), axis=2)
    fraction_BE = jnp.sum(choices_BTE * real_BT1, 1) / some_B1
    share_BE = jnp.sum(shares_BTE * real_BT1, 1) / some_B1
    balance_B = E * jnp.sum(fraction_BE * share_BE, -1)
    z_BT = jnp.square(jax.nn.logsumexp(logits_BTE, -1)) * real_BT
    rows = jnp.sum(tokens_B > 0).astype(jnp.float32)
    return {
        'balance': (arch.experts.balance * jnp.sum(balance_B * (tokens_B > 0)), rows),
        'router_z': (arch.experts.z * jnp.sum(z_BT), jnp.sum(tokens_B)),
    }
