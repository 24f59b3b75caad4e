"""Muon and NorMuon: each matrix of a layer moves along an orthogonal one.

Their weights are those of the roles products and experts; AdamW trains the others. An
update's root mean square is 0.2 in every shape, about that of AdamW, so that its
learning rate and decay carry over (Liu et al., 2025, section 2.2); the factor
sqrt(max(1, outputs / inputs)) of Jordan (2024) would need a rate of its own.

A Newton-Schulz iteration of an m x n matrix, m <= n, is 4 m^2 n + 2 m^3 operations. Of
a step of B tokens, 6 m n B, five are about 5 m / B: 5 % from 100 m tokens on. Matrices
are in a batch over the layers, and split over a mesh as the weights are: the products
are shared by the devices, which gather rows and add sums of m x m.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float
import optax

from gptjax import core, trees
from gptjax.train import optim, roles, schedules

_COEFFICIENTS = 3.4445, -4.7750, 2.0315  # Jordan (2024): the steepest at 0
_ITERATIONS = 5
_RMS = 0.2


def muon(
    schedule: schedules.Schedule,
    *,
    momentum: float,
    nesterov: bool,
    adam_ratio: float,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
    neuron_b2: float | None = None,
    mu_dtype: str = 'float32',
    decay: Sequence[str] | None = None,
) -> optax.GradientTransformation:
    """Muon (Jordan, 2024): of m = momentum m + g, the nearest orthogonal matrix.

    With `nesterov` that of g + momentum m. adam_ratio: AdamW's learning rate for the
    other weights, as a multiple of the schedule's; b1, b2 and eps are AdamW's. With
    `neuron_b2` it is NorMuon (Li et al., 2025, algorithm 1): what leads to each output
    is divided by the root of a mean of its squares over steps.
    """
    dtype = optim.dtype('mu_dtype', mu_dtype)
    adam = optax.chain(
        optax.scale_by_adam(b1, b2, eps, mu_dtype=dtype), optax.scale(adam_ratio)
    )
    own = _scale_by_muon(momentum, nesterov, neuron_b2, dtype)
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.partition({'muon': own, 'adam': adam}, _kinds),
        *optim.ending(schedule, weight_decay, decay),
    )


class MuonState(NamedTuple):
    """mu: averages of gradients. nu: of NorMuon, squares of each output, else ()."""

    mu: Any
    nu: Any


def _kinds(params: core.Params) -> core.Params:
    return trees.map_with_path(
        lambda path, _: 'muon' if roles.of(path) in ('products', 'experts') else 'adam',
        params,
    )


def _scale_by_muon(
    momentum: float, nesterov: bool, neuron_b2: float | None, dtype: Any
) -> optax.GradientTransformation:
    def init(params: Any) -> MuonState:
        def outputs(path: str, p: Any) -> Any:
            return jnp.zeros_like(roles.matrices(path, p)[..., 0, :])

        mu = optax.tree.zeros_like(params, dtype=dtype)
        nu = () if neuron_b2 is None else trees.map_with_path(outputs, params)
        return MuonState(mu, nu)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        mu = optax.tree.cast(state.mu, jnp.float32)
        mu = jax.tree.map(lambda g, m: momentum * m + g, grads, mu)
        ahead = mu
        if nesterov:
            ahead = jax.tree.map(lambda g, m: g + momentum * m, grads, mu)
        steps = trees.map_with_path(
            lambda path, x: orthogonal(roles.matrices(path, x)), ahead
        )
        nu = state.nu
        if neuron_b2 is None:
            steps = jax.tree.map(lambda o: o * _RMS * max(o.shape[-2:]) ** 0.5, steps)
        else:
            nu = jax.tree.map(
                lambda o, v: (
                    neuron_b2 * v + (1 - neuron_b2) * jnp.mean(jnp.square(o), -2)
                ),
                steps,
                nu,
            )
            steps = jax.tree.map(_even, steps, nu)
        updates = jax.tree.map(lambda o, g: o.reshape(g.shape), steps, grads)
        return updates, MuonState(optax.tree.cast(mu, dtype), nu)

    return optax.GradientTransformation(init, update)


def _even(o: jax.Array, v: jax.Array) -> jax.Array:
    """Outputs divided by the roots of their `v`, at the root mean square _RMS."""
    o /= jnp.sqrt(v)[..., None, :] + 1e-8
    size = jnp.sqrt(jnp.mean(jnp.square(o), (-2, -1), keepdims=True))
    return _RMS * o / (size + 1e-8)


def orthogonal(x: Float[Array, '... M N']) -> Float[Array, '... M N']:
    """About U V^T of x = U S V^T, by Newton-Schulz (Jordan, 2024).

    Singular values come out between 0.68 and 1.21, but for those that were under 0.0015
    of the norm of x. In bfloat16, on CPU in float32.
    """
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x /= jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7

    def run(x: Array, dtype: Any) -> Array:
        a, b, c = _COEFFICIENTS
        x = x.astype(dtype)
        for _ in range(_ITERATIONS):
            gram = x @ x.mT
            x = a * x + (b * gram + c * (gram @ gram)) @ x
        return x.astype(jnp.float32)

    x = lax.platform_dependent(
        x,
        cpu=lambda x: run(x, jnp.float32),
        default=lambda x: run(x, jnp.bfloat16),
    )
    return x if wide else x.mT
