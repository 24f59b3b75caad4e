"""Where a step of a run spends its time and memory, and how little it could.

The step is compiled and run anew, from the config and data of a workdir, at weights of
step 0; nothing is written there.
"""

from collections.abc import Mapping
import contextlib
import math
from pathlib import Path
import statistics
import tempfile
import time
from typing import Any

import jax

from gptjax import command, platforms
from gptjax.train import (
    begin,
    checkpoint,
    clock,
    flops,
    phases,
    profile,
    program,
    replay,
    roofline,
    show,
    source,
)
from gptjax.train import settings as settings_lib

_TOP = 10
_SECONDS, _ROUNDS, _TRACED = 1.0, 3, 5  # of a round; how many; steps in the trace
_WHEN = ('forward', 'recomputed', 'backward', '')


def explain(workdir: Path) -> dict[str, Any]:
    """What `text` shows, as JSON: times in seconds, memory in bytes of one device.

    Raises UserError for a workdir of imported weights.
    """
    settings = settings_lib.stored(workdir)
    if 'imported' in settings:
        raise command.UserError(f'{workdir} holds imported weights, and no steps.')
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        run = replay.rebuilt(settings, workdir, scratch)
        with contextlib.closing(checkpoint.Checkpoints(scratch, keep=1)) as unused:
            begun = begin.begin(run, unused, None)
        run, state, frozen = begun.run, begun.state, begun.frozen
        made = source.make(run, 0, 0, (), phases.Phases(None))
        with contextlib.closing(made):
            batch, state, _ = made.next(state, frozen)
            rollout = rollout_(run, made, state, frozen)
        compiled, spent = compile_(begun.train_step, state, frozen, batch)
        mesh, compute = run.model.sharding.mesh, run.model.compute
        found = {
            'workdir': str(workdir),
            'device': mesh.devices.flat[0].device_kind,
            'devices': mesh.size,
            'platform': platforms.told(),
            'rows': batch['tokens'].shape[0],
            'tokens': batch['tokens'].size,
            'dtype': compute.dtype,
            'compile': spent,
            'memory': memory(compiled, state, frozen, batch),
            'rollout': rollout,
        }
        step = _Step(compiled, state, frozen, batch)
        found['seconds'] = step.seconds()
        trace = step.trace(scratch)
    limits = roofline.measure(mesh.devices.flat[0])
    found['roofline'] = {'flops': limits.flops, 'bytes': limits.bytes}
    speed = found['tokens'] / found['seconds']
    peak = flops.peak(mesh.devices.flat[0]) or limits.flops['bfloat16']
    found['mfu'] = {
        name: clock.flops_per_token(run, causal=causal) * speed / (peak * mesh.size)
        for name, causal in (('full', False), ('causal', True))
    }
    found['peak'] = peak
    operations = program.operations(compiled.as_text() or '')
    return found | _operations(operations, trace, limits, compute.dtype)


def rollout_(run: Any, made: Any, state: Any, frozen: Any) -> dict[str, Any] | None:
    """Seconds of a rollout, which is in no step, and for how many steps it is.

    run: a build.Run. made: its source, which has given the first batch.
    """
    if run.rollout is None:
        return None
    steps = run.rollout.updates(run.data.batch_size)
    for _ in range(steps):
        began = time.perf_counter()
        _, state, _ = made.next(state, frozen)
    jax.block_until_ready(state)
    return {'seconds': time.perf_counter() - began, 'steps': steps}


def compile_(step: Any, *given: Any) -> tuple[jax.stages.Compiled, dict[str, Any]]:
    """The program of a step, and the seconds of its parts; kept: from which cache."""
    events: list[str] = []

    def listen(event: str, **_: Any) -> None:
        events.append(event.rpartition('/')[2])

    jax.monitoring.register_event_listener(listen)
    spent: dict[str, Any] = {}
    try:
        for name, arguments in (('trace', given), ('lower', ()), ('compile', ())):
            began = time.perf_counter()
            step = getattr(step, name)(*arguments)
            spent[name] = time.perf_counter() - began
    finally:
        jax.monitoring.unregister_event_listener(listen)
    return step, {**spent, 'from_cache': 'cache_hits' in events}


