"""A mixture of experts in place of the MLP (Shazeer et al., 2017; Jiang et al., 2024).

Each token goes to its k likeliest experts, and no token is ever dropped: the rows of a
device are sorted by expert and met by the experts' weights in one grouped product.
Where experts are split over devices, rows travel to those that hold theirs, and back.
"""

import functools
import math
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from gptjax import core
from gptjax import sharding as sharding_lib
from gptjax.model import config, layers, pipeline

# Over the even share, what a device can send another in one round. A round more costs
# what the first does, so this is what an unevenness of 5 to 4 may cost in memory.
SPARE = 1.25


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
        self.sharding.named(('experts',), (E,))  # says so where they do not divide
        hidden, wide = layers.hidden(arch), ('experts', 'embed', 'mlp')
        router = layers.weight(
            self, 'router', (D, E), ('embed', None), layers.output(arch)
        )
        weights = {'up': layers.weight(self, 'up', (E, D, F), wide, hidden)}
        if arch.gated:
            weights['gate'] = layers.weight(self, 'gate', (E, D, F), wide, hidden)
        weights['down'] = layers.weight(
            self, 'down', (E, F, D), ('experts', 'mlp', 'embed'), layers.residual(arch)
        )
        logits_BTE = layers.einsum('BTD,DE->BTE', x_BTD.astype(jnp.float32), router)
        logits_BTE = self.sharding.constrain(logits_BTE, 'batch', 'length', None)
        shares_BTE = jax.nn.softmax(logits_BTE, axis=-1)
        share_BTk, chosen_BTk = self._best(shares_BTE, arch.experts.k)
        share_BTk /= jnp.sum(share_BTk, -1, keepdims=True)
        y_BTD = self._apply(x_BTD, chosen_BTk, share_BTk.astype(x_BTD.dtype), weights)
        return y_BTD, _losses(arch, logits_BTE, shares_BTE, chosen_BTk, real_BT)

    def _best(self, shares_BTE: Array, k: int) -> tuple[Array, ...]:
        """`top_k` of each device's own tokens: XLA brings those of all to each."""
        rows = self.sharding.spec(('batch', 'length', None), shares_BTE.shape)
        return jax.shard_map(
            lambda x_BTE: tuple(jax.lax.top_k(x_BTE, k)),
            mesh=self.sharding.mesh,
            in_specs=rows,
            out_specs=rows,
        )(shares_BTE)

    def _apply(
        self, x_BTD: Array, chosen_BTk: Array, share_BTk: Array, weights: dict
    ) -> Array:
        """Each device serves the tokens that lie on it, with its part of the MLPs.

        Its own experts, or with a mesh axis for experts those of others too: see
        `_exchanged`. Of rows that are split over devices, it has all that `mlp` splits.
        """
        run: Any = functools.partial(self._over, ())
        if self.sharding.mesh.shape[pipeline.AXIS] > 1:
            # A loop of rounds that vmap batches has types that do not fit (JAX 0.10.2).
            run = jax.custom_batching.custom_vmap(run)
            stages = functools.partial(self._over, (pipeline.AXIS,))

            @run.def_vmap
            def _(size: int, batched: Any, *inputs: Any) -> tuple[Array, bool]:
                # Copies of the weights, outside of the stages, do not get here.
                assert size == self.sharding.mesh.shape[pipeline.AXIS]
                assert all(jax.tree.leaves(batched))
                return stages(*inputs), True

        return run(x_BTD, chosen_BTk, share_BTk, weights)

    def _over(
        self,
        stage: tuple[str, ...],
        x_BTD: Array,
        chosen_BTk: Array,
        share_BTk: Array,
        weights: dict,
    ) -> Array:
        """`stage`: the mesh axis that lies in front of all arrays, where there is one.

        A device has one of it, which `_serve` counts among its rows.
        """
        spec = self.sharding.spec
        batch, length, split = spec(('batch', 'length', 'mlp'), x_BTD.shape[-3:])
        rows = P(*stage, batch, length, None)
        places = {name: P(*stage, *spec(('experts', None, 'mlp'))) for name in weights}
        places['down'] = P(*stage, *spec(('experts', 'mlp', None)))
        tokens = _names(batch) + _names(length)
        place = _Place(tokens, _names(split), _names(spec(('experts',))[0]))
        return jax.shard_map(
            functools.partial(_serve, self.arch, place),
            mesh=self.sharding.mesh,
            in_specs=(rows, rows, rows, places),
            out_specs=rows,
        )(x_BTD, chosen_BTk, share_BTk, weights)


