"""The one train step, for every stage; and its counterpart that only evaluates."""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gptjax import core
from gptjax import sharding as sharding_lib
from gptjax.train import freeze
from gptjax.train import guard as guard_lib
from gptjax.train import state as state_lib


def train_step(
    state: state_lib.State,
    frozen: Mapping[str, Any],
    batch: core.Batch,
    *,
    loss_fn: core.LossFn,
    optimizer: optax.GradientTransformation,
    accumulate: int,
    trained: freeze.Trained = freeze.EVERYTHING,
    running: Callable[[Any, Any], Any] | None = None,
    guard: guard_lib.Options | None = None,
    apart: sharding_lib.Sharding | None = None,
) -> tuple[state_lib.State, dict[str, jax.Array]]:
    """One update from one batch, in `accumulate` microbatches; pure.

    Weights of the loss are totalled over the whole batch before any gradient is taken:
    accumulation changes the order of sums and nothing else (dropout aside). Parameters
    that are not `trained` have no gradient and stay as they are. Returns the new state
    and means over the batch: `loss`, each term and metric, `gradient_norm`. With
    `running`, the loss reads frozen['running'], which this function of it and the means
    renews. With `guard`, what a bad step changes is the step and the guard's own count.
    With `apart`, gradients are summed over its data and slices once, at the end.
    """
    if running is not None:
        frozen = {**frozen, 'running': state.extra['running']}
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    # Weights depend on the batch alone, so XLA drops all else of this evaluation.
    totals = {
        name: weight
        for name, (_, weight) in loss_fn(
            state.params, frozen, batch, None
        ).terms.items()
    }

    def objective(
        part: core.Params, microbatch: core.Batch, key: jax.Array
    ) -> tuple[jax.Array, core.Loss]:
        with jax.named_scope('loss'):  # what the model's own stages leave of it
            loss = loss_fn(trained.put(state.params, part), frozen, microbatch, key)
        parts = [ratio(s, totals[name]) for name, (s, _) in loss.terms.items()]
        return sum(parts[1:], start=parts[0]), loss

    gradient: Any = jax.grad(objective, has_aux=True)
    part = trained.take(state.params)
    if apart is not None:
        gradient = functools.partial(_of_copies, gradient, apart)
    if accumulate == 1:
        grads, loss = gradient(part, batch, key)
    else:
        grads, loss = _accumulated(gradient, part, batch, key, accumulate)
    if apart is not None:
        grads, loss = jax.tree.map(lambda x: jnp.sum(x, 0), (grads, loss))
    with jax.named_scope('optimizer'):
        updates, opt_state = optimizer.update(grads, state.opt_state, part)
        new: dict[str, Any] = {
            'part': optax.apply_updates(part, updates),
            'opt_state': opt_state,
        }
        gradient_norm = optax.tree.norm(grads)
    metrics = means(loss)
    if running is not None:
        new['running'] = running(state.extra['running'], metrics)
    metrics['gradient_norm'] = gradient_norm
    extra = dict(state.extra)
    if guard is not None:
        old = {'part': part, 'opt_state': state.opt_state, **state.extra}
        with jax.named_scope('guard'):
            ok, extra['guard'] = guard_lib.judge(
                extra['guard'], metrics['loss'], gradient_norm, guard
            )
            new = guard_lib.keep(ok, new, {name: old[name] for name in new})
        metrics |= guard_lib.told(extra['guard'])
    if running is not None:
        extra['running'] = new['running']
    params = trained.put(state.params, new['part'])
    return (
        state_lib.State(state.step + 1, state.key, params, new['opt_state'], extra),
        metrics,
    )


def eval_step(
    params: core.Params,
    frozen: Mapping[str, Any],
    batch: core.Batch,
    *,
    loss_fn: core.LossFn,
) -> core.Loss:
    """The sums of one batch, without dropout and without an update."""
    return loss_fn(params, frozen, batch, None)


def means(loss: core.Loss) -> dict[str, jax.Array]:
    """Sums as means; `loss` is the sum of all terms."""
    parts = {**loss.terms, **loss.metrics}
    values = {name: ratio(*part) for name, part in parts.items()}
    terms = [values[name] for name in loss.terms]
    return {**values, 'loss': sum(terms[1:], start=terms[0])}


def ratio(total: jax.Array, weight: jax.Array) -> jax.Array:
    """total / weight, and 0 where nothing has weight."""
    return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1), 0.0)


def _of_copies(
    gradient: Any,
    sharding: sharding_lib.Sharding,
    params: core.Params,
    batch: core.Batch,
    key: jax.Array,
) -> tuple[core.Params, core.Loss]:
    """Gradients and losses of each copy of the weights, one after another in axis 0.

    Each copy has its rows and keeps its own gradient: in a loop, XLA would sum them
    over all copies in every iteration.
    """
    copies, axes = sharding.copies, sharding_lib.COPIES
    rows = jax.tree.map(lambda x: x.reshape(copies, -1, *x.shape[1:]), batch)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(copies))
    with sharding_lib.one_copy():
        run = jax.vmap(gradient, (None, 0, 0), spmd_axis_name=axes)
        return sharding.each_copy(run(params, rows, keys))


def _accumulated(
    gradient: Any, params: core.Params, batch: core.Batch, key: jax.Array, parts: int
) -> tuple[core.Params, core.Loss]:
    """Sums of gradients and of losses over microbatches, one after another.

    Microbatch i takes every `parts`-th row, so that each device keeps its own rows.
    """
    split = jax.tree.map(
        lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1),
        batch,
    )

    def one(carry: Any, inputs: tuple[Any, jax.Array]) -> tuple[Any, None]:
        microbatch, index = inputs
        new = gradient(params, microbatch, jax.random.fold_in(key, index))
        with jax.named_scope('accumulate'):
            return jax.tree.map(jnp.add, carry, new), None

    first = jax.tree.map(lambda x: x[0], split)
    shapes = jax.eval_shape(functools.partial(gradient, params), first, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(one, zeros, (split, jnp.arange(parts)))
    return total
