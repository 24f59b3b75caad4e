"""The one training loop: dispatch step n, read step n - 1; evaluate, save, stop."""

from collections.abc import Mapping
import contextlib
import dataclasses
from typing import Any, NamedTuple

from flax import linen as nn
import jax

from gptjax import command, core, trees
from gptjax.model import low, transformer
from gptjax.train import (
    begin,
    build,
    checkpoint,
    claim,
    clock,
    distributed,
    evaluate,
    log,
    maintenance,
    profile,
    record,
    replicas,
    source,
    watchdog,
)
from gptjax.train import host as host_lib
from gptjax.train import phases as phases_lib
from gptjax.train import settings as settings_lib
from gptjax.train import stop as stop_lib


def train(
    run: build.Run, age: float = 0.0, trace: profile.Profile | None = None
) -> bool:
    """Trains to `run.steps`, from the newest whole checkpoint; False if asked to stop.

    age: seconds since the process began, for the ledger. trace: of some steps. Raises
    command.Failure where it cannot go on: NUMERICS for too many bad steps, REQUEUE for
    saves that fail.
    """
    folder = run.workdir if jax.process_index() == 0 else None
    hang = run.workdir / f'hang-{jax.process_index()}.txt'
    stop = stop_lib.Stop()
    with (
        claim.claimed(run.workdir),
        command.heeding(command.passed, stop.ask),
        maintenance.watching(run.options.maintenance, stop.ask),
        contextlib.closing(phases_lib.Phases(folder, age)) as phases,
        watchdog.watching(phases, run.options.watchdog, hang),
        contextlib.closing(trace) if trace else contextlib.nullcontext(),
    ):
        trouble = None
        while True:
            try:
                phases.enter('init')
                return _train(_Loop(run, phases, stop, trouble, trace))
            except _Trouble as found:
                if stop.reached:  # what was saved before the trouble is what there is
                    return False
                trouble = found.with_traceback(None)  # which holds the old state


def _train(loop: '_Loop') -> bool:
    record.write(loop.run, loop.step, loop.host.row, loop.host.skips)
    with (
        contextlib.closing(loop.checkpoints),
        contextlib.closing(loop.log),
        contextlib.closing(loop.source),
    ):
        try:
            return loop.to_the_end()
        finally:
            loop.phases.enter('save')  # what is still under way


class _Trouble(Exception):
    """Too many bad steps in a row: what was before them is done again, without them."""

    def __init__(self, host: host_lib.Host, stop_row: int, updates: int):
        assert host.bad is not None
        step, row = host.bad
        super().__init__(f'the updates after step {step} are bad')
        # Before its rollout, which else would be open again.
        self.step, self.skip = step - step % updates, (row, stop_row)
        self.skips = [*host.skips, self.skip]
        self.rollbacks = host.rollbacks + 1


class _Done(NamedTuple):
    """A step that was dispatched, and whose metrics are on their way."""

    step: int
    rows: tuple[int, int]  # of the stream, from which its batch was drawn
    metrics: Mapping[str, Any]


