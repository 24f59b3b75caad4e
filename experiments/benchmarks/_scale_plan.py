"""The planner against compilers, published rows and this CPU.

Programs for slices of TPUs, compiled ahead of time, are in scale_compiled.json, a row
for each of CASES, which this makes anew in 40 to 100 s (Python with libtpu):

    PYTHONPATH=. .venv-tpu/bin/python -m experiments.benchmarks._scale_plan NAME

Of the plan's own choice where a case names only the rows of a step. The time of a step
is that of the analytic model, whose one set of constants was fitted to the rows of
_maxtext.py.
"""

from collections.abc import Iterator, Mapping
import json
import math
from pathlib import Path
import sys
from typing import Any

from configs import gpt2, pretrain
from experiments.benchmarks import _maxtext
from gptjax.plan import ahead, cpu, job, search, targets
from gptjax.plan import step as step_lib
from gptjax.train import settings as settings_lib

COMPILED = Path(__file__).with_name('scale_compiled.json')

Layout = tuple[dict[str, int], int, int, str]  # mesh, rows, microbatches, remat
# The five figures first: a config, its T, a target, and the rows for the plan's choice.
CASES: dict[str, tuple[str, int, str, Layout | int]] = {
    'GPT-2 XL on v5e-16': ('gpt2-xl', 1024, 'v5e-16', 512),
    'Llama 8B on v5p-128': ('llama-3.1-8b', 8192, 'v5p-128', 512),
    'Llama 8B on v6e-256': ('llama-3.1-8b', 8192, 'v6e-256', 512),
    'Llama 70B on v5p-256': (
        'llama-3.1-70b', 8192, 'v5p-256', ({'fsdp': 64, 'tensor': 2}, 512, 8, 'dots'),
    ),
    'Mixtral 8x7B on v5p-128': ('mixtral-8x7b', 4096, 'v5p-128', 512),
    'GPT-2 XL, as its config': (
        'gpt2-xl', 1024, 'v5e-16', ({'fsdp': 16}, 512, 8, 'dots'),
    ),
    'GPT-2 XL, full': ('gpt2-xl', 1024, 'v5e-16', ({'fsdp': 16}, 128, 1, 'full')),
    'GPT-2 small, none': ('gpt2-small', 1024, 'v5e-4', ({'fsdp': 4}, 32, 1, 'none')),
    'Llama 8B, full': ('llama-3.1-8b', 8192, 'v5p-128', ({'fsdp': 64}, 64, 1, 'full')),
    'Llama 8B, dots': ('llama-3.1-8b', 8192, 'v5p-128', ({'fsdp': 64}, 64, 1, 'dots')),
    'Llama 8B, none': ('llama-3.1-8b', 8192, 'v5p-128', ({'fsdp': 64}, 512, 8, 'none')),
    'Llama 70B, full': (
        'llama-3.1-70b', 8192, 'v5p-256', ({'fsdp': 128}, 128, 1, 'full'),
    ),
    'Llama 70B, tensor, full': (
        'llama-3.1-70b', 8192, 'v5p-256', ({'fsdp': 32, 'tensor': 4}, 128, 1, 'full'),
    ),
    'Mixtral 8x7B, full': (
        'mixtral-8x7b', 4096, 'v5p-128', ({'fsdp': 64}, 64, 1, 'full'),
    ),
}  # fmt: skip
_FIGURES = list(CASES)[:5]


def planned(name: str) -> tuple[job.Job, targets.Target, search.Found]:
    """A case as the analytic model has it."""
    model, T, target_name, layout = CASES[name]
    size = model.removeprefix('gpt2-')
    config = gpt2.get_config(size) if size != model else pretrain.get_config(model)
    config.model['T'] = T
    if isinstance(layout, int):
        config.data.batch_size = layout
    made, target = job.Job(settings_lib.of(config)), targets.parse(target_name)
    if isinstance(layout, int):
        return made, target, search.ranked(made, target)[0]
    mesh, rows, accumulate, remat = layout
    rules = search.rules_of(mesh)
    laid = job.Layout(job.split(mesh), rules, rows, accumulate, remat)
    return made, target, search.evaluate(made, target, laid)


def rows() -> Iterator[dict[str, Any]]:
    known: dict[str, Any] = json.loads(COMPILED.read_bytes())
    for name in CASES:
        yield from _case(name, known.get(name, {}))
    yield from _compiling(known)
    for row in _maxtext.ROWS:
        forecast = _maxtext.mfu(row)
        yield {
            'name': f'plan: {row.name}, MFU forecast / published {row.mfu:.1f} %',
            'value': abs(100 * forecast / row.mfu - 1), 'goal': 0.15,
            'direction': 'min', 'unit': 'off', 'ours': 100 * forecast, 'peer': row.mfu,
        }  # fmt: skip
    yield _here()


