"""The train step of a config as a program: from shapes, without weights and data."""

from collections.abc import Callable, Sequence
import dataclasses
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gptjax import command, core
from gptjax import sharding as sharding_lib
from gptjax.model import config as model_config
from gptjax.model import kernels, transformer
from gptjax.objectives import next_token
from gptjax.objectives import table as objective_table
from gptjax.train import begin, build, inputs
from gptjax.train import guard as guard_lib
from gptjax.train import settings as settings_lib
from gptjax.train import state as state_lib


class Program(NamedTuple):
    """A step, and the shapes of what it takes, each with its place on the mesh."""

    model: transformer.Model
    step: jax.stages.Wrapped
    arguments: tuple[Any, ...]
    start: Callable[[core.Params], state_lib.State]  # the state at step 0


def of(config: Any, devices: Sequence[Any] = ()) -> Program:
    """The step that pretrains the model of a config, on these devices or on ours."""
    settings = settings_lib.of(config)
    sharding = sharding_lib.make(**settings['mesh'], devices=devices)
    arch = model_config.architecture(**settings['model'])
    compute = command.splat(model_config.Compute, 'compute', settings['compute'])
    T = inputs.length(settings_lib.data_of(settings), arch)
    chosen = kernels.choose(arch, compute, sharding, T).name
    compute = dataclasses.replace(compute, attention=chosen)
    model = transformer.make(arch, compute, sharding)
    _, optimizer = build.optimizer_of(settings, settings['steps'], arch)
    trained = build.trained_of(settings, model)
    guard: guard_lib.Options = settings_lib.of_loop(settings)['guard']
    run: Any = types.SimpleNamespace(  # what `begin.program` reads of a run
        model=model,
        objective=objective_table.OBJECTIVES['next_token'],
        loss_fn=next_token.make(model),
        optimizer=optimizer,
        trained=trained,
        guard=guard,
    )
    boxed = transformer.abstract(model)
    extra = jax.eval_shape(lambda: {'guard': guard_lib.start(guard)})
    extra = _placed(extra, sharding.replicated)
    shapes, places = state_lib.shardings_of(boxed, optimizer, sharding, trained, extra)
    state = jax.tree.map(_placed, shapes, places)
    rows = jax.ShapeDtypeStruct((settings['data']['batch_size'], T), jnp.int32)
    rows = _placed(rows, sharding.named(('batch',)))
    batch = dict.fromkeys(('tokens', 'targets', 'segments', 'positions'), rows)
    batch['weights'] = rows.update(dtype=jnp.float32)

    def start(params: core.Params) -> state_lib.State:
        own = {'guard': jax.device_put(guard_lib.start(guard), sharding.replicated)}
        seed = settings['seed']
        return state_lib.create(params, optimizer, seed, places, trained, own)

    return Program(model, begin.program(run, places), (state, {}, batch), start)


def _placed(tree: Any, place: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree
    )
