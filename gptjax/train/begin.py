"""A run put together at one of its steps: the state, and the step as a program."""

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

import jax

from gptjax import sharding as sharding_lib
from gptjax.model import transformer
from gptjax.objectives import table as objective_table
from gptjax.train import build, checkpoint, reference, source
from gptjax.train import host as host_lib
from gptjax.train import state as state_lib
from gptjax.train import step as step_lib


class Begun(NamedTuple):
    """A run that can go on.

    run: with what its rows have besides, see `reference`. train_step: (state, frozen,
    batch) -> (state, metrics), jitted, which takes the state that it is given.
    """

    run: build.Run
    host: host_lib.Host
    frozen: dict[str, Any]
    state: state_lib.State
    train_step: jax.stages.Wrapped


def begin(
    run: build.Run,
    checkpoints: checkpoint.Checkpoints,
    manifest: Mapping[str, Any] | None,
) -> Begun:
    """The run at the step of a checkpoint, or at its start; UserError as `resumed`."""
    sharding = run.model.sharding
    extra = source.extra(run)
    shapes, places = state_lib.shardings_of(
        run.boxed, run.optimizer, sharding, run.trained, extra
    )
    host = host_lib.resumed(run, manifest)
    frozen = run.frozen()
    run = reference.stored(run, frozen)
    if manifest is None:
        state = state_lib.create(
            run.start_params(), run.optimizer, run.seed, places, run.trained, extra
        )
    else:
        state = checkpoints.restore(manifest, shapes, places, extra)
    return Begun(run, host, frozen, state, program(run, places))


def _apart(
    model: transformer.Model, objective: objective_table.Objective
) -> sharding_lib.Sharding | None:
    """The sharding of a model whose gradients are made in a loop, on several copies.

    Not of those that do not map over copies: cuDNN chooses between programs by the
    rows, and all would run; rounds of experts over devices end by what they find; and a
    teacher may have either.
    """
    sharding, compute = model.sharding, model.compute
    loops = compute.accumulate > 1 or sharding.mesh.shape['stage'] > 1
    rounds = model.arch.experts is not None and sharding.mesh.shape['expert'] > 1
    teacher = 'teacher' in objective.frozen
    maps = compute.attention != 'cudnn' and not rounds and not teacher
    return sharding if loops and maps and sharding.copies > 1 else None


def program(run: Any, places: state_lib.State) -> jax.stages.Wrapped:
    """The step of a `build.Run`, whose state lies at `places`, as `Begun` has it.

    Of a run it reads what is computed, and nothing of its data or workdir.
    """
    running = run.objective.running
    return jax.jit(
        functools.partial(
            step_lib.train_step,
            loss_fn=run.loss_fn,
            optimizer=run.optimizer,
            accumulate=run.model.compute.accumulate,
            trained=run.trained,
            running=running.update if running else None,
            guard=run.guard,
            apart=_apart(run.model, run.objective),
        ),
        out_shardings=(places, run.model.sharding.replicated),
        donate_argnums=0,
    )