class _Loop:
    """One run in one process: the state, and what is done with it between steps."""

    def __init__(
        self,
        run: build.Run,
        phases: phases_lib.Phases,
        stop: stop_lib.Stop,
        trouble: _Trouble | None = None,
        trace: profile.Profile | None = None,
    ):
        self.run, self.phases, self.stop = run, phases, stop
        self._trace = trace
        self.sharding = run.model.sharding
        keep = dataclasses.asdict(run.checkpoint)
        del keep['every'], keep['best']
        self.checkpoints = checkpoint.Checkpoints(run.workdir, **keep, owner=True)
        manifest = self.checkpoints.agreed(trouble.step + 1 if trouble else None)
        begun = begin.begin(run, self.checkpoints, manifest)
        self.run, self.host, self.frozen, self.state, self.train_step = begun
        run, host = self.run, self.host
        if not self.checkpoints.has(host.best_step):
            host.forget_best()
        patience = run.eval.patience
        host.stopped_early = 0 < patience <= host.without_gain
        self.step = int(self.state.step)
        if trouble:
            host.skips, host.rollbacks = trouble.skips, trouble.rollbacks
            self.checkpoints.drop_after(self.step)
        given = run, self.step, host.row, host.skips, phases
        self.source = source.make(*given, again=host.owed is not None)
        self.log = log.Log(
            run.workdir,
            self.step,
            run.steps,
            quiet=jax.process_index() != 0,
            again=host.owed is not None,
        )
        self.failed_saves = 0
        self._waiting = 'collective' if distributed.several() else 'step'
        self._pending: _Done | None = None
        if trouble:
            self._say_trouble(trouble)

    def to_the_end(self) -> bool:
        """Trains to the last step (True), or until asked to stop (False), and saves."""
        run, host = self.run, self.host
        complete = self.step >= run.steps or host.stopped_early
        complete = complete and host.owed is None
        self.phases.begin(self.step, complete)
        if complete:
            why = 'stopped early; eval.patience ' if host.stopped_early else 'steps '
            self.log.say(
                f'{run.workdir} is complete at step {self.step}; a larger {why}goes on.'
            )
            return True
        self._say_start()
        try:
            if self.step == 0 and settings_lib.begun_from(run.settings):
                self._evaluate_start()
            if host.owed is not None:
                self._write(host.owed, self._evaluate())
                host.owed = None
                self.checkpoints.amend(self.step, dataclasses.asdict(host))
        except stop_lib.Asked:  # what is there is saved
            return self._said_goodbye()
        if self.step >= run.steps or host.stopped_early:
            return True
        batch, told = self._next()
        self._compile(batch)
        while True:
            with self._traced():
                self._dispatch(batch, told)
            stopping = self._agreed(self.stop)
            if self._is_due(stopping) and self._settle(stopping):
                break
            self.phases.write(self.step)
            if message := self.checkpoints.poll():
                self.failed_saves += 1
                self.log.say(f'{message}; training goes on')
            batch, told = self._next()
        with self.phases.of('save'):
            self.checkpoints.wait()
        if host.owed is None and (self.step == run.steps or host.stopped_early):
            return True
        return self._said_goodbye()

    def _traced(self) -> contextlib.AbstractContextManager[None]:
        if self._trace is None:
            return contextlib.nullcontext()
        return self._trace.around(self.step + 1, lambda: self.state)

    def _next(self) -> tuple[core.Batch, Mapping[str, float]]:
        """The batch of the next step, and what its source has to tell."""
        self.phases.enter('data')
        batch, self.state, told = self.source.next(self.state, self.frozen)
        # Not a wait, where the devices have work meanwhile.
        busy = self._pending and not self._pending.metrics['loss'].is_ready()
        self.phases.enter('step', was='step' if busy else 'data')
        return batch, told

    def _compile(self, batch: core.Batch) -> None:
        """Ahead of time: afterwards nothing compiles in silence, as arguments must fit.

        The digests of the first save, and comparisons of replicas, are compiled too.
        """
        with self.phases.of('compile'):
            tokens = batch['tokens'].size
            self.clock = clock.Clock(self.run, self.phases, self.step, tokens)
            sizes = {len(batch['tokens']): batch}
            for step, rows in self.run.data.batch_ramp:
                if step > self.step:
                    sizes.setdefault(rows, _resized(batch, rows))
            self._compiled = {
                rows: self.train_step.lower(self.state, self.frozen, one).compile()
                for rows, one in sizes.items()
            }
            trees.digest(self.state)
            if self.run.guard.replicas:
                self.replicas = replicas.Replicas(self.run, self.host.checked)
                self.replicas.check(self.state, self.frozen, batch, self.step)
        self.phases.write(self.step, now=True)

    def _dispatch(self, batch: core.Batch, told: Mapping[str, float]) -> None:
        before = self._pending
        step = self._compiled[len(batch['tokens'])]
        self.state, metrics = step(self.state, self.frozen, batch)
        self.stop.idle = False
        self.step += 1
        self.host.row = row = self.source.row
        rows = (row - self.source.draw, row)
        self._pending = _Done(self.step, rows, {**metrics, **told})
        if before:
            self._read(before)
        every = self.run.guard.replicas
        if every and self.step % every == 0:  # before this step may be saved
            self.replicas.check(self.state, self.frozen, batch, self.step)
            self.host.checked = self.step

    def _read(self, done: _Done, write: bool = True) -> None:
        """Waits for a step, notes whether it was bad, and writes its record if due."""
        self.phases.enter(self._waiting)
        in_a_row = int(done.metrics['skipped_in_a_row'])
        self.phases.enter('step')
        host = self.host
        if in_a_row == 0:
            host.bad = None
        elif in_a_row == 1:
            host.bad = (done.step - 1, done.rows[0])
        halted = 0 < self.run.guard.patience <= in_a_row
        if halted or (write and done.step % self.run.options.log_every == 0):
            self._write(self._record(done))
        if halted:
            raise self._trouble(done)

    def _trouble(self, done: _Done) -> Exception:
        """Bad steps came together: one more try without their rows, or the end."""
        trouble = _Trouble(self.host, done.rows[1], self.source.updates)
        most = self.run.guard.rollbacks
        self.log.say(f'{trouble} up to {done.step}: not finite, or a spike of the loss')
        if trouble.rollbacks <= most:
            return trouble
        return command.Failure(
            f'{trouble} still, after {most} rollbacks; see their rows with python -m '
            'gptjax.train replay, or lower optimizer.learning_rate.',
            command.NUMERICS,
        )

    def _is_due(self, stopping: bool) -> bool:
        run = self.run
        often = (run.eval.every, run.checkpoint.every)
        every = any(self.step % steps == 0 for steps in often)
        return stopping or every or self.step == run.steps

    def _settle(self, stopping: bool) -> bool:
        """Reads the last step, evaluates and saves where due; whether to leave."""
        run, host, done = self.run, self.host, self._pending
        assert done is not None
        self._pending = None
        evaluates = self.step % run.eval.every == 0 or self.step == run.steps
        self._read(done, write=not evaluates)
        if evaluates:
            record = self._record(done)
            try:
                if stopping:
                    raise stop_lib.Asked
                self._write(record, self._evaluate())
            except stop_lib.Asked:
                stopping, host.owed = True, record
        last = self.step == run.steps or host.stopped_early
        best = self._keeps_best() and host.best_step == self.step
        # While bad steps go on, the checkpoint before has what there is to save.
        due = self.step % run.checkpoint.every == 0 and host.bad is None
        if last or stopping or best or due:
            self._save()
            stopping = stopping or self._agreed(self.stop)  # meanwhile
        return last or stopping

    def _keeps_best(self) -> bool:
        return self.run.checkpoint.best or self.run.eval.patience > 0

    def _evaluate_start(self) -> None:
        """The record of step 0: what the weights of another workdir are worth here."""
        means = self._means()
        self.host.before = evaluate.of_sources(means)
        unknown = ('loss', 'tokens_per_second', 'mfu', 'learning_rate', 'gradient_norm')
        record = {'step': 0, **dict.fromkeys(unknown), 'seconds': 0.0}
        self.log.write({**record, **_held_out(means)})

    def _means(self) -> dict[str, float]:
        with self.phases.of('eval'):
            return self.source.evaluate(self.state, self.frozen, self._each)

    def _each(self) -> None:
        """After each batch of an evaluation."""
        self.phases.beat()
        if self._agreed(self.stop):
            raise stop_lib.Asked

    def _evaluate(self) -> dict[str, float]:
        run, host = self.run, self.host
        means = self._means()
        if run.eval.metric not in means:
            raise command.UserError(
                f'eval.metric is {run.eval.metric!r}, which is not of the evaluation; '
                f'{command.did_you_mean(run.eval.metric, list(means))}'
            )
        loss = means[run.eval.metric] * (-1 if run.eval.higher else 1)
        host.without_gain += 1
        if host.best_loss is None or loss < host.best_loss:
            host.best_loss, host.best_step, host.without_gain = loss, self.step, 0
        if run.eval.patience and host.without_gain >= run.eval.patience:
            host.stopped_early = True
            self.log.say(
                f'stopping at step {self.step}: {host.without_gain} evaluations '
                f'without a better {run.eval.metric} than {abs(host.best_loss):.4f} of '
                f'step {host.best_step}'
            )
        if host.before and (host.stopped_early or self.step == run.steps):
            self.log.say(evaluate.told(host.before, means))
        return means

    def _save(self) -> None:
        host = self.host
        if host.bad is None:
            host.good = self.step
            if host.rollbacks and host.row > max(stop for _, stop in host.skips):
                host.rollbacks = 0
        best = host.best_step if self._keeps_best() else None
        sure = [s for s in self.checkpoints.steps() if s <= host.checked][-1:]
        pinned = {step for step in (best, host.good, *sure) if step is not None}
        values = dataclasses.replace(host, seconds=host.seconds + self.clock.seconds)
        with self.phases.of('save'):
            self.checkpoints.save(
                self.step, self.state, dataclasses.asdict(values), pinned
            )
        self.phases.write(self.step, saved=True)

    def _record(self, done: _Done) -> dict[str, Any]:
        """The line of a step in metrics.jsonl, but for what was held out."""
        values = {name: float(value) for name, value in done.metrics.items()}
        speed = self.clock.speed(done.step)
        told = {
            'saves_failed': self.failed_saves,
            'checkpoints_damaged': self.checkpoints.damaged,
        }
        return {
            'step': done.step,
            'loss': values.pop('loss'),
            'eval_loss': None,
            'tokens_per_second': speed,
            'mfu': self.clock.mfu(speed),
            'learning_rate': float(self.run.schedule(done.step - 1)),
            'gradient_norm': values.pop('gradient_norm'),
            'seconds': self.host.seconds + self.clock.seconds,
            **values,
            **{name: float(count) for name, count in told.items() if count},
        }

    def _write(
        self, record: Mapping[str, Any], means: Mapping[str, float] | None = None
    ) -> None:
        if means is None:
            self.log.write(record)
            return
        forgetting = evaluate.forgetting(self.host.before, means)
        self.log.write({**record, **_held_out(means), **forgetting})

    def _agreed(self, stop: stop_lib.Stop) -> bool:
        """Whether to stop here, the same answer on every process."""
        return stop.agreed()

    def _said_goodbye(self) -> bool:
        saved = f'saved at step {self.step} of {self.run.steps}' if self.step else ''
        self.log.say(
            f'stopped: {saved or "before the first step"}; the same command goes on '
            'from there.'
        )
        return False

    def _say_trouble(self, trouble: _Trouble) -> None:
        first, last = trouble.skip
        self.log.say(
            f'rolled back: {trouble}, so step {self.step} is where it goes on, without '
            f'rows {first} to {last - 1} of the stream '
            f'({trouble.rollbacks} of at most {self.run.guard.rollbacks})'
        )

    def _say_start(self) -> None:
        run = self.run
        weights = trees.count(nn.unbox(transformer.abstract(run.model)))
        part = trees.count(run.trained.take(self.state.params))
        some = f' ({part / 1e6:.2f}M trained)' if part != weights else ''
        at = f'from step {self.step} ' if self.step else ''
        mesh = f'{self.sharding} ({self.sharding.rules})'
        self.log.say(
            f'training {at}to step {run.steps}: {weights / 1e6:.2f}M parameters{some}, '
            f'{len(run.rows)} rows of {run.T} tokens, batches of '
            f'{run.data.batch_size} rows, mesh {mesh}, '
            f'{jax.devices()[0].device_kind}'
        )
        self.log.say(f'attention: {run.attention}')
        if note := low.emulated(run.model.compute.products):
            self.log.say(note)


def _resized(batch: core.Batch, rows: int) -> Any:
    """The shapes of a batch of so many rows, where this one lies."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            (rows, *x.shape[1:]), x.dtype, sharding=x.sharding
        ),
        batch,
    )


def _held_out(means: Mapping[str, float]) -> dict[str, float]:
    """Means of an evaluation by the names of a record."""
    return {f'eval_{name}': mean for name, mean in means.items() if name != 'weight'}
