"""Runs that are killed at any moment, again and again, end as if they never were.

Half of the kills come at random times, half at a change of a file, of the phase or at a
batch of an evaluation, in the part of a run whose turn it is. After each kill, every
step that was ever there and in retention is whole, and the next run begins with it. In
the end metrics.jsonl is that of a run which was not killed, and so are the built data
and, byte for byte, all arrays.

Caught, as tried: lines of metrics.jsonl after the checkpoint that are not dropped, by 8
kills; a step that is named before its manifest is written, by 14 kills but not by 8.
"""

import json
import os
from pathlib import Path
import subprocess
import sys

import faults
import killing
import tiny_config

KILLS = faults.count(200)
DRIVERS = 2


def test_killed_runs_lose_no_step_and_end_with_the_same_bits(tmp_path):
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    drivers = []
    for seed in range(DRIVERS):
        folder = tmp_path / f'{seed}'
        folder.mkdir()
        (folder / 'text.txt').write_text(tiny_config.text())
        drivers.append(
            subprocess.Popen(
                [sys.executable, killing.__file__, folder, f'{-(-KILLS // DRIVERS)}',
                 f'{seed}'],
                env={**os.environ, 'PYTHONPATH': path},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )  # fmt: skip
    hits = dict.fromkeys(killing.PARTS, 0)
    for driver in drivers:
        told, errors = driver.communicate()
        assert driver.returncode == 0, errors[-4000:]
        for part, count in json.loads(told)['hits'].items():
            hits[part] += count
    print(hits)
    assert sum(hits.values()) >= KILLS
    for part in killing.PARTS:
        assert hits[part] >= 5 * KILLS // 200, hits
