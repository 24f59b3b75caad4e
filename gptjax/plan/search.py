"""Mesh x batch x remat for a target: what fits, and of that the fastest."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import itertools
import math

from gptjax import command
from gptjax.plan import cost_model, job, memory, targets, wire

FULL = 0.9  # of the memory at most: allocators need some of it
# What a form must be faster by that no published row has: see `_doubts`.
DOUBT = 1.02
_GROUPS = (1, 2, 4, 8, 16)  # devices that split a layer, its experts, or rows
_PIPELINES = (1, 2, 4)  # microbatches for each stage
_CHUNKS = (1, 4, 16, 64)  # of the logits, of which one exists at once


@dataclasses.dataclass(frozen=True)
class Found:
    """A layout on a target: what it takes, and how long."""

    target: targets.Target
    layout: job.Layout
    bytes: memory.Bytes
    sent: tuple[wire.Sent, ...]
    time: cost_model.Time

    @property
    def worth(self) -> tuple[float, int, float]:
        """The least is the best; of equals the fewest mesh axes and the most room."""
        step = self.time.step * DOUBT ** _doubts(self.layout)
        return float(f'{step:.4g}'), len(self.layout.sizes), self.bytes.peak


def _doubts(layout: job.Layout) -> int:
    """How many of its forms no published row has."""
    axes = layout.size('context') > 1, layout.size('stage') > 1, layout.sequence > 1
    return sum(axes) + (layout.remat == 'offload') + (layout.loss_rows > 0)


def evaluate(
    planned: job.Job,
    target: targets.Target,
    layout: job.Layout,
    constants: cost_model.Constants = cost_model.FITTED,
) -> Found:
    """One layout; UserError where a dimension or the batch does not divide."""
    arch, shards = planned.arch, layout.parts('batch')
    parts, stages = layout.turns // layout.rounds, layout.size('stage')
    if layout.rows % (shards * layout.accumulate * parts):
        pipelined = f' of {parts} in the pipeline each' if stages > 1 else ''
        raise command.UserError(
            f'data.batch_size is {layout.rows}, which {layout.accumulate} microbatches'
            f'{pipelined} on {shards} data shards do not divide; set it to a multiple '
            f'of {shards * layout.accumulate * parts}.'
        )
    sizes, again = dict(layout.sizes), _again(layout)
    held, tokens, taken = _taken(planned, target, layout)
    # What a stage does in an iteration, it does for each microbatch of a pipeline.
    times = layout.accumulate * layout.iterations // layout.rounds
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
        layout.sequence > 1,
        parts,
        layout.iterations / layout.rounds,
        layout.iterations,
        _each(planned, target, layout),
    )
    sent = [*wire.sent(traffic, sizes)]
    moved = memory.hosted(planned, layout, tokens / layout.accumulate)
    if moved and target.chip.platform != 'cpu':  # which has one memory
        layers = round(arch.L / stages) * times
        both = 2 * moved * layout.accumulate
        sent.append(wire.Sent('offload activations', 'host', 2 * layers, both))
    work = cost_model.Work(
        arch,
        planned.T,
        tokens,
        planned.flops_per_token,
        held.weights / 4,
        layout.size('tensor'),
        stages,
        times,
        layout.turns,
        again,
        planned.width,
    )
    rates, across = wire.rates(target, sizes), wire.across(target, sizes)
    time = cost_model.seconds(work, target, sent, rates, constants, across)
    return Found(target, layout, taken, tuple(sent), time)


def _each(planned: job.Job, target: targets.Target, layout: job.Layout) -> bool:
    """Whether gradients are summed in each microbatch, as `begin.program` has it."""
    cudnn = planned.compute.attention in ('auto', 'cudnn') and not planned.arch.dropout
    return target.chip.platform == 'gpu' and cudnn and layout.size('context') == 1


def _again(layout: job.Layout) -> frozenset[str]:
    """What backward computes again; what the ring gives, no policy keeps."""
    remat = layout.remat
    if layout.size('context') > 1 and remat == 'minimal':
        remat = 'dots'
    again = command.lookup(cost_model.AGAIN, remat, 'remat policy of plans')
    return again | {'head'} if layout.loss_rows else again


def _taken(
    planned: job.Job, target: targets.Target, layout: job.Layout
) -> tuple[job.Held, float, memory.Bytes]:
    """What lies on a device, the tokens of a step there, and the peak."""
    held, lanes = planned.held(layout), target.chip.lanes
    tokens = layout.rows * planned.T / layout.parts('batch') / layout.size('context')
    each = tokens / layout.accumulate
    return held, tokens, memory.estimate(planned, layout, held, each, lanes)


def resized(
    planned: job.Job, found: Found, rows: int, constants: cost_model.Constants
) -> Found:
    """The same layout with so many rows in a step; UserError as `evaluate`."""
    layout = dataclasses.replace(found.layout, rows=rows)
    return evaluate(planned, found.target, layout, constants)


def ranked(planned: job.Job, target: targets.Target) -> list[Found]:
    """What fits, the best first; UserError that says what would do if nothing."""
    if found := sorted(_fitting(planned, target), key=lambda one: one.worth):
        return found
    raise command.UserError(_refusal(planned, target) + '.')


def _refusal(planned: job.Job, target: targets.Target) -> str:
    """What does not fit, or does not divide, and what would do."""
    counts = sorted({rows for _, rows in planned.stretches})
    rows = f'{" and ".join(map(str, counts))} rows'
    section = 'data.batch_size' + ' and data.batch_ramp' * (len(counts) > 1)
    multiple = f'set {section} to a multiple of {target.chips}'
    if not any(_first(planned, target)):
        return (
            f'no mesh of {target.chips} chips divides the model and the {rows} of a '
            f'step; {multiple}'
        )
    kind, least = target.name.partition('-')[0], f'lower T, {planned.T} tokens'
    if any(count % target.chips for count in counts):
        least = f'{multiple}, or {least}'
    larger = targets.larger(target)
    some = next((one.name for one in larger if any(_fitting(planned, one))), '')
    needed = f'the smallest slice of {kind} that would do is {some}'
    holding = next((one for one in (target, *larger) if _holds(planned, one)), None)
    if holding == target:
        needed = least + f'; or {needed}' * bool(some)
    elif not some and holding:
        needed = f'{holding.name} holds the weights, but not the activations; {least}'
    elif not some:
        needed = f'no slice of {kind} would do; take another chip, or a smaller model'
    if spared := [
        what for what, less in planned.spared() if any(_fitting(less, target))
    ]:
        needed += f'; on {target.name} it fits with {", or with ".join(spared)}'
    size = f'{target.chips} x {target.chip.memory / targets.GIB:.0f} GiB'
    if holding == target:
        return (
            f'no microbatch of a step of {rows} ({section}) is small enough for '
            f'{target.name} ({size}); {needed}'
        )
    return (
        f'{planned.parameters / 1e9:.1f}B parameters do not fit on {target.name} '
        f'({size}); {needed}'
    )


def _holds(planned: job.Job, target: targets.Target) -> bool:
    """Whether a mesh has room for what lies on a device between steps."""
    held = (
        planned.held(job.Layout(*mesh, planned.rows, 1, 'full'))
        for mesh in _meshes(planned, target)
    )
    limit = FULL * target.chip.memory
    return any(sum(vars(one).values()) <= limit for one in held)


def _fitting(planned: job.Job, target: targets.Target) -> Iterator[Found]:
    """What fits, with all numbers of microbatches, as a compiler may refuse the best.

    Of forms with doubts, with the two that are fastest, where what no form changes,
    the work of a device, leaves room for them to be the best.
    """
    best, work = math.inf, dict[frozenset[str], float]()
    for one in _first(planned, target):
        doubts, again = _doubts(one), _again(one)
        fill = one.iterations / one.turns
        least = sum(vars(planned.held(one)).values())
        if least > FULL * target.chip.memory or (
            doubts and work.get(again, 0.0) * fill * DOUBT**doubts >= best
        ):
            continue
        counts = [n for n in _divisors(planned.rows) if _divides(planned, one, n)]
        group = [dataclasses.replace(one, accumulate=n) for n in counts]
        # Whether anything fits: the most microbatches, or one, whose gradients need no
        # copy to be added to.
        if not any(_room(planned, target, end) for end in (group[0], group[-1])):
            continue
        rooms = (_room(planned, target, layout) for layout in group)
        fits = (evaluate(planned, target, layout) for layout in rooms if layout)
        for found in itertools.islice(fits, 2 if doubts else None):
            time, best = found.time, min(best, found.worth[0])
            busy = time.products + time.attention + time.memory
            work[again] = min(busy, work.get(again, math.inf))
            yield found


def _room(
    planned: job.Job, target: targets.Target, layout: job.Layout
) -> job.Layout | None:
    """A layout if it fits, or where a part of its logits at once does; else None."""
    limit = FULL * target.chip.memory
    whole = layout.rows * planned.T // layout.accumulate
    for parts in (1,) if layout.loss_rows else _CHUNKS:
        rows = whole // parts if parts > 1 else layout.loss_rows
        one = dataclasses.replace(layout, loss_rows=rows)
        _, tokens, taken = _taken(planned, target, one)
        away = memory.hosted(planned, one, tokens / one.accumulate)
        # Hosts have more memory for a chip than it has itself: 512 GiB for 8 v5e, 1,536
        # for 8 v6e (Google's page of v6e), 448 for 4 v5p.
        if taken.peak <= limit and away <= target.chip.memory:
            return one
    return None


def _first(planned: job.Job, target: targets.Target) -> Iterator[job.Layout]:
    """Layouts of one microbatch; last those with forms that `_doubts` counts."""
    loss_rows = planned.compute.loss_rows
    new = 'context', 'stage', 'sequence'
    meshes = _meshes(planned, target)
    for sizes, rules in sorted(meshes, key=lambda mesh: sum(f in mesh[1] for f in new)):
        stages, ring = dict(sizes).get('stage', 1), 'context' in dict(sizes)
        parts = [n * stages for n in _PIPELINES] if stages > 1 else [0]
        for remat, pipeline in itertools.product(cost_model.AGAIN, parts):
            one = job.Layout(
                sizes, rules, planned.rows, 1, remat, pipeline, loss_rows=loss_rows
            )
            same = ring and remat == 'minimal'  # as 'dots'
            if _divides(planned, one, 1) and not same:
                yield one


def _divides(planned: job.Job, layout: job.Layout, accumulate: int) -> bool:
    pieces = layout.parts('batch') * accumulate * (layout.pipeline or 1)
    return not any(rows % pieces for _, rows in planned.stretches)


def _meshes(
    planned: job.Job, target: targets.Target
) -> Iterator[tuple[tuple[tuple[str, int], ...], str]]:
    """Sizes and rules of all forms, which models and rows do not rule out.

    Within a node of GPUs is what is sent in the midst of a layer; data, weights and
    stages may go on over nodes, where the axis `slice` does not.
    """
    arch, T, gpu = planned.arch, planned.T, target.chip.platform == 'gpu'
    groups = (
        [n for n in _GROUPS if arch.K % n == 0],
        [n for n in _GROUPS if arch.experts and arch.experts.E % n == 0] or [1],
        [n for n in _GROUPS if T % (2 * n) == 0 and not (n > 1 and arch.dropout)],
        [n for n in _GROUPS if arch.L % n == 0],
    )
    several = _powers(target.slices) if gpu else [target.slices]
    for slices, tensor, expert, context, stage in itertools.product(several, *groups):
        chips, inner = target.chips // slices, tensor * expert * context
        if chips % (inner * stage) or (stage > 1 and context > 1):
            continue
        if gpu and inner > target.slice_chips:
            continue
        rest = chips // inner // stage
        for fsdp in _powers(rest):
            if gpu and slices < target.slices and fsdp < rest and stage == 1:
                continue  # as more slices are
            found = {
                'slice': slices, 'stage': stage, 'data': rest // fsdp, 'fsdp': fsdp,
                'expert': expert, 'context': context, 'tensor': tensor,
            }  # fmt: skip
            sizes, rules = job.split(found), rules_of(found)
            more = tensor > 1 and T % (2 * tensor * context) == 0
            with contextlib.suppress(command.UserError):  # weights that do not divide
                planned.held(job.Layout(sizes, rules, planned.rows, 1, 'full'))
                yield sizes, rules
                yield from [(sizes, f'{rules}_sequence')] * more


def rules_of(sizes: Mapping[str, int]) -> str:
    """The forms that a mesh of these sizes needs."""
    forms = ('fsdp', 'tensor', 'expert', 'context', 'stage')
    return '_'.join(axis for axis in forms if sizes.get(axis, 1) > 1) or 'data'


def _divisors(n: int) -> list[int]:
    """All of them, the least first."""
    small = [i for i in range(1, math.isqrt(n) + 1) if n % i == 0]
    return small + [n // i for i in reversed(small) if i * i < n]


def _powers(n: int) -> list[int]:
    """Divisors of n that are powers of two."""
    return [2**i for i in range(int(math.log2(n)) + 1) if n % 2**i == 0] if n else []
