"""Plan against actual: what a run was forecast to do, and what it has done."""

from collections.abc import Mapping
from pathlib import Path
import statistics
from typing import Any

from gptjax import command
from gptjax import sharding as sharding_lib
from gptjax.plan import job, plans, search
from gptjax.train import log, show
from gptjax.train import settings as settings_lib


def compare(workdir: Path, name: str) -> dict[str, Any]:
    """{figure: {plan, actual}} of the run in a workdir, on the target `name`.

    Of the run's own mesh, microbatches and remat policy. UserError for a workdir
    without metrics.
    """
    settings = settings_lib.stored(workdir)
    known = [one['tokens_per_second'] for one in log.read(workdir)]
    speeds = [float(speed) for speed in known if speed]
    if 'imported' in settings or not speeds:
        raise command.UserError(
            f'{workdir} has no metrics of steps; it is of a run of python -m '
            'gptjax.train, some steps old.'
        )
    planned = job.Job(settings)
    here, constants = plans.place(planned, name)
    layout = planned.own(here.chips)
    if layout.size(*sharding_lib.MESH_AXES) != here.chips:
        raise command.UserError(
            f'the mesh of {workdir} ({layout}) is not of the {here.chips} chips of '
            f'{name}; give --target, what it ran on.'
        )
    try:
        found = search.evaluate(planned, here, layout, constants)
    except command.UserError as error:  # which training would have refused, too
        raise command.UserError(
            f'{workdir} has not run on {name}, as {error} Give --target, what it ran '
            'on.'
        ) from None
    # The first line has the compilation of an evaluation, or a cold cache.
    actual = statistics.median(speeds[1:] or speeds)
    forecast = planned.tokens / found.time.step
    peak = here.chip.flops * here.chips
    mfu = planned.flops_per_token * actual / peak
    if mfu > 1:
        raise command.UserError(
            f'{workdir} has not run on {name}: it did {mfu:.1f} times what its '
            f'{here.chips} chips do at most; give --target, what it ran on.'
        )
    return {
        'target': here.name,
        'layout': str(found.layout),
        'tokens_per_second': {'plan': forecast, 'actual': actual},
        'step_seconds': {
            'plan': found.time.step,
            'actual': planned.tokens / actual,
        },
        'mfu': {
            'plan': found.time.mfu,
            'actual': mfu,
        },
    }


def text(found: Mapping[str, Any]) -> str:
    """A table of it."""
    rows = [
        [name, f'{of["plan"]:,.3f}', f'{of["actual"]:,.3f}',
         f'{of["plan"] / of["actual"] - 1:+.1%}']
        for name, of in found.items()
        if isinstance(of, Mapping)
    ]  # fmt: skip
    head = ['of the run', 'plan', 'actual', 'off by']
    return f'{found["target"]}, {found["layout"]}\n\n' + show.table(head, rows, left=1)