def memory(
    compiled: jax.stages.Compiled, state: Any, frozen: Any, batch: Any
) -> dict[str, Any]:
    """Bytes by kind on one device; donated: whether the new state takes no place."""
    known: Any = compiled.memory_analysis()
    found = {
        'weights': _bytes(state.params),
        'optimizer': _bytes(state.opt_state),
        'other state': _bytes((state.step, state.key, state.extra)),
        'frozen': _bytes(frozen),
        'batch': _bytes(batch),
        'temporaries': known.temp_size_in_bytes,
        'results that are not donated': (
            known.output_size_in_bytes - known.alias_size_in_bytes
        ),
    }
    in_place = known.alias_size_in_bytes
    return {**found, 'in_place': in_place, 'donated': in_place >= _bytes(state)}


def _bytes(tree: Any) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


class _Step:
    """A program that is run again and again on one batch."""

    def __init__(self, compiled: Any, state: Any, frozen: Any, batch: Any):
        self._compiled, self._state, self._given = compiled, state, (frozen, batch)
        self._run(2)  # the first ones find memory

    def _run(self, count: int) -> float:
        """Seconds of one of so many steps."""
        began = time.perf_counter()
        for _ in range(count):
            self._state, _ = self._compiled(self._state, *self._given)
        jax.block_until_ready(self._state)
        return (time.perf_counter() - began) / count

    def seconds(self) -> float:
        """Of a step: the median of rounds of about a second."""
        count = max(1, round(_SECONDS / self._run(1)))
        return statistics.median(self._run(count) for _ in range(_ROUNDS))

    def trace(self, folder: Path) -> profile.Spent:
        """Where the time of a step goes, while it is traced."""
        profile.start(folder)
        try:
            self._run(_TRACED)
        finally:
            jax.profiler.stop_trace()
        name = 'jit_train_step'
        spent = profile.spent(folder, name, program.CONTAINERS)
        if spent is None:
            raise command.UserError(
                'the trace of this platform tells no times of operations.'
            )
        return spent


def _operations(
    known: Mapping[str, program.Operation],
    trace: profile.Spent,
    limits: roofline.Roofline,
    dtype: str,
) -> dict[str, Any]:
    """Operations and stages with their share of the traced step, and its least time."""
    rows, stages = [], dict[str, dict[str, float]]()
    none = program.Operation('', '', program.Stage('', ''), 0.0, 0.0)
    for name, seconds in sorted(trace.of.items(), key=lambda pair: -pair[1]):
        one, times = known.get(name, none), trace.times.get(name, 0) / _TRACED
        spent, share = seconds / _TRACED, seconds / trace.seconds
        part = stages.setdefault(one.stage.part, dict.fromkeys(_WHEN, 0.0))
        part[one.stage.when] += share
        rows.append(
            {
                'name': name,
                'kind': one.kind,
                'stage': one.stage.part,
                'when': one.stage.when,
                'times': times,
                'seconds': spent,
                'share': share,
                'flops': one.flops * times,
                'bytes': one.bytes * times,
                'least': limits.least(one.flops, one.bytes, dtype) * times,
            }
        )
    total = {key: sum(row[key] for row in rows) for key in ('flops', 'bytes', 'least')}
    stages = dict(sorted(stages.items(), key=lambda one: -sum(one[1].values())))
    return {
        'traced_seconds': trace.seconds / _TRACED,
        'operations': rows[:_TOP],
        'stages': stages,
        'nothing_ran': 1 - sum(trace.of.values()) / trace.seconds,
        'flops': total['flops'],
        'bytes': total['bytes'],
        'least': {
            'flops': limits.least(total['flops'], 0.0, dtype),
            'bytes': limits.least(0.0, total['bytes'], dtype),
            'operations': total['least'],
        },
    }


def text(found: Mapping[str, Any]) -> str:
    """Tables for a terminal, of what `explain` has found."""
    return '\n\n'.join(
        [_lines(found), _memory(found), _top(found['operations']), _stages(found)]
    )


