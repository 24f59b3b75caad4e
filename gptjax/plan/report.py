"""Plans as tables for a terminal, and as JSON."""

from collections.abc import Iterable
import dataclasses
import json as json_lib
from typing import Any

from gptjax.plan import ahead, search, targets, wire
from gptjax.plan import plans as plans_lib
from gptjax.train import show

_GIB = targets.GIB
KINDS = ('weights', 'gradients', 'optimizer', 'activations', 'temporaries')


def json(plans: Iterable[plans_lib.Plan | plans_lib.Refused]) -> str:
    """All targets, in one line."""
    return json_lib.dumps([as_json(plan) for plan in plans])


def as_json(plan: plans_lib.Plan | plans_lib.Refused) -> dict[str, Any]:
    """One target, as `--json` prints it: bytes, seconds, US dollars; or its error."""
    if isinstance(plan, plans_lib.Refused):
        return {'target': plan.target, 'error': plan.why}
    found, layout = plan.found, plan.found.layout
    return {
        'target': found.target.name,
        'chips': found.target.chips,
        'peak_bytes_per_device': round(plan.peak),
        'step_seconds': found.time.step,
        'mfu': found.time.mfu,
        'tokens_per_second': plan.job.tokens / found.time.step,
        'days': plan.seconds / 86_400,
        'cost_usd': plan.cost,
        'binding': found.time.binding,
        'mesh': {**dict(layout.sizes), 'rules': layout.rules},
        'batch': {'rows': layout.rows, 'microbatches': layout.accumulate},
        'remat': layout.remat,
        'note': plan.note,
        'compiled': plan.compiled is not None,  # of the step, on the target's compiler
        'flags': ahead.flags(plan.job.settings, layout),
    }


COLUMNS = [
    'target', 'chips', 'GiB a device', 'step', 'MFU', 'causal', 'tokens/s', 'days',
    'cost', 'binds', 'mesh', 'rows / microbatches', 'remat',
]  # fmt: skip


def text(made: plans_lib.Plans) -> str:
    """What is trained, all targets side by side, and each target by itself."""
    rows = [row(one) for one in made.plans]
    head = f'{made.name}: {job(made)}'
    return '\n\n'.join(
        [head, show.table(COLUMNS, rows, left=1), *map(_one, made.plans)]
    )


def job(made: plans_lib.Plans) -> str:
    """Parameters, operations and tokens of the whole run."""
    one = made.job
    tokens = one.all_tokens
    most = 'up to ' if len(one.stretches) > 1 else ''
    return (
        f'{one.parameters:,} parameters, {one.flops_per_token / 1e9:,.2f} GFLOP a '
        f'token; {one.steps:,} steps of {most}{one.tokens:,} tokens are '
        f'{tokens / 1e9:,.2f}B tokens and {one.flops_per_token * tokens:.2e} FLOP'
    )


def row(plan: plans_lib.Plan | plans_lib.Refused) -> list[str]:
    """A target's cells under COLUMNS."""
    if isinstance(plan, plans_lib.Refused):
        return [plan.target, '-', 'refused', *'-' * (len(COLUMNS) - 3)]
    told, chip, layout = as_json(plan), plan.found.target.chip, plan.found.layout
    step = plan.found.time.step
    stages = f' x {layout.turns}' if layout.size('stage') > 1 else ''
    return [
        told['target'],
        f'{told["chips"]}',
        f'{plan.peak / _GIB:.1f} of {chip.memory / _GIB:.0f}',
        f'{step:.2f} s' if step >= 0.01 else f'{step * 1e3:.3g} ms',
        f'{told["mfu"]:.1%}',
        f'{told["mfu"] * plan.job.causal:.1%}',
        f'{told["tokens_per_second"]:,.0f}',
        f'{told["days"]:,.2f}',
        'no price' if plan.cost is None else f'${plan.cost:,.0f}',
        told['binding'],
        str(layout),
        f'{layout.rows} / {layout.accumulate}{stages}',
        told['remat'],
    ]


def spent(plan: plans_lib.Plan) -> dict[str, float]:
    """Seconds of a step by what takes them; they sum to the step."""
    time = plan.found.time
    parts = {
        'products': time.products,
        'attention': time.attention,
        'HBM': time.memory,
        'waiting for links': time.shown,
        'waiting for DCN and others': time.waiting,
    }
    return {name: seconds for name, seconds in parts.items() if seconds}


def _one(plan: plans_lib.Plan | plans_lib.Refused) -> str:
    if isinstance(plan, plans_lib.Refused):
        return f'{plan.target}: {plan.why}'
    found, known = plan.found, plan.compiled
    of = dataclasses.asdict(found.bytes)
    kinds = [[kind, f'{of[kind] / _GIB:.2f}'] for kind in KINDS]
    kinds.append(['all', f'{found.bytes.peak / _GIB:.2f}'])
    if known:
        kinds.append(['the compiler', f'{known["peak"] / _GIB:.2f}'])
    price, source = targets.price(found.target)
    lines = [f'{found.target.name}: {plan.note}']
    if price is not None:
        lines.append(f'${price:.2f} for a chip and an hour: {source}')
    if flags := ahead.flags(plan.job.settings, found.layout):
        lines.append(f'to run it: {" ".join(flags)}')
    times = {**spent(plan), 'step': found.time.step}
    shown = [[name, f'{seconds * 1e3:,.1f}'] for name, seconds in times.items()]
    tables = [
        show.table(['memory', 'GiB a device'], kinds, left=1),
        show.table(['time', 'ms a step'], shown, left=1),
    ]
    if found.sent:
        tables.append(_sent(plan))
    return '\n'.join(lines) + '\n\n' + '\n\n'.join(tables)


def _link(found: search.Found, axis: str) -> str:
    """What joins the devices of a mesh axis; of GPUs, the last axes fill a node."""
    if axis == 'host':
        return 'PCIe'
    network = axis in wire.across(found.target, dict(found.layout.sizes))
    return 'DCN' if network else found.time.link


def _sent(plan: plans_lib.Plan) -> str:
    rows = [
        [
            one.kind,
            one.axis,
            _link(plan.found, one.axis),
            f'{one.count:,}',
            f'{one.bytes / 1e6:,.1f}',
        ]
        for one in plan.found.sent
    ]
    if plan.compiled:
        for kind, (count, moved) in plan.compiled['collectives'].items():
            rows.append(
                [f'compiled: {kind}', '', '', f'{count:,}', f'{moved / 1e6:,.1f}']
            )
    head = ['collective', 'mesh axis', 'link', 'times', 'MB a device and step']
    return show.table(head, rows, left=3)
