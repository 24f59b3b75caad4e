"""From a config and names of targets to plans: search, then one look of a compiler."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from gptjax.plan import ahead, cost_model, cpu, job, search, targets
from gptjax.train import settings as settings_lib

_TRIES = 3  # layouts that a compiler may refuse before the analytic plan stands


@dataclasses.dataclass(frozen=True)
class Plan:
    """The best layout of a job on a target, and how that is known."""

    found: search.Found
    job: job.Job
    compiled: dict[str, Any] | None  # see `ahead.compile_`
    note: str  # which compiler has seen it, or why none has

    @property
    def peak(self) -> float:
        """Bytes of a device: the compiler's, else the estimate."""
        return self.compiled['peak'] if self.compiled else self.found.bytes.peak

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return self.found.time.step * self.job.steps

    @property
    def cost(self) -> float | None:
        """US dollars at the price of the table."""
        price, _ = targets.price(self.found.target)
        chip_hours = self.seconds / 3600 * self.found.target.chips
        return None if price is None else price * chip_hours


@dataclasses.dataclass(frozen=True)
class Plans:
    """Of one config on several targets."""

    name: str
    job: job.Job
    plans: list[Plan]


def make(config: Any, names: Sequence[str], compiled: bool) -> Plans:
    """A plan for each target; UserError for one that is unknown, or too small."""
    planned = job.Job(settings_lib.of(config))
    for name in names:
        if name != 'cpu':
            targets.parse(name)  # a wrong one is told before anything takes long
    arch = planned.arch
    name = f'{arch.family}, {arch.L} layers of width {arch.D}, rows of {planned.T}'
    return Plans(name, planned, [_plan(planned, one, compiled) for one in names])


def place(planned: job.Job, name: str) -> tuple[targets.Target, cost_model.Constants]:
    """A target, and the constants there; those of the CPU at hand are measured."""
    if name != 'cpu':
        return targets.parse(name), cost_model.FITTED
    here = cpu.target(planned.compute.dtype)
    return here, cpu.calibrate(planned, here)


def _plan(planned: job.Job, name: str, compiled: bool) -> Plan:
    target, constants = place(planned, name)
    if target.chip.platform == 'cpu':
        layout = dataclasses.replace(planned.own(1), sizes=(), rules='data')
        own = search.evaluate(planned, target, layout, constants)
        return Plan(own, planned, None, 'calibrated by steps of a few layers just now')
    found = search.ranked(planned, target)
    why = ahead.missing(target) if compiled else 'as asked'
    if why:
        return Plan(found[0], planned, None, f'analytic alone, {why}')
    for one in found[:_TRIES]:
        known = ahead.compile_(planned.settings, target, one.layout)
        if 'error' not in known:
            note = (
                f'compiled ahead of time for {target.chip.kind} in '
                f'{known["seconds"]:.0f} s; time by the analytic model'
            )
            return Plan(one, planned, known, note)
    return Plan(found[0], planned, None, f'analytic alone, {known["error"]}')
