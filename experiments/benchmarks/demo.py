"""The demo from a bare checkout: time, memory, and whether it means something."""

from collections.abc import Iterator
import json
from pathlib import Path
import resource
import shutil
import subprocess
import tempfile
import time
from typing import Any


def measure() -> Iterator[dict[str, object]]:
    """Clones this repository at HEAD, sets it up and runs the demo: seven minutes.

    What the demo made is kept in runs/demo_benchmark.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(['git', 'clone', '--quiet', '.', folder], check=True)
        times = [time.perf_counter()]
        for target in ('setup', 'demo'):
            subprocess.run(['make', target], cwd=folder, check=True)
            times.append(time.perf_counter())
        results = Path(folder) / 'runs' / 'demo'
        rows = list(_figures(lambda name: json.loads((results / name).read_text())))
        shutil.copytree(results, 'runs/demo_benchmark', dirs_exist_ok=True)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    yield _row('set-up and demo', times[2] - times[0], 600, 'min', 's')
    yield _row('demo after the set-up', times[2] - times[1], 360, 'min', 's')
    yield _row('peak memory of a process', largest, 4, 'min', 'GiB')
    yield from rows


def _figures(read: Any) -> Iterator[dict[str, object]]:
    text = read('pretrain/evals/docs.json')
    model, trigram = text['bits_per_byte'], text['trigram_bits_per_byte']
    yield _row(
        'pretraining against a trigram, bits per byte', model / trigram, 1.0, 'min',
        'ratio', ours=model, peer=trigram,
    )  # fmt: skip
    before, after = read('pretrain/evals/chat.json'), read('sft/evals/chat.json')
    gain = 100 * (1 - after['loss'] / before['loss'])
    yield _row('SFT: held-out answers, loss lowered by', gain, 10, 'max', '%')
    for stage in ('sft', 'dpo'):
        answers = read(f'{stage}/evals/chat.json')
        share = 100 * answers['stopped'] / answers['asked']
        yield _row(f'answers that stop by themselves, {stage}', share, 90, 'max', '%')
    sft, dpo = (read(f'{s}/evals/pairs.json')['ranked_right'] for s in ('sft', 'dpo'))
    yield _row(
        'DPO: held-out pairs ranked right, gain', 100 * (dpo - sft), 0.1, 'max',
        'points', ours=100 * dpo, peer=100 * sft,
    )  # fmt: skip


def _row(
    name: str, value: float, goal: float, direction: str, unit: str,
    ours: float | None = None, peer: float | None = None,
) -> dict[str, object]:  # fmt: skip
    return dict(
        name=name, value=value, goal=goal, direction=direction, unit=unit,
        ours=ours, peer=peer, command='make demo',
    )  # fmt: skip
