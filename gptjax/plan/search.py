"""Mesh x batch x remat for a target: what fits, and of that the fastest."""

from collections.abc import Iterator, Mapping
import dataclasses
import math

from gptjax import command
from gptjax.plan import cost_model, job, memory, targets, wire

FULL = 0.9  # of the memory at most: allocators need some of it
_REMAT = tuple(cost_model.AGAIN)
_GROUPS = (1, 2, 4, 8, 16)  # devices that split a layer, or the experts


@dataclasses.dataclass(frozen=True)
class Found:
    """A layout on a target: what it takes, and how long."""

    target: targets.Target
    layout: job.Layout
    bytes: memory.Bytes
    sent: tuple[wire.Sent, ...]
    time: cost_model.Time

    @property
    def fits(self) -> bool:
        return self.bytes.peak <= FULL * self.target.chip.memory


def evaluate(
    planned: job.Job,
    target: targets.Target,
    layout: job.Layout,
    constants: cost_model.Constants = cost_model.FITTED,
) -> Found:
    """One layout; UserError where a dimension or the batch does not divide."""
    arch, shards = planned.arch, layout.parts('batch')
    if layout.rows % (shards * layout.accumulate):
        raise command.UserError(
            f'data.batch_size is {layout.rows}, which {layout.accumulate} microbatches '
            f'on {shards} data shards do not divide; set it to a multiple of '
            f'{shards * layout.accumulate}.'
        )
    held, sizes = planned.held(layout), dict(layout.sizes)
    tokens = layout.rows * planned.T / shards / layout.size('context')
    again = command.lookup(cost_model.AGAIN, layout.remat, 'remat policy of plans')
    weights = planned.weights
    traffic = wire.Traffic(
        arch,
        planned.width,
        weights['layers'],
        weights['experts'],
        weights['tables'],
        tokens / layout.accumulate,
        layout.accumulate,
        again,
    )
    sent = tuple(wire.sent(traffic, sizes))
    work = cost_model.Work(
        arch,
        planned.T,
        tokens,
        planned.flops_per_token,
        held.weights / 4,
        layout.size('tensor'),
        layout.size('stage'),
        layout.accumulate,
        planned.pipeline(layout.size('stage')),
        again,
        planned.width,
    )
    lanes = target.chip.lanes
    rates = wire.rates(target, sizes)
    return Found(
        target,
        layout,
        memory.estimate(planned, layout, held, tokens / layout.accumulate, lanes),
        sent,
        cost_model.seconds(work, target, sent, rates, constants),
    )


def resized(
    planned: job.Job, found: Found, rows: int, constants: cost_model.Constants
) -> Found:
    """The same layout with so many rows in a step; UserError as `evaluate`."""
    layout = dataclasses.replace(found.layout, rows=rows)
    return evaluate(planned, found.target, layout, constants)


def ranked(planned: job.Job, target: targets.Target) -> list[Found]:
    """What fits, the fastest first; UserError that says the smallest slice if nothing.

    Of equals, the one with the fewest mesh axes and the most room.
    """

    def worth(one: Found) -> tuple[float, int, float]:
        return round(one.time.step, 4), len(one.layout.sizes), one.bytes.peak

    tried = list(_all(planned, target))
    if found := [one for one in tried if one.fits]:
        return sorted(found, key=worth)
    if not tried:
        raise command.UserError(
            f'no mesh of {target.chips} chips divides the model and the '
            f'{planned.rows} rows of a step; set data.batch_size to a multiple of '
            f'{target.chips}.'
        )
    kind = target.name.partition('-')[0]
    never = f'no slice of {kind} would do; take another chip, or a smaller model'
    if target.chip.platform == 'gpu':
        never = (
            f'no single node of {kind} would do, and over several nodes plans shard '
            'the weights within one node only; take another chip, or a smaller model'
        )
    needed = next(
        (
            f'the smallest slice of {kind} that would do is {more.name}'
            for more in targets.larger(target)
            if any(one.fits for one in _all(planned, more))
        ),
        never,
    )
    raise command.UserError(
        f'{planned.parameters / 1e9:.1f}B parameters do not fit on {target.name} '
        f'({target.chips} x {target.chip.memory / targets.GIB:.0f} GiB); {needed}.'
    )


def _all(planned: job.Job, target: targets.Target) -> Iterator[Found]:
    for sizes, rules in _meshes(planned, target):
        for accumulate in _powers(planned.rows):
            for remat in _REMAT:
                layout = job.Layout(sizes, rules, planned.rows, accumulate, remat)
                shards = layout.parts('batch') * accumulate
                if any(rows % shards for _, rows in planned.stretches):
                    continue
                try:
                    yield evaluate(planned, target, layout)
                except command.UserError:
                    continue  # something does not divide


def _meshes(
    planned: job.Job, target: targets.Target
) -> Iterator[tuple[tuple[tuple[str, int], ...], str]]:
    """Sizes and rules: data, fsdp, tensor and, of a mixture, experts."""
    arch, chips = planned.arch, target.slice_chips
    experts = _GROUPS if arch.experts else (1,)
    for tensor in _GROUPS:
        for expert in experts:
            if chips % (tensor * expert) or arch.K % tensor:
                continue
            if arch.experts and arch.experts.E % expert:
                continue
            rest = chips // tensor // expert
            for fsdp in _powers(rest):
                sizes = {
                    'slice': target.slices, 'data': rest // fsdp, 'fsdp': fsdp,
                    'expert': expert, 'tensor': tensor,
                }  # fmt: skip
                yield job.split(sizes), rules_of(sizes)


def rules_of(sizes: Mapping[str, int]) -> str:
    """The forms that a mesh of these sizes needs."""
    forms = [axis for axis in ('fsdp', 'tensor', 'expert') if sizes.get(axis, 1) > 1]
    return '_'.join(forms) or 'data'


def _powers(n: int) -> list[int]:
    """Divisors of n that are powers of two."""
    return [2**i for i in range(int(math.log2(n)) + 1) if n % 2**i == 0] if n else []
