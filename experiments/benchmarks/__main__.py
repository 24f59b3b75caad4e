"""Measures figures and writes experiments/benchmarks/latest.json.

    make benchmark               every area
    make benchmark AREA=startup  one of them
    make benchmark AREA=data.read  a part of one

A file of this folder is an area; its `measure()` yields rows. Rows of areas that are
not measured again stay as they are. A row without a value is of hardware that is not
here: it is neither met nor missed.
"""

import argparse
from collections.abc import Mapping
from importlib import import_module, metadata
import json
import os
from pathlib import Path
import platform
import subprocess
from typing import Any

FOLDER = Path(__file__).parent
LATEST = FOLDER / 'latest.json'
SIDES = ('ours', 'peer')
AREAS = sorted(p.stem for p in FOLDER.glob('*.py') if not p.stem.startswith('_'))


def main() -> None:
    parser = argparse.ArgumentParser(prog='make benchmark')
    parser.add_argument('areas', nargs='*', metavar='AREA', help=', '.join(AREAS))
    areas = parser.parse_args().areas or AREAS
    for given in areas:
        area, dot, part = given.partition('.')
        module = import_module(f'experiments.benchmarks.{area}')
        found = module.measure(part) if dot else module.measure()
        record(area, list(found), whole=not dot)


def record(area: str, found: list[dict[str, Any]], whole: bool = False) -> None:
    """Puts rows into latest.json in place of those of their names, and prints them.

    whole: they are all that the area has, and others of it go. A row that could not be
    measured here leaves what was measured elsewhere as it is.
    """
    new = [_complete(area, **row) for row in found]
    # Read late: areas may be measured beside each other.
    rows = json.loads(LATEST.read_text()) if LATEST.exists() else []
    measured = {(row['area'], row['name']) for row in rows if row['value'] is not None}
    kept = [
        row
        for row in new
        if row['value'] is not None or (area, row['name']) not in measured
    ]
    taken = {row['name'] for row in kept}
    still = {row['name'] for row in new}
    rows = [
        row
        for row in rows
        if row['area'] != area
        or (row['name'] not in taken and (not whole or row['name'] in still))
    ] + kept
    rows.sort(key=lambda row: row['area'])
    LATEST.write_text(json.dumps(rows, indent=1) + '\n')
    print(_table(new), flush=True)


def _table(rows: list[dict[str, Any]]) -> str:
    """One line a row, in columns as wide as they need to be."""
    cells = [
        (
            row['area'],
            row['name'],
            'not measured' if row['value'] is None else f'{row["value"]:.4g}',
            ('<= ' if row['direction'] == 'min' else '>= ') + f'{row["goal"]:g}',
            row['unit'],
            {True: 'met', False: 'NOT MET', None: ''}[row['met']],
            *('' if row[side] is None else f'{row[side]:.4g}' for side in SIDES),
        )
        for row in rows
    ]
    cells.insert(0, ('area', 'figure', 'value', 'goal', 'unit', '', *SIDES))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return '\n'.join(
        '  '.join(
            cell.rjust(width) if number in (2, 6, 7) else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _complete(
    area: str, *, name: str, value: float | None, goal: float, direction: str,
    unit: str, command: str, ours: float | None = None, peer: float | None = None,
    machine: str = '', versions: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A row; direction 'min' means that smaller is better.

    value: None where the hardware is missing. machine: what it was measured on, where
    it is not the processor. versions: of what was measured beside.
    """
    commit = subprocess.run(
        ['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True
    )
    return {
        'area': area,
        'name': name,
        'value': value,
        'goal': goal,
        'direction': direction,
        'met': None if value is None else _met(value, goal, direction),
        'ours': ours,
        'peer': peer,
        'unit': unit,
        'command': command,
        'machine': machine or f'{os.cpu_count()} cores, {_processor()}',
        'versions': {
            'python': platform.python_version(),
            **{name: metadata.version(name) for name in ('jax', 'jaxlib', 'flax')},
            **(versions or {}),
        },
        'commit': commit.stdout.strip(),
    }


def _met(value: float, goal: float, direction: str) -> bool:
    return value <= goal if direction == 'min' else value >= goal


def _processor() -> str:
    path = Path('/proc/cpuinfo')
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(': ')[1] for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


if __name__ == '__main__':
    main()
