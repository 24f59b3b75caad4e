"""Optimizers: the gradient is clipped, scaled, decay is added, the schedule multiplies.

Decay is decoupled (Loshchilov and Hutter, 2019) in all of them: rate x weight_decay x
weight. `decay` names the roles of weights it falls on (`roles.ROLES`); None is all but
biases and norm scales. Arrays of an optimizer's state that have the shape of a
parameter lie as it does on a mesh; what is smaller by a dimension lies everywhere.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gptjax import command, core, trees
from gptjax.train import roles, schedules


def adamw(
    schedule: schedules.Schedule,
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
    mu_dtype: str = 'float32',
    nu_dtype: str = 'float32',
    decay: Sequence[str] | None = None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, 2019) after clipping by the global norm.

    Moments take 8 bytes a parameter, 6 with mu_dtype='bfloat16', 4 with both. nu in
    bfloat16 needs b2 below 1 - 2^-8: a smaller step is rounded off, and nu stands.
    """
    if nu_dtype == 'bfloat16' and 1 - b2 <= 2**-8:
        raise command.UserError(
            f'optimizer.nu_dtype is bfloat16 and optimizer.b2 {b2}: steps of 1 - b2 '
            'would be rounded off; set b2 to at most 0.99, or nu_dtype to float32.'
        )
    inner = optax.scale_by_adam(b1, b2, eps, mu_dtype=dtype('mu_dtype', mu_dtype))
    stored = dtype('nu_dtype', nu_dtype)

    def kept(state: Any, dtype: Any) -> Any:
        return state._replace(nu=optax.tree.cast(state.nu, dtype))

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(grads, kept(state, jnp.float32), params)
        return updates, kept(state, stored)

    adam = optax.GradientTransformation(lambda p: kept(inner.init(p), stored), update)
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.chain(adam, *ending(schedule, weight_decay, decay)),
    )


def adam_tf(
    schedule: schedules.Schedule,
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
    decay: Sequence[str] | None = None,
) -> optax.GradientTransformation:
    """`adamw` with eps where TensorFlow 1 has it, as the first RLHF did.

    -rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps) (Kingma and Ba, 2015, end of
    section 2): beside a v that is not yet corrected, eps weighs more in early steps.
    """

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = state.count + 1
        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        nu = optax.tree.update_moment(grads, state.nu, b2, 2)
        rate = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: rate * m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.GradientTransformation(optax.scale_by_adam().init, update),
        *ending(schedule, weight_decay, decay),
    )


