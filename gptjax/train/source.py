"""Where the batches of a run come from: the rows of a dataset, or rollouts.

A source that reads the state, as rollouts do, has a part of its own in `State.extra`.
"""

from collections.abc import Callable, Generator, Mapping
import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from gptjax import core
from gptjax.train import build, evaluate, feed, guard, optim, rollouts
from gptjax.train import phases as phases_lib
from gptjax.train import state as state_lib
from gptjax.train import step as step_lib


@runtime_checkable
class Source(Protocol):
    """Batches, in the order of steps.

    row: the next row of the stream, with which a source is made again on resume.
    draw: rows that the last batch was drawn from, which end before `row`.
    updates: steps from one draw.
    """

    row: int
    draw: int
    updates: int

    def next(
        self, state: state_lib.State, frozen: Mapping[str, Any]
    ) -> tuple[core.Batch, state_lib.State, Mapping[str, float]]:
        """The batch of step `state.step`, the state that goes with it, and metrics."""

    def evaluate(
        self,
        state: state_lib.State,
        frozen: Mapping[str, Any],
        each: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Means over what was held out; `loss` is the one that should fall.

        each: called after each batch; what it raises ends the evaluation.
        """

    def close(self) -> None:
        """Ends what reads ahead."""


class Dataset:
    """The shuffled, endless stream of a dataset's rows."""

    def __init__(self, run: build.Run, step: int, row: int, skips: feed.Skips = ()):
        self.row = feed.beyond(row, skips)
        self.draw, self.updates = run.data.rows_at(step), 1
        self._run, self._step, self._skips = run, step, skips
        self._feed = feed.Feed(run.model.sharding, run.data.batch_size)
        self._stream = self._open()
        self._eval_step = jax.jit(
            functools.partial(step_lib.eval_step, loss_fn=run.loss_fn),
            out_shardings=run.model.sharding.replicated,
        )

    def next(
        self, state: state_lib.State, frozen: Mapping[str, Any]
    ) -> tuple[core.Batch, state_lib.State, Mapping[str, float]]:
        """The next rows, whatever the state."""
        row = feed.beyond(self.row, self._skips)
        rows = self._run.data.rows_at(self._step)
        if (row, rows) != (self.row, self.draw):
            self._stream.close()
            self.row, self.draw = row, rows
            self._stream = self._open()
        batch = next(self._stream)
        self.row += self.draw
        self._step += 1
        return batch, state, {}

    def _open(self) -> Generator[core.Batch]:
        run = self._run
        made = feed.Feed(run.model.sharding, self.draw)
        return made.stream(run.rows, run.seed, self.row, run.data.loader)

    def evaluate(
        self,
        state: state_lib.State,
        frozen: Mapping[str, Any],
        each: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Means of the loss over `eval.rows` of the held-out rows.

        Of a run with optimizer.ema, `ema_loss` and so on are of the average weights.
        """
        if 'running' in state.extra:
            frozen = {**frozen, 'running': state.extra['running']}
        run = self._run
        of = {'': state.params}
        if isinstance(state.opt_state, optim.Averaged):
            of['ema_'] = run.trained.put(state.params, state.opt_state.ema)
        found: dict[str, float] = {}
        for name, params in of.items():
            given = params, frozen, self._feed, run.eval_rows, run.eval.rows, each
            means = evaluate.evaluate(self._eval_step, *given)
            found |= {f'{name}{key}': mean for key, mean in means.items()}
        found.pop('ema_weight', None)
        return found

    def close(self) -> None:
        """Ends the threads that read ahead."""
        self._stream.close()


def make(
    run: build.Run,
    step: int,
    row: int,
    skips: feed.Skips,
    phases: phases_lib.Phases,
    again: bool = False,
) -> Source:
    """The source of a run that goes on from a step, with a row of its stream.

    skips: (first, end) of rows that are not to be read. again: whether the evaluation
    at `step` was cut, and is made again.
    """
    if run.rollout:
        return rollouts.Rollouts(run, step, row, skips, phases, again=again)
    return Dataset(run, step, row, skips)


def extra(run: build.Run) -> dict[str, Any]:
    """`State.extra` at step 0."""
    everywhere = run.model.sharding.replicated
    found: dict[str, Any] = {}
    found['guard'] = jax.device_put(guard.start(run.guard), everywhere)
    if run.objective.running is not None:
        start = run.objective.running.start
        made = {name: jnp.float32(value) for name, value in start.items()}
        found['running'] = jax.device_put(made, everywhere)
    if run.rollout:
        found['rollout'] = rollouts.empty(run, found.get('running', {}))
    return found