def _lines(found: Mapping[str, Any]) -> str:
    spent, mfu, limits = found['compile'], found['mfu'], found['roofline']
    least, seconds, dtype = found['least'], found['seconds'], found['dtype']
    where = f'{found["devices"]} x {found["device"]}'
    traced = f'{found["traced_seconds"] * 1e3:,.1f} ms while traced'
    cache = '' if spent['from_cache'] else 'not '
    rollout = []
    if found['rollout']:
        whole, steps = found['rollout'].values()
        rollout = [
            f'rollout: {whole * 1e3:,.1f} ms for {steps} steps, in none of these '
            f'figures; with it, a step takes {(whole / steps + seconds) * 1e3:,.1f} ms'
        ]
    return '\n'.join(
        [
            f'{found["workdir"]}, measured anew on {where}',
            *found['platform'],
            f'step: {seconds * 1e3:,.1f} ms ({traced}) of {found["rows"]} rows, '
            f'{found["tokens"] / seconds:,.0f} tokens/s',
            *rollout,
            f'MFU: {mfu["full"]:.1%} full, {mfu["causal"]:.1%} causal, of '
            f'{found["peak"] / 1e9:,.0f} GFLOP/s a device',
            f'measured at most: {limits["flops"][dtype] / 1e9:,.0f} GFLOP/s in '
            f'products of {dtype}, {limits["bytes"] / 1e9:,.1f} GB/s in a copy',
            f'at least: {least["flops"] * 1e3:,.1f} ms for '
            f'{found["flops"] / 1e9:,.2f} GFLOP of products (the step takes '
            f'{seconds / least["flops"]:.2f} times that), {least["bytes"] * 1e3:,.1f} '
            f'ms for {found["bytes"] / 1e9:,.2f} GB ({seconds / least["bytes"]:.2f})',
            f'compile: {sum(spent[k] for k in ("trace", "lower", "compile")):.1f} s '
            f'(trace {spent["trace"]:.1f}, lower {spent["lower"]:.1f}, compile '
            f'{spent["compile"]:.1f}, {cache}from the cache)',
        ]
    )


def _memory(found: Mapping[str, Any]) -> str:
    known = dict(found['memory'])
    in_place, donated = known.pop('in_place'), known.pop('donated')
    rows = [[name, f'{size:,}'] for name, size in known.items() if size]
    rows.append(['all', f'{sum(known.values()):,}'])
    held = 'the new state takes the place of the old one'
    if not donated:
        held = f'only {in_place:,} bytes of the old state are used for the new one'
    head = ['memory', 'bytes a device']
    return f'{show.table(head, rows, left=1)}\ndonation: {held}'


def _top(operations: Any) -> str:
    head = ['operation', 'stage', 'times', 'ms a step', 'share', 'GFLOP/s', 'GB/s']
    rows = []
    for one in operations:
        rates = (one[key] / one['seconds'] / 1e9 for key in ('flops', 'bytes'))
        rows.append(
            [
                one['name'],
                f'{one["stage"]} {one["when"]}'.strip(),
                f'{one["times"]:g}',
                f'{one["seconds"] * 1e3:.2f}',
                f'{one["share"]:.1%}',
                *(f'{rate:,.1f}' if rate else '' for rate in rates),
                f'{one["least"] / one["seconds"]:.0%}' if one['least'] else '',
            ]
        )
    return show.table([*head, 'of roofline'], rows, left=2)


def _stages(found: Mapping[str, Any]) -> str:
    rows = [
        [part or 'no stage', *_shares([spent[when] for when in _WHEN])]
        for part, spent in found['stages'].items()
    ]
    rows.append(['nothing ran', *[''] * 4, f'{found["nothing_ran"]:.1%}'])
    sums = [sum(one[when] for one in found['stages'].values()) for when in _WHEN]
    total = f'{sum(sums) + found["nothing_ran"]:.1%}'
    rows.append(['all', *_shares(sums)[:-1], total])
    return show.table(['stage', *_WHEN[:-1], 'neither', 'all'], rows, left=1)


def _shares(parts: list[float]) -> list[str]:
    return [f'{part:.1%}' if part else '' for part in [*parts, sum(parts)]]