def lion(
    schedule: schedules.Schedule,
    *,
    b1: float,
    b2: float,
    weight_decay: float,
    clip_norm: float,
    mu_dtype: str = 'float32',
    decay: Sequence[str] | None = None,
) -> optax.GradientTransformation:
    """Lion (Chen et al., 2023): the sign of an average; one moment.

    Its authors take a learning rate 3 to 10 times below AdamW's, and as much more
    decay.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.scale_by_lion(b1, b2, mu_dtype=dtype('mu_dtype', mu_dtype)),
        *ending(schedule, weight_decay, decay),
    )


def sgd(
    schedule: schedules.Schedule,
    *,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    clip_norm: float,
    decay: Sequence[str] | None = None,
) -> optax.GradientTransformation:
    """m = momentum m + g, and the step is m, or of `nesterov` g + momentum m."""
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.trace(momentum, nesterov),
        *ending(schedule, weight_decay, decay),
    )


class Factors(NamedTuple):
    """Means of squares over outputs and over inputs; in a tree, one leaf."""

    rows: Any
    columns: Any


class AdafactorState(NamedTuple):
    """A moment for each parameter: Factors of a matrix, itself of a vector."""

    count: Any
    moments: Any


def adafactor(
    schedule: schedules.Schedule,
    *,
    decay_rate: float,
    threshold: float,
    parameter_scale: bool,
    weight_decay: float,
    clip_norm: float,
    decay: Sequence[str] | None = None,
) -> optax.GradientTransformation:
    """Adafactor (Shazeer and Stern, 2018, algorithm 4), without a first moment.

    The moment of a matrix of m x n is m + n numbers. b2 is 1 - step^-decay_rate; the
    root mean square of an update is at most `threshold`, and with `parameter_scale` it
    counts times that of the weights. optax's would average over the layers of a stack,
    and keep heads of under 128 whole; here each layer's matrix is one, heads joined.
    """

    def init(params: Any) -> AdafactorState:
        def moment(path: str, p: Any) -> Any:
            x = roles.matrices(path, p)
            if not _factored(path, x):
                return jnp.zeros(p.shape, jnp.float32)
            lead, (m, n) = x.shape[:-2], x.shape[-2:]
            return Factors(jnp.zeros((*lead, m)), jnp.zeros((*lead, n)))

        return AdafactorState(jnp.int32(0), trees.map_with_path(moment, params))

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = state.count + 1
        b2 = 1 - count.astype(jnp.float32) ** -decay_rate

        def one(path: str, g: Any, old: Any, p: Any) -> tuple[Any, Any]:
            x, sizes = roles.matrices(path, g), roles.matrices(path, p)
            new: Any
            if isinstance(old, Factors):
                new, step = _factors(old, x, b2)
            else:
                new = b2 * old + (1 - b2) * (jnp.square(g) + 1e-30)
                step = x / jnp.sqrt(new.reshape(x.shape))
            step /= jnp.maximum(1, _rms(step) / threshold)
            if parameter_scale:
                step *= jnp.maximum(1e-3, _rms(sizes))
            return step.reshape(g.shape), new

        flat = dict(trees.paths(grads))
        olds = dict(trees.paths(state.moments, lambda x: isinstance(x, Factors)))
        weights = dict(trees.paths(params))
        done = {p: one(p, g, olds[p], weights[p]) for p, g in flat.items()}
        updates, moments = (
            trees.map_with_path(lambda path, _, i=i: done[path][i], grads)
            for i in range(2)
        )
        return updates, AdafactorState(count, moments)

    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.GradientTransformation(init, update),
        *ending(schedule, weight_decay, decay),
    )


def _factored(path: str, matrix: jax.Array) -> bool:
    return roles.of(path) not in ('norms', 'biases') and min(matrix.shape[-2:]) > 1


def _factors(old: Factors, x: jax.Array, b2: Any) -> tuple[Factors, jax.Array]:
    """The new means, and x over the root of their moment (equation 4 of the paper).

    One factor after the other: where a row and a column of zeros meet, the moment is
    below float32's range, and 0 / 0 is no update.
    """
    squares = jnp.square(x) + 1e-30
    rows = b2 * old.rows + (1 - b2) * jnp.mean(squares, -1)
    columns = b2 * old.columns + (1 - b2) * jnp.mean(squares, -2)
    by_row = jax.lax.rsqrt(rows) * jnp.sqrt(jnp.mean(rows, -1, keepdims=True))
    step = x * by_row[..., None] * jax.lax.rsqrt(columns)[..., None, :]
    return Factors(rows, columns), step


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x), (-2, -1), keepdims=True))


class Averaged(NamedTuple):
    """The state of an optimizer, and an average of the weights that it trains."""

    inner: Any
    count: Any
    ema: Any


def averaged(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """The optimizer with an exponential moving average of the weights it makes.

    After update n it keeps the part min(decay, (1 + n) / (10 + n)) of what it was, so
    that early weights, which are far away, do not stay in it.
    """

    def init(params: Any) -> Averaged:
        copied = jax.tree.map(jnp.copy, params)
        return Averaged(optimizer.init(params), jnp.int32(0), copied)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, inner = optimizer.update(grads, state.inner, params)
        n = state.count.astype(jnp.float32) + 1
        kept = jnp.minimum(decay, (1 + n) / (10 + n))
        new = optax.apply_updates(params, updates)
        ema = jax.tree.map(lambda old, p: p + kept * (old - p), state.ema, new)
        return updates, Averaged(inner, state.count + 1, ema)

    return optax.GradientTransformation(init, update)


def ending(
    schedule: schedules.Schedule, weight_decay: float, decay: Sequence[str] | None
) -> tuple[optax.GradientTransformation, ...]:
    """Decay of the roles in `decay`, and the learning rate: what all end with."""
    if decay is not None:
        roles.check('optimizer.decay', decay)

    def falls(params: core.Params) -> core.Params:
        return trees.map_with_path(
            lambda path, _: (
                not path.endswith(('bias', 'scale'))
                if decay is None
                else roles.of(path) in decay
            ),
            params,
        )

    return (
        optax.add_decayed_weights(weight_decay, mask=falls),
        optax.scale_by_learning_rate(schedule),
    )


def narrowed(
    optimizer: optax.GradientTransformation, shrink: float, power: float
) -> optax.GradientTransformation:
    """muP: products of the width move less far in wider models.

    Adam's by `shrink` (Yang et al., 2021, table 8), as its update of a matrix adds up
    over the inputs. An orthogonal one of the same root mean square does not: its
    largest singular value grows with the root of the width, and `power` is 1/2 (Yang et
    al., 2023, condition 1). Embeddings, norms and biases move as they are. What decays
    shrinks alike: a decay of the same strength in wider models needs more weight_decay.
    """

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return trees.map_with_path(narrow, updates), state

    def narrow(path: str, x: Any) -> Any:
        role = roles.of(path)
        if role in ('products', 'experts'):
            return x * shrink**power
        inside = role == 'head' and not path.endswith('unembed')
        return x * shrink if inside or role == 'router' else x

    return optax.GradientTransformation(optimizer.init, update)


def dtype(name: str, given: str) -> Any:
    types = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
    return command.lookup(types, given, f'type for optimizer.{name}')
