"""From a config and names of targets to plans: search, then one look of a compiler."""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any

from gptjax import command
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
    seconds: float  # of all steps

    @property
    def peak(self) -> float:
        """Bytes of a device: the compiler's, else the estimate."""
        return self.compiled['peak'] if self.compiled else self.found.bytes.peak

    @property
    def cost(self) -> float | None:
        """US dollars at the price of the table."""
        price, _ = targets.price(self.found.target)
        chip_hours = self.seconds / 3600 * self.found.target.chips
        return None if price is None else price * chip_hours


@dataclasses.dataclass(frozen=True)
class Refused:
    """A target on which nothing fits, and why."""

    target: str
    why: str


@dataclasses.dataclass(frozen=True)
class Plans:
    """Of one config on several targets."""

    name: str
    job: job.Job
    plans: list[Plan | Refused]


class NothingFits(command.UserError):
    """No target is left; `plans` says why for each."""

    def __init__(self, plans: list[Refused]):
        super().__init__(' '.join(one.why for one in plans))
        self.plans = plans


def make(config: Any, names: Sequence[str], compiled: bool) -> Plans:
    """A plan for each target; UserError for an unknown one, NothingFits if none fits.

    All are searched before the first is compiled.
    """
    planned = job.Job(settings_lib.of(config))
    if not names:
        raise command.UserError(
            '--target names none; give one or more, such as v5e-16,h100-8.'
        )
    for name in names:
        if name != 'cpu':
            targets.parse(name)  # a wrong one is told before anything takes long
    arch = planned.arch
    name = f'{arch.family}, {arch.L} layers of width {arch.D}, rows of {planned.T}'
    searched = [_tried(one, _search, planned, one) for one in names]
    made = [
        one
        if isinstance(one, Refused)
        else _tried(known, _plan, planned, one, compiled)
        for known, one in zip(names, searched, strict=True)
    ]
    refused = [one for one in made if isinstance(one, Refused)]
    if len(refused) == len(made):
        raise NothingFits(refused)
    return Plans(name, planned, made)


def _tried(name: str, make: Callable[..., Any], *given: Any) -> Any:
    try:
        return make(*given)
    except command.UserError as error:
        return Refused(name, str(error))


def place(planned: job.Job, name: str) -> tuple[targets.Target, cost_model.Constants]:
    """A target, and the constants there; those of the CPU at hand are measured."""
    if name != 'cpu':
        return targets.parse(name), cost_model.FITTED
    here = cpu.target(planned.compute.dtype)
    return here, cpu.calibrate(planned, here)


@dataclasses.dataclass(frozen=True)
class _Searched:
    target: targets.Target
    constants: cost_model.Constants
    found: list[search.Found]  # the fastest first


def _search(planned: job.Job, name: str) -> _Searched:
    if name != 'cpu':
        target = targets.parse(name)
        found = search.ranked(planned, target)
        return _Searched(target, cost_model.FITTED, found)
    here = cpu.target(planned.compute.dtype)
    layout = dataclasses.replace(
        planned.own(1), sizes=(), rules='data', pipeline=0, rounds=1
    )
    # Before layers of it run.
    peak = search.evaluate(planned, here, layout).bytes.peak
    if peak > search.FULL * here.chip.memory:
        raise command.UserError(
            f'a step takes {peak / targets.GIB:,.1f} GiB, above {search.FULL:.0%} of '
            f'the {here.chip.memory / targets.GIB:.0f} GiB of this machine; take more '
            'microbatches (compute.accumulate), a smaller model, or another target.'
        )
    constants = cpu.calibrate(planned, here)
    own = search.evaluate(planned, here, layout, constants)
    return _Searched(here, constants, [own])


def _plan(planned: job.Job, searched: _Searched, compiled: bool) -> Plan:
    target = searched.target
    found, known, note = _best(planned, searched, compiled)
    if planned.width == 4 and target.chip.platform != 'cpu':
        note += '; float32 at half the peak'
    if planned.trained.layers:
        note += '; frozen weights timed as those that are trained'
    if planned.scored and target.chip.platform != 'cpu':
        note += '; scores of attention in the memory, of one layer, and not in the time'
    chips, counts = target.chips, {rows for _, rows in planned.stretches}
    if any(rows % chips for rows in counts):
        told = ' and '.join(map(str, sorted(counts)))
        note += f'; steps of {told} rows are no multiples of {chips}'
    times = (
        steps * search.resized(planned, found, rows, searched.constants).time.step
        for steps, rows in planned.stretches
    )
    return Plan(found, planned, known, note, math.fsum(times))


def _best(
    planned: job.Job, searched: _Searched, compiled: bool
) -> tuple[search.Found, dict[str, Any] | None, str]:
    """The fastest that a compiler takes, what it says, and a note on that."""
    target, left = searched.target, searched.found
    first = left[0]
    known: dict[str, Any] = {}
    if target.chip.platform == 'cpu':
        return first, None, 'calibrated by steps of a few layers just now'
    why = ahead.missing(target) if compiled else 'as asked'
    if why:
        return first, None, f'analytic alone, {why}'
    limit, least = search.FULL * target.chip.memory, math.inf
    for _ in range(_TRIES):
        one, *left = left
        known = ahead.compile_(planned.settings, target, one.layout)
        if 'error' not in known and known['peak'] <= limit:
            note = (
                f'compiled ahead of time for {target.chip.kind} in '
                f'{known["seconds"]:.0f} s; time by the analytic model'
            )
            return one, known, note
        if 'peak' in known:
            # Others of these forms are underestimated alike.
            least, scale = min(least, known['peak']), known['peak'] / one.bytes.peak
            rules = one.layout.rules
            left = [
                other
                for other in left
                if other.layout.rules != rules or other.bytes.peak * scale <= limit
            ]
        if not left:
            break
    if math.isfinite(least):
        raise command.UserError(
            f'the compiler takes {least / targets.GIB:.1f} GiB and more on '
            f'{target.name}, above {search.FULL:.0%} of its '
            f'{target.chip.memory / targets.GIB:.0f} GiB, for the best layouts; take '
            'more chips.'
        )
    return first, None, f'analytic alone, {known["error"]}'
