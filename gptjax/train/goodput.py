"""Where the time of a run went, from the ledger in its workdir: see phases.py.

The wall time is that from the start of the first process to the last line. What the
phases do not explain of it is the gap: between the last line of a process and the start
of the next, or while the machine slept. So the parts add up to the whole. A clock that
is set forward makes the gap longer by as much, one that is set back makes it shorter;
where that would make it negative it is 0, and the wall time what the phases took.

Lost is what had to be done again: training and evaluation after the state from which
the run went on, in a later process or after a rollback in the same one. Compilation and
saves stay what they are.
"""

from collections.abc import Iterable, Mapping, Sequence
import json
from pathlib import Path
from typing import Any

from gptjax import command
from gptjax.train import phases

BUCKETS = (
    'step', 'generate', 'data', 'eval', 'save', 'compile', 'init', 'lost', 'gap'
)  # fmt: skip
_GOOD = ('step', 'generate')  # rollouts are what is learned from
_AGAIN = ('step', 'generate', 'data', 'eval')


def lines(workdir: Path) -> list[dict[str, Any]]:
    """The lines of a ledger in the order of the processes; UserError without any.

    Left out are those that a kill cut short, and starts that found nothing to do.
    """
    path = workdir / phases.LEDGER
    if not path.exists():
        raise command.UserError(
            f'{workdir} has no {phases.LEDGER}; it is of a run of python -m '
            'gptjax.train, which writes one.'
        )
    found = []
    for text in path.read_bytes().splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    idle = {line['began'] for line in found if 'complete' in line}
    found = [line for line in found if line['began'] not in idle]
    if not found:
        raise command.UserError(f'{path} has no whole line yet; wait for the run.')
    return sorted(found, key=lambda line: line['began'])  # each keeps its own order


def account(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds by bucket, which sum to `wall`; steps made, of them lost; goodput.

    lines: as of `lines`. goodput: the part of the wall time in steps and rollouts that
    were not lost.
    """
    kept: list[Mapping[str, Any]] = []
    gone: list[Mapping[str, Any]] = []
    at, made, lost = None, 0, 0
    for line in lines:
        step = line['step']
        if 'from' in line:
            counts = _counting(kept, step)
            gone += kept[counts:]
            del kept[counts:]
            lost += max(0, at - step) if at is not None else 0
        elif step is not None and at is not None:
            made += max(0, step - at)
        at = at if step is None else step
        kept.append(line)
    seconds, again = _sums(kept), _sums(gone)
    for name in BUCKETS:
        seconds['lost' if name in _AGAIN else name] += again[name]
    every = kept + gone
    first, last = min(x['began'] for x in every), max(x['time'] for x in every)
    seconds['gap'] = max(0.0, last - first - sum(seconds.values()))
    wall = sum(seconds.values())
    return {
        'wall': wall,
        'seconds': seconds,
        'starts': len({line['began'] for line in every}),
        'steps': made,
        'steps_lost': lost,
        'goodput': sum(seconds[name] for name in _GOOD) / wall,
    }


def _counting(kept: Sequence[Mapping[str, Any]], step: int) -> int:
    """How many of these lines are not done again by what goes on from a step."""
    for count in range(len(kept), 0, -1):
        line = kept[count - 1]
        if line['step'] == step and ('saved' in line or 'from' in line):
            return count
    # The line of its save is lost, by a kill or a full disk.
    known = [i for i, line in enumerate(kept) if line['step'] is not None]
    return max((i + 1 for i in known if kept[i]['step'] <= step), default=0)


def _sums(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    sums = dict.fromkeys(BUCKETS, 0.0)
    for line in lines:
        for name, seconds in line['seconds'].items():
            sums['step' if name == 'collective' else name] += seconds
    return sums


def text(workdir: Path, found: Mapping[str, Any]) -> str:
    """What `account` found, as a table."""
    wall = found['wall']
    rows = [
        f'{name:10}{seconds:14,.1f} {seconds / wall:8.2%}'
        for name, seconds in [*found['seconds'].items(), ('wall', wall)]
    ]
    return '\n'.join(
        [
            f'{workdir}: goodput {found["goodput"]:.2%}',
            '',
            f'{"":10}{"seconds":>14} {"share":>8}',
            *rows,
            '',
            f'starts {found["starts"]:,}, steps {found["steps"]:,}, of which lost '
            f'{found["steps_lost"]:,}',
        ]
    )