def _case(name: str, compiled: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    _, target, found = planned(name)
    layout = found.layout
    told = str(layout), layout.accumulate, layout.remat
    same = told == tuple(compiled.get(n) for n in ('mesh', 'microbatches', 'remat'))
    peak = compiled.get('peak') if same else None  # of a layout chosen before
    print(f'{name}: {found.layout}, {found.time}, {found.bytes}', file=sys.stderr)
    yield {
        'name': f'plan: {name}, peak estimated / compiled',
        'value': peak and abs(found.bytes.peak / peak - 1), 'goal': 0.1,
        'direction': 'min', 'unit': 'off', 'ours': found.bytes.peak, 'peer': peak,
    }  # fmt: skip
    if name not in _FIGURES:
        return
    yield {
        'name': f'ahead of time: {name}, memory',
        'value': peak and peak / target.chip.memory, 'goal': 0.9, 'direction': 'min',
        'unit': 'of its HBM',
    }  # fmt: skip
    yield {
        'name': f'ahead of time: {name}, MFU forecast',
        'value': found.time.mfu if peak else None,
        'goal': 0.6 if 'v5p' in name else 0.5, 'direction': 'max', 'unit': 'MFU',
    }  # fmt: skip


def _compiling(known: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    large = known.get('Llama 70B on v5p-256', {})
    for what, key, goal, unit in (
        ('time', 'seconds', 300, 's'), ('memory', 'resident', 20 * 2**30, 'bytes')
    ):  # fmt: skip
        yield {
            'name': f'plan of 70B on v5p-256, 2 cores: {what}',
            'value': large.get(key), 'goal': goal, 'direction': 'min', 'unit': unit,
        }  # fmt: skip
    # On a shared machine, the seconds of processors are what a compile takes.
    times = [known.get(f'{L} layers', {}).get('processor') for L in (12, 48)]
    yield {
        'name': 'compile for v5e-1: 48 layers / 12, scanned',
        'value': times[1] / times[0] if all(times) else None, 'goal': 1.3,
        'direction': 'min', 'unit': 'times',
    }  # fmt: skip


def _here() -> dict[str, Any]:
    """The forecast of a step on this CPU, and the step: 6 layers of width 384."""
    config = gpt2.get_config('small')
    config.model.update(T=256, V=512, D=384, F=1536, N=6, K=6, H=64, L=6)
    config.data.batch_size = 16
    config.compute.update(dtype='float32', remat='none', accumulate=1)
    made = job.Job(settings_lib.of(config))
    here = cpu.target()
    constants = cpu.calibrate(made, here)
    forecast = search.evaluate(made, here, made.own(1), constants).time.step
    config.mesh.fsdp = 1
    measured = cpu.measured(step_lib.of(config))
    return {
        'name': 'plan: a step of 6 x 384 on this CPU, forecast / measured',
        'value': abs(forecast / measured - 1), 'goal': 0.25, 'direction': 'min',
        'unit': 'off', 'ours': forecast, 'peer': measured,
    }  # fmt: skip


def _compile(name: str) -> dict[str, Any]:
    if name.endswith(' layers'):
        config = gpt2.get_config('small')
        config.model.update(L=int(name.split()[0]), D=512, F=2048, N=4, K=4, H=128)
        config.data.batch_size = 8
        made, target = job.Job(settings_lib.of(config)), targets.parse('v5e-1')
        layout = job.Layout((), 'data', 8, 1, 'dots')
    else:
        made, target, found = planned(name)
        layout = found.layout
    compiled = ahead.compile_(made.settings, target, layout)
    kept = (
        'peak', 'alive', 'arguments', 'seconds', 'processor', 'resident',
        'collectives', 'error',
    )  # fmt: skip
    told = {key: compiled[key] for key in kept if key in compiled}
    mesh = {'mesh': str(layout), 'microbatches': layout.accumulate}
    return {'target': target.name, **mesh, 'remat': layout.remat, **told}


def main() -> None:
    for name in sys.argv[1:]:
        found = _compile(name)
        print(name, found, flush=True)
        assert math.isfinite(found.get('peak', math.nan)), found
        known = json.loads(COMPILED.read_bytes()) if COMPILED.exists() else {}
        COMPILED.write_text(json.dumps({**known, name: found}, indent=1) + '\n')


if __name__ == '__main__':
    main()
