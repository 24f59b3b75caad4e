"""What the host knows of a run besides its arrays: JSON beside every checkpoint."""

from collections.abc import Mapping, Sequence
import dataclasses
import importlib.metadata
import platform
import sys
from typing import Any

import jax

from gptjax import command
from gptjax.data import storage
from gptjax.model import config as model_config
from gptjax.train import build

_TOLD = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'gptjax')


@dataclasses.dataclass
class Host:
    """The values at a step; old checkpoints may lack the newer of them."""

    architecture: dict[str, Any]
    row: int = 0  # the next row of the data stream
    seconds: float = 0.0  # of training, over all processes that carried it on
    # Of an evaluation, or its negative where more is better.
    best_loss: float | None = None
    best_step: int | None = None
    without_gain: int = 0  # evaluations since then
    metric: str = ''  # which says what is best
    best_is_kept: bool = False
    stopped_early: bool = False
    start_digest: str = ''  # of the weights it started from, if another workdir's
    # What those weights lost on each held-out source, before the first step.
    before: dict[str, float] = dataclasses.field(default_factory=dict)
    base_digest: str = ''  # of those that the adapters in the checkpoint are for
    # The metrics of this step, whose evaluation was cut: it is made on the way on.
    owed: dict[str, Any] | None = None
    # (step, row) before the first of the bad steps that go on until here.
    bad: Sequence[int] | None = None
    good: int | None = None  # the newest step that was saved where there were none
    skips: list[Sequence[int]] = dataclasses.field(default_factory=list)  # of rows
    rollbacks: int = 0  # since a checkpoint that was saved beyond the trouble
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    checked: int = 0  # the newest step at which replicas were found equal

    def forget_best(self) -> None:
        """What evaluations come next are the first to compare."""
        self.best_loss, self.best_step, self.without_gain = None, None, 0


def environment() -> dict[str, str]:
    """Versions that decide about bits, and a digest of all that is installed."""
    found = {
        one.name.lower(): one.version for one in importlib.metadata.distributions()
    }
    told = {name: found[name] for name in _TOLD if name in found}
    return {
        'python': platform.python_version(),
        **told,
        'device': jax.devices()[0].device_kind,
        'digest': storage.json_digest(found),
    }


def resumed(run: build.Run, manifest: Mapping[str, Any] | None) -> Host:
    """What a checkpoint says, where it fits the run; else UserError.

    Other versions than those that wrote it are told: they may change bits.
    """
    arch = model_config.plain(run.model.arch)
    now = environment()
    if manifest is None:
        return Host(
            arch,
            start_digest=run.start_digest,
            base_digest=run.base_digest,
            environment=now,
            best_is_kept=run.checkpoint.best,
            metric=_metric(run),
        )
    host = Host(**manifest['host'])
    # A checkpoint may be older than a field, which has its default there.
    made = model_config.architecture('architecture', **host.architecture)
    host.architecture = model_config.plain(made)
    _check_fits(run, host, arch)
    _tell_changes(host.environment, now)
    host.environment, host.best_is_kept = now, run.checkpoint.best
    metric = _metric(run)
    if host.metric not in ('', metric):  # what was best then says nothing now
        host.forget_best()
    host.metric = metric
    return host


def _metric(run: build.Run) -> str:
    return f'{run.eval.metric}, higher {run.eval.higher}, rows {run.eval.rows}'


def _check_fits(run: build.Run, host: Host, arch: Mapping[str, Any]) -> None:
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


def _tell_changes(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    if not before or before == now or jax.process_index() > 0:
        return
    changes = [
        f'{name} {before[name]} -> {now[name]}'
        for name in before
        if name != 'digest' and name in now and before[name] != now[name]
    ]
    what = ', '.join(changes) or 'packages that training does not use by itself'
    print(
        f'another environment than that of the checkpoint ({what}): the run goes on, '
        'and its bits may be others',
        file=sys.stderr,
    )
