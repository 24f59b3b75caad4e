"""Traces of steps, for xprof and TensorBoard, and the times of operations in them."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import jax

from gptjax import command
from gptjax.train import log

FOLDER = 'profile'  # of a workdir
STEP = 'train'  # the annotation of a step, which has its number as `step_num`


def parse(text: str) -> tuple[int, int]:
    """The first and last step of 'A:B'; UserError where it is no range of steps."""
    first, _, last = text.partition(':')
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) < int(last)):
        raise command.UserError(
            f'--profile={text} is no range of steps; write --profile=100:110, two '
            'numbers from 1 on of which the second is larger.'
        )
    return int(first), int(last)


class Profile:
    """Traces the steps of a run from `first` to `last` into WORKDIR/profile/.

    Every process writes a file of what it and its devices did. A run that goes on from
    a step between them traces what is left. Raises UserError where `end`, the last step
    of the run, is before `last`.
    """

    def __init__(self, first: int, last: int, workdir: Path, end: int):
        if last > end:
            raise command.UserError(
                f'--profile={first}:{last} goes beyond the {end} steps of the run; '
                'name earlier ones, or set steps larger.'
            )
        self._first, self._last, self._folder = first, last, workdir / FOLDER
        self._begun, self._step = 0, 0

    @contextlib.contextmanager
    def around(self, step: int, state: Callable[[], Any]) -> Iterator[None]:
        """Around the dispatch of a step; `state` is waited for where the trace ends."""
        if not self._begun and self._first <= step <= self._last:
            jax.block_until_ready(state())
            start(self._folder)
            self._begun = step
        if not self._begun:
            yield
            return
        with jax.profiler.StepTraceAnnotation(STEP, step_num=step):
            yield
        self._step = step
        if step == self._last:
            jax.block_until_ready(state())
            self.close()

    def close(self) -> None:
        """Writes what was traced, and says which steps that is."""
        if self._begun:
            jax.profiler.stop_trace()
            steps = f'steps {self._begun} to {self._step}'
            log.say(
                f'profile: {steps} are in {self._folder}, for TensorBoard and xprof'
            )
        elif self._step < self._last:
            log.say(
                f'profile: this process did not do steps {self._first} to {self._last}'
            )
        self._begun, self._step, self._first = 0, self._last, self._last + 1


def start(folder: Path) -> None:
    """Begins a trace of devices and host, without calls of Python, which cost more."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    jax.profiler.start_trace(folder, profiler_options=options)


class Spent(NamedTuple):
    """Where the time between the first and the last operation of a trace went."""

    seconds: float  # in all
    of: dict[str, float]  # by operation; what is left, nothing ran
    times: dict[str, int]  # how often each operation began


class _Event(NamedTuple):
    name: str
    start: float
    end: float
    rank: int


def spent(folder: Path, module: str, containers: Collection[str]) -> Spent | None:
    """Seconds of the operations of a program, on the first device of the newest trace.

    module: the name of its HLO module. containers: operations that other ones are in.
    At each moment, the operations that run share it; where none runs, those that wait
    for a thread (CPU), and after them the containers. None where there is no operation.
    """
    events = [
        event._replace(rank=event.rank + 2 * (event.name in containers))
        for event in _events(folder, module)
    ]
    if not events:
        return None
    of = dict.fromkeys((event.name for event in events), 0.0)
    edges = [(e.start, 1, e) for e in events] + [(e.end, -1, e) for e in events]
    active: list[Counter[str]] = [Counter() for _ in range(4)]
    before = 0.0
    for time, way, event in sorted(edges, key=lambda edge: edge[:2]):
        running: Counter[str] = next((one for one in active if one), Counter())
        for name, count in running.items():
            of[name] += (time - before) * count / running.total()
        before = time
        active[event.rank][event.name] += way
        if not active[event.rank][event.name]:
            del active[event.rank][event.name]
    seconds = max(e.end for e in events) - min(e.start for e in events)
    times = Counter(event.name for event in events if event.rank % 2 == 0)
    return Spent(
        seconds / 1e9, {name: ns / 1e9 for name, ns in of.items()}, dict(times)
    )


def _events(folder: Path, module: str) -> Iterator[_Event]:
    path = max(folder.rglob('*.xplane.pb'), key=lambda one: one.stat().st_mtime)
    data = jax.profiler.ProfileData.from_file(str(path))
    planes = {plane.name: plane for plane in data.planes}
    devices = sorted(name for name in planes if name.startswith('/device:'))
    if not devices:
        yield from _of_threads(planes['/host:CPU'], module)
        return
    lines = {line.name: line for line in planes[devices[0]].lines}
    for name, line in lines.items():
        if name.startswith('XLA Ops' if 'XLA Ops' in lines else 'Stream'):
            for event in line.events:
                op = dict(event.stats).get('hlo_op', event.name.split(' ')[0])
                end = event.start_ns + event.duration_ns
                yield _Event(str(op).lstrip('%'), event.start_ns, end, 0)


def _of_threads(plane: Any, module: str) -> Iterator[_Event]:
    """Operations of a CPU: what other threads do for one of them ends in an `end:`."""
    ends, begun = {}, {}
    for line in plane.lines:
        for event in line.events:
            end, stats = event.start_ns + event.duration_ns, dict(event.stats)
            if event.name.startswith('end: '):
                ends[stats.get('_c')] = end
            elif stats.get('hlo_module') == module and not stats['device_ordinal']:
                one = _Event(stats['hlo_op'], event.start_ns, end, 0)
                begun[stats.get('_p')] = one
                yield one
    for key, one in begun.items():
        if ends.get(key, 0) > one.end:
            yield one._replace(start=one.end, end=ends[key], rank=1)
