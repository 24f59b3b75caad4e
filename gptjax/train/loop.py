"""The one training loop: dispatch step n, then log step n - 1; evaluate, save, stop."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import fcntl
import functools
import os
from pathlib import Path
import signal
import time
from types import FrameType
from typing import Any

from flax import linen as nn
import jax
from jax.experimental import multihost_utils
import numpy as np

from gptjax import command, core, trees
from gptjax.model import config as model_config
from gptjax.model import cost, transformer
from gptjax.train import build, checkpoint, evaluate, flops, log, reference, source
from gptjax.train import settings as settings_lib
from gptjax.train import state as state_lib
from gptjax.train import step as step_lib


@dataclasses.dataclass
class Host:
    """What the host knows of a run besides its arrays; saved with every checkpoint."""

    architecture: dict[str, Any]
    row: int = 0  # the next row of the data stream
    seconds: float = 0.0  # of training, over all processes that carried it on
    best_loss: float | None = None  # of an evaluation
    best_step: int | None = None
    without_gain: int = 0  # evaluations since then
    stopped_early: bool = False
    start_digest: str = ''  # of the weights it started from, if another workdir's
    # What those weights lost on each held-out source, before the first step.
    before: dict[str, float] = dataclasses.field(default_factory=dict)
    base_digest: str = ''  # of those that the adapters in the checkpoint are for


def train(run: build.Run) -> bool:
    """Trains to `run.steps`, from the newest checkpoint; False if interrupted."""
    with _claimed(run.workdir):
        return _train(run)


def _train(run: build.Run) -> bool:
    loop = _Loop(run)
    build.record(run, loop.step, loop.host.row)
    with (
        contextlib.closing(loop.checkpoints),
        contextlib.closing(loop.log),
        contextlib.closing(loop.source),
        _interruptible() as interrupted,
    ):
        return loop.to_the_end(interrupted)


class _Loop:
    """One run in one process: the state, and what is done with it between steps."""

    def __init__(self, run: build.Run):
        self.run = run
        self.sharding = sharding = run.model.sharding
        self.checkpoints = checkpoint.Checkpoints(run.workdir, run.checkpoint.keep)
        extra = source.extra(run)
        shapes, places = state_lib.shardings_of(
            run.boxed, run.optimizer, sharding, run.trained, extra
        )
        manifest = self.checkpoints.newest()
        self.host = self._host(manifest)
        self.frozen = run.frozen()
        self.run = run = reference.stored(run, self.frozen)
        if manifest is None:
            self.state = state_lib.create(
                run.start_params(), run.optimizer, run.seed, places, run.trained, extra
            )
        else:
            self.state = self.checkpoints.restore(manifest, shapes, places)
        self.step = int(self.state.step)
        self.source = source.make(run, self.step, self.host.row)
        running = run.objective.running
        self.train_step = jax.jit(
            functools.partial(
                step_lib.train_step,
                loss_fn=run.loss_fn,
                optimizer=run.optimizer,
                accumulate=run.model.compute.accumulate,
                trained=run.trained,
                running=running.update if running else None,
            ),
            out_shardings=(places, sharding.replicated),
            donate_argnums=0,
        )
        self.log = log.Log(
            run.workdir, self.step, run.steps, quiet=jax.process_index() != 0
        )

    def _host(self, manifest: dict[str, Any] | None) -> Host:
        """What the checkpoint says, where it fits this run; else UserError."""
        run = self.run
        arch = model_config.plain(run.model.arch)
        if manifest is None:
            return Host(
                arch, start_digest=run.start_digest, base_digest=run.base_digest
            )
        host = Host(**manifest['host'])
        # A checkpoint may be older than a field, which has its default there.
        made = model_config.architecture('architecture', **host.architecture)
        host.architecture = model_config.plain(made)
        if host.architecture != arch:
            changed = [name for name in arch if host.architecture[name] != arch[name]]
            raise command.UserError(
                f'{run.workdir} holds a model of another {", ".join(changed)}; weights '
                'cannot change their shape, so take another workdir.'
            )
        if bool(host.base_digest) != bool(run.base_digest):
            held = 'adapters' if host.base_digest else 'whole weights'
            raise command.UserError(
                f'{run.workdir} holds {held}, and the section adapter says otherwise; '
                'take another workdir, with model.init_from set to this one.'
            )
        reads = run.objective.frozen or run.base_digest
        if reads and host.start_digest != run.start_digest:
            what = 'base of its adapters' if run.base_digest else 'reference'
            raise command.UserError(
                f'the model that {run.workdir} started from has been trained further, '
                f'and it is the {what}; put its old checkpoint back, or start in '
                'another workdir.'
            )
        if run.eval.patience and host.best_step not in self.checkpoints.steps():
            host.best_loss, host.best_step, host.without_gain = None, None, 0
        patience = run.eval.patience
        host.stopped_early = 0 < patience <= host.without_gain
        return host

    def to_the_end(self, interrupted: list[bool]) -> bool:
        """Trains until the last step (True) or an interrupt (False), and saves."""
        run, host = self.run, self.host
        if self.step >= run.steps or host.stopped_early:
            why = 'stopped early; eval.patience ' if host.stopped_early else 'steps '
            self.log.say(
                f'{run.workdir} is complete at step {self.step}; a larger {why}goes on.'
            )
            return True
        self._say_start()
        if self.step == 0 and settings_lib.begun_from(run.settings):
            self._evaluate_start()
        batch, told = self._next()
        self.clock = _Clock(run, self.step, tokens=batch['tokens'].size)
        pending: tuple[int, Any] | None = None  # a step whose metrics are on their way
        while True:
            self.state, metrics = self.train_step(self.state, self.frozen, batch)
            self.step += 1
            host.row = self.source.row
            metrics |= told
            if pending:
                self._write(*pending)
                pending = None
            if self.step % run.eval.every == 0 or self.step == run.steps:
                self._write(self.step, metrics, self._evaluate(metrics))
            elif self.step % run.options.log_every == 0:
                pending = self.step, metrics
            stop = self._agreed(interrupted)
            last = self.step == run.steps or host.stopped_early
            best = run.eval.patience > 0 and host.best_step == self.step
            if last or stop or best or self.step % run.checkpoint.every == 0:
                if pending:  # before the checkpoint, after which it is not made again
                    self._write(*pending)
                    pending = None
                self._save(metrics)
            if last or stop:
                break
            batch, told = self._next()
        if not last:
            self.checkpoints.wait()
            self.log.say(
                f'interrupted: saved at step {self.step} of {run.steps}; the same '
                'command goes on from there.'
            )
        return last

    def _next(self) -> tuple[core.Batch, Mapping[str, float]]:
        """The batch of the next step, and what its source has to tell."""
        batch, self.state, told = self.source.next(self.state, self.frozen)
        return batch, told

    def _evaluate_start(self) -> None:
        """The record of step 0: what the weights of another workdir are worth here."""
        means = self.source.evaluate(self.state, self.frozen)
        self.host.before = evaluate.of_sources(means)
        unknown = ('loss', 'tokens_per_second', 'mfu', 'learning_rate', 'gradient_norm')
        held_out = _held_out(means)
        self.log.write(
            {'step': 0, **dict.fromkeys(unknown), 'seconds': 0.0, **held_out}
        )

    def _evaluate(self, metrics: Any) -> dict[str, float]:
        run, host = self.run, self.host
        with self.clock.paused(metrics):
            means = self.source.evaluate(self.state, self.frozen)
        loss = means['loss']
        host.without_gain += 1
        if host.best_loss is None or loss < host.best_loss:
            host.best_loss, host.best_step, host.without_gain = loss, self.step, 0
        if run.eval.patience and host.without_gain >= run.eval.patience:
            host.stopped_early = True
            self.log.say(
                f'stopping at step {self.step}: {host.without_gain} evaluations '
                f'without a better loss than {host.best_loss:.4f} of step '
                f'{host.best_step}'
            )
        if host.before and (host.stopped_early or self.step == run.steps):
            self.log.say(evaluate.told(host.before, means))
        return means

    def _save(self, metrics: Any) -> None:
        with self.clock.paused(metrics):
            host = dataclasses.replace(
                self.host, seconds=self.host.seconds + self.clock.seconds
            )
            pinned = self.host.best_step if self.run.eval.patience else None
            self.checkpoints.save(self.state, dataclasses.asdict(host), pinned)

    def _write(
        self, step: int, metrics: Any, held_out: dict[str, float] | None = None
    ) -> None:
        means = _held_out(held_out or {})
        values = {name: float(value) for name, value in metrics.items()}
        speed = self.clock.speed(step)
        record = {
            'step': step,
            'loss': values.pop('loss'),
            'eval_loss': means.pop('eval_loss', None),
            'tokens_per_second': speed,
            'mfu': self.clock.mfu(speed),
            'learning_rate': float(self.run.schedule(step - 1)),
            'gradient_norm': values.pop('gradient_norm'),
            'seconds': self.host.seconds + self.clock.seconds,
            **values,
            **means,
            **(evaluate.forgetting(self.host.before, held_out) if held_out else {}),
        }
        self.log.write(record)

    def _agreed(self, interrupted: list[bool]) -> bool:
        """Whether to stop, the same answer on every process.

        With several processes they ask each other every `log_every` steps: that costs
        an exchange, and all must leave at the same step.
        """
        if jax.process_count() == 1:
            return bool(interrupted)
        if self.step % self.run.options.log_every:
            return False
        answers = multihost_utils.process_allgather(np.array(bool(interrupted)))
        return bool(np.any(answers))

    def _say_start(self) -> None:
        run = self.run
        weights = trees.count(nn.unbox(transformer.abstract(run.model)))
        part = trees.count(run.trained.take(self.state.params))
        some = f' ({part / 1e6:.2f}M trained)' if part != weights else ''
        mesh = ' x '.join(f'{a} {n}' for a, n in self.sharding.mesh.shape.items())
        at = f'from step {self.step} ' if self.step else ''
        self.log.say(
            f'training {at}to step {run.steps}: {weights / 1e6:.2f}M parameters{some}, '
            f'{len(run.rows)} rows of {run.T} tokens, batches of '
            f'{run.data.batch_size} rows, mesh {mesh} ({self.sharding.rules}), '
            f'{jax.devices()[0].device_kind}'
        )


def _held_out(means: Mapping[str, float]) -> dict[str, float]:
    """Means of an evaluation by the names of a record."""
    return {f'eval_{name}': mean for name, mean in means.items() if name != 'weight'}


class _Clock:
    """Seconds of training alone: evaluation and saving are taken out."""

    def __init__(self, run: build.Run, step: int, tokens: int):
        self._tokens = tokens
        devices = run.model.sharding.mesh.devices
        peak = flops.peak(devices.flat[0])
        self._peak = peak * devices.size if peak else None
        # A reference goes forward too, which is a third of forward and backward.
        arch = dataclasses.replace(run.model.arch, T=run.T)
        passes = 2 / 3 if run.base_digest else 1  # no gradient of the base's weights
        forward = 1.0 if 'reference' in run.objective.frozen else 0.0
        if run.rollout:  # which are written and read once, for some epochs
            forward = (forward + 2) / run.rollout.epochs
        passes += forward / 3
        self._flops = cost.flops_per_token(arch) * passes
        self._start = time.perf_counter()
        self._last = (step, 0.0)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @contextlib.contextmanager
    def paused(self, metrics: Any) -> Iterator[None]:
        """Leaves out what happens inside, once the step of `metrics` is done."""
        jax.block_until_ready(metrics)
        before = time.perf_counter()
        yield
        self._start += time.perf_counter() - before

    def speed(self, step: int) -> float:
        """Tokens per second since the last call."""
        last_step, last_seconds = self._last
        self._last = step, self.seconds
        return (step - last_step) * self._tokens / (self.seconds - last_seconds)

    def mfu(self, speed: float) -> float | None:
        """The share of the devices' peak that went into the model's own products."""
        return speed * self._flops / self._peak if self._peak else None


@contextlib.contextmanager
def _claimed(workdir: Path) -> Iterator[None]:
    """Holds a workdir for one run; the system lets go of it when the process ends."""
    if jax.process_index() > 0:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(workdir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise command.UserError(
            f'another process trains in {workdir}; wait for it, or take another.'
        ) from None
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _interruptible() -> Iterator[list[bool]]:
    """Ctrl-C fills the list, and the loop sees it; a second one ends at once."""
    interrupted: list[bool] = []
    before = signal.getsignal(signal.SIGINT)

    def note(signum: int, frame: FrameType | None) -> None:
        interrupted.append(True)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