class _Place(NamedTuple):
    """The mesh axes that tokens, the width F and experts are split over."""

    tokens: tuple[str, ...]
    mlp: tuple[str, ...]
    experts: tuple[str, ...]  # some of `tokens`


def _serve(
    arch: config.Architecture,
    place: _Place,
    x_BTD: Array,
    chosen_BTk: Array,
    share_BTk: Array,
    weights: dict[str, Array],
) -> Array:
    """The tokens of one device through their experts.

    What is the same along a mesh axis of the rest is marked as varying there, so that
    its gradient is summed over it.
    """
    D = x_BTD.shape[-1]
    x_nD = _varying(x_BTD.reshape(-1, D), place.mlp)
    others = tuple(name for name in place.tokens if name not in place.experts)
    weights = {
        name: _varying(weight.reshape(weight.shape[-3:]), others)
        for name, weight in weights.items()
    }
    E = weights['up'].shape[0] * _devices(place)
    order = jnp.argsort(chosen_BTk.ravel())
    sizes_E = jnp.bincount(chosen_BTk.ravel(), length=E)
    if _devices(place) > 1:
        route = _route(arch, place, order, sizes_E)
        y_MD = _exchanged(arch, place, x_nD, weights, route)
    else:
        y_MD = _mlps(arch, x_nD[order // chosen_BTk.shape[-1]], weights, sizes_E)
        y_MD = jnp.zeros_like(y_MD).at[order].set(y_MD)
    y_BTkD = y_MD.reshape(*chosen_BTk.shape, D) * share_BTk[..., None]
    y_BTD = jnp.sum(y_BTkD, axis=-2)
    return jax.lax.psum(y_BTD, place.mlp) if place.mlp else y_BTD


def _mlps(
    arch: config.Architecture, x_MD: Array, weights: dict[str, Array], sizes_E: Array
) -> Array:
    """Rows sorted by expert through the MLPs of their experts."""
    activate = functools.partial(layers.activate, arch.activation)
    y_MF = layers.grouped(x_MD, weights['up'], sizes_E)
    if arch.gated:
        y_MF *= activate(layers.grouped(x_MD, weights['gate'], sizes_E))
    else:
        y_MF = activate(y_MF)
    return layers.grouped(y_MF, weights['down'], sizes_E)


class _Route(NamedTuple):
    """Where the rows of a device go, a row being a token for one of its k experts.

    In a round, a device sends at most C rows to each of P devices, itself included: as
    many rounds as the fullest pair needs bring every row to its expert.
    """

    order_M: Array  # rows by expert: index // k is the token
    first_P: Array  # in that order, of the rows for each device
    sent_P: Array
    got_Pe: Array  # rows from each device for each of the experts that lie here
    rounds: Array  # the same on all devices


def _route(
    arch: config.Architecture, place: _Place, order: Array, sizes_E: Array
) -> _Route:
    sizes_Pe = sizes_E.reshape(_devices(place), -1)
    sent_P = jnp.sum(sizes_Pe, 1)
    rounds = -(-jnp.max(sent_P) // _capacity(order.size, place))
    return _Route(
        order,
        jnp.cumsum(sent_P) - sent_P,
        sent_P,
        _swap(sizes_Pe, place),
        jax.lax.pmax(rounds, place.tokens),
    )


def _capacity(M: int, place: _Place) -> int:
    """Rows from one device to another in a round: the even share and some more."""
    return min(M, math.ceil(SPARE * M / _devices(place)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _exchanged(
    arch: config.Architecture,
    place: _Place,
    x_nD: Array,
    weights: dict[str, Array],
    route: _Route,
) -> Array:
    """What the experts make of each token, for each of its k: (n k, D).

    Rows travel to the devices of their experts and back, all to all. Rounds after the
    first, which are for routers that are far from even, leave nothing for backward:
    that has them again.
    """
    return _exchanged_forward(arch, place, x_nD, weights, route)[0]


def _exchanged_forward(
    arch: config.Architecture, place: _Place, x_nD: Array, weights: Any, route: _Route
) -> tuple[Array, Any]:
    run = functools.partial(_round, arch, place, route)
    y_MD, first = jax.vjp(functools.partial(run, 0), x_nD, weights)

    def more(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        number, y_MD = carry
        return number + 1, y_MD + run(number, x_nD, weights)

    _, y_MD = jax.lax.while_loop(
        lambda carry: carry[0] < route.rounds, more, (jnp.int32(1), y_MD)
    )
    return y_MD, (first, x_nD, weights, route)


def _exchanged_backward(
    arch: config.Architecture, place: _Place, saved: Any, dy_MD: Array
) -> tuple[Array, dict[str, Array], None]:
    first, x_nD, weights, route = saved

    def more(carry: Any) -> Any:
        number, gradients = carry
        run = functools.partial(_round, arch, place, route, number)
        new = jax.vjp(run, x_nD, weights)[1](dy_MD)
        return number + 1, jax.tree.map(jnp.add, gradients, new)

    _, (dx_nD, dweights) = jax.lax.while_loop(
        lambda carry: carry[0] < route.rounds, more, (jnp.int32(1), first(dy_MD))
    )
    return dx_nD, dweights, None


_exchanged.defvjp(_exchanged_forward, _exchanged_backward)


def _round(
    arch: config.Architecture,
    place: _Place,
    route: _Route,
    number: int | Array,
    x_nD: Array,
    weights: dict[str, Array],
) -> Array:
    """The results (n k, D) of the rows that travel in a round, and 0 for the others."""
    M, n, C = route.order_M.size, x_nD.shape[0], _capacity(route.order_M.size, place)
    rank_C = number * C + jnp.arange(C)
    real_PC = rank_C < route.sent_P[:, None]
    row_PC = route.order_M[jnp.where(real_PC, route.first_P[:, None] + rank_C, 0)]
    x_PCD = jnp.where(real_PC[..., None], x_nD[row_PC // (M // n)], 0)
    x_PCD = _swap(x_PCD, place)
    # Of what comes from a device, rows up to ends[e] are for the experts up to e.
    ends_Pe = jnp.cumsum(route.got_Pe, 1)
    expert_PC = jnp.sum(rank_C[:, None] >= ends_Pe[:, None], -1)  # e + 1 behind the end
    order = jnp.argsort(expert_PC.ravel())
    sizes_e = jnp.bincount(expert_PC.ravel(), length=ends_Pe.shape[1])
    y = _mlps(arch, x_PCD.reshape(-1, x_nD.shape[1])[order], weights, sizes_e)
    y_PCD = jnp.zeros_like(y).at[order].set(y).reshape(x_PCD.shape)
    y_PCD = jnp.where(real_PC[..., None], _swap(y_PCD, place), 0)
    return jnp.zeros((M, y.shape[1]), y.dtype).at[row_PC].add(y_PCD)


def _swap(x: Array, place: _Place) -> Array:
    """Part p of the first axis goes to device p."""
    return jax.lax.all_to_all(x, place.experts, 0, 0)


def _devices(place: _Place) -> int:
    return math.prod(jax.lax.axis_size(name) for name in place.experts)


def _names(axes: Any) -> tuple[str, ...]:
    """The mesh axes of one dimension of a spec."""
    return (axes,) if isinstance(axes, str) else tuple(axes or ())


def _varying(x: Array, names: tuple[str, ...]) -> Array:
    return jax.lax.pcast(x, names, to='varying') if names else x


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
