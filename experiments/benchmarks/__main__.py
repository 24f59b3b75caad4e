"""Measures figures and writes experiments/benchmarks/latest.json.

    make benchmark               every area
    make benchmark AREA=startup  one of them
    make benchmark AREA=data.read  a part of one

A file of this folder is an area; its `measure()` yields rows. Rows of areas that are
not measured again stay as they are.
"""

import argparse
from importlib import import_module, metadata
import json
import os
from pathlib import Path
import platform
import subprocess

FOLDER = Path(__file__).parent
LATEST = FOLDER / 'latest.json'
AREAS = sorted(p.stem for p in FOLDER.glob('*.py') if not p.stem.startswith('_'))


def main() -> None:
    parser = argparse.ArgumentParser(prog='make benchmark')
    parser.add_argument('areas', nargs='*', metavar='AREA', help=', '.join(AREAS))
    areas = parser.parse_args().areas or AREAS
    for given in areas:
        area, dot, part = given.partition('.')
        module = import_module(f'experiments.benchmarks.{area}')
        found = module.measure(part) if dot else module.measure()
        new = [_complete(area, **row) for row in found]
        names = {row['name'] for row in new}
        # Read late: areas may be measured beside each other.
        rows = json.loads(LATEST.read_text()) if LATEST.exists() else []
        rows = [
            row
            for row in rows
            if row['area'] != area or (dot and row['name'] not in names)
        ] + new
        rows.sort(key=lambda row: row['area'])
        LATEST.write_text(json.dumps(rows, indent=1) + '\n')
        for row in new:
            mark = 'met' if row['met'] else 'NOT MET'
            sign = '<=' if row['direction'] == 'min' else '>='
            print(
                f'{row["area"]:12}{row["name"]:48}{row["value"]:>10.4g} '
                f'{sign} {row["goal"]:g} {row["unit"]:16}{mark}'
            )


def _complete(
    area: str, *, name: str, value: float, goal: float, direction: str, unit: str,
    command: str, ours: float | None = None, peer: float | None = None,
) -> dict[str, object]:  # fmt: skip
    """A row; direction 'min' means that smaller is better."""
    commit = subprocess.run(
        ['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True
    )
    return {
        'area': area,
        'name': name,
        'value': value,
        'goal': goal,
        'direction': direction,
        'met': value <= goal if direction == 'min' else value >= goal,
        'ours': ours,
        'peer': peer,
        'unit': unit,
        'command': command,
        'machine': f'{os.cpu_count()} cores, {_processor()}',
        'versions': {
            'python': platform.python_version(),
            **{name: metadata.version(name) for name in ('jax', 'jaxlib', 'flax')},
        },
        'commit': commit.stdout.strip(),
    }


def _processor() -> str:
    path = Path('/proc/cpuinfo')
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(': ')[1] for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


if __name__ == '__main__':
    main()
