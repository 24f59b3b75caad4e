"""The state of a run: everything that a step changes, and where it lies."""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from gptjax import core
from gptjax import sharding as sharding_lib
from gptjax.train import freeze


class State(NamedTuple):
    """What a step takes and gives, all of it in the checkpoint.

    The row of the data stream is a 64-bit integer of the host, kept by the loop and in
    the checkpoint beside this.
    """

    step: Any  # int32; like the rest an array, its shape, or its sharding
    key: Any  # uint32[2], the data of a threefry key
    params: core.Params
    opt_state: Any
    extra: dict[str, Any]  # running statistics, an open rollout; {} in most runs


def create(
    params: core.Params,
    optimizer: optax.GradientTransformation,
    seed: int,
    shardings: State,
    trained: freeze.Trained = freeze.EVERYTHING,
    extra: dict[str, Any] | None = None,
) -> State:
    """The state at step 0, each array born where `shardings` puts it."""
    init = jax.jit(
        lambda params: optimizer.init(trained.take(params)),
        out_shardings=shardings.opt_state,
    )
    opt_state = init(params)
    step, key = jax.device_put(
        (jnp.int32(0), jax.random.key_data(jax.random.key(seed))),
        (shardings.step, shardings.key),
    )
    extra = jax.device_put(extra or {}, shardings.extra)
    return State(step, key, params, opt_state, extra)


def shardings_of(
    boxed: core.Params,
    optimizer: optax.GradientTransformation,
    sharding: sharding_lib.Sharding,
    trained: freeze.Trained = freeze.EVERYTHING,
    extra: dict[str, Any] | None = None,
) -> tuple[State, State]:
    """(shapes, shardings) of the state; optimizer moments lie as their parameters do.

    Those of another shape, as of a matrix's rows alone, are small and lie everywhere.
    `boxed` is the tree of Linen's boxed parameter shapes; only the `trained` ones have
    moments. `extra` has shapes with shardings, as `source.extra` makes them.
    """
    param_shardings = sharding.of_boxed(boxed)
    params = nn.unbox(boxed)
    opt_state = jax.eval_shape(lambda p: optimizer.init(trained.take(p)), params)
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    extra = extra or {}
    shapes = State(jax.ShapeDtypeStruct((), jnp.int32), key, params, opt_state, extra)
    opt_shardings = optax.tree_utils.tree_map_params(
        optimizer,
        lambda leaf, param, like: jax.tree.map(
            lambda x: like if x.shape == param.shape else sharding.replicated, leaf
        ),
        opt_state,
        jax.eval_shape(trained.take, params),
        trained.prune(param_shardings),
        transform_non_params=lambda _: sharding.replicated,
        is_leaf=lambda leaf: isinstance(leaf, tuple),  # several arrays, or none
    )
    return shapes, State(
        sharding.replicated,
        sharding.replicated,
        param_shardings,
        opt_shardings,
        jax.tree.map(lambda leaf: leaf.sharding, extra),
    )
