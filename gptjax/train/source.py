"""Where the batches of a run come from: the rows of a dataset, or rollouts.

A source that reads the state, as rollouts do, has a part of its own in `State.extra`.
"""

from collections.abc import Mapping
import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from gptjax import core
from gptjax.train import build, evaluate, feed, rollouts
from gptjax.train import state as state_lib
from gptjax.train import step as step_lib


@runtime_checkable
class Source(Protocol):
    """Batches, in the order of steps.

    row: the next row of the stream, with which a source is made again on resume.
    """

    row: int

    def next(
        self, state: state_lib.State, frozen: Mapping[str, Any]
    ) -> tuple[core.Batch, state_lib.State, Mapping[str, float]]:
        """The batch of step `state.step`, the state that goes with it, and metrics."""

    def evaluate(
        self, state: state_lib.State, frozen: Mapping[str, Any]
    ) -> dict[str, float]:
        """Means over what was held out; `loss` is the one that should fall."""

    def close(self) -> None:
        """Ends what reads ahead."""


class Dataset:
    """The shuffled, endless stream of a dataset's rows."""

    def __init__(self, run: build.Run, row: int):
        self.row = row
        self._run = run
        self._feed = feed.Feed(run.model.sharding, run.data.batch_size)
        self._stream = self._feed.stream(run.rows, run.seed, row, run.data.loader)
        self._eval_step = jax.jit(
            functools.partial(step_lib.eval_step, loss_fn=run.loss_fn),
            out_shardings=run.model.sharding.replicated,
        )

    def next(
        self, state: state_lib.State, frozen: Mapping[str, Any]
    ) -> tuple[core.Batch, state_lib.State, Mapping[str, float]]:
        """The next rows, whatever the state."""
        batch = next(self._stream)
        self.row += self._run.data.batch_size
        return batch, state, {}

    def evaluate(
        self, state: state_lib.State, frozen: Mapping[str, Any]
    ) -> dict[str, float]:
        """Means of the loss over `eval.rows` of the held-out rows."""
        if 'running' in state.extra:
            frozen = {**frozen, 'running': state.extra['running']}
        run = self._run
        return evaluate.evaluate(
            self._eval_step,
            state.params,
            frozen,
            self._feed,
            run.eval_rows,
            run.eval.rows,
        )

    def close(self) -> None:
        """Ends the threads that read ahead."""
        self._stream.close()


def make(run: build.Run, step: int, row: int) -> Source:
    """The source of a run that goes on from a step, with a row of its stream."""
    return rollouts.Rollouts(run, step) if run.rollout else Dataset(run, row)


def extra(run: build.Run) -> dict[str, Any]:
    """`State.extra` at step 0."""
    found: dict[str, Any] = {}
    if run.objective.running is not None:
        start = run.objective.running.start
        made = {name: jnp.float32(value) for name, value in start.items()}
        found['running'] = jax.device_put(made, run.model.sharding.replicated)
    if run.rollout:
        found['rollout'] = rollouts.empty(run, found.get('running', {}))
    return found
