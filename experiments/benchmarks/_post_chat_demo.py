"""`make chat` in a copy of HEAD, after its pretraining: time, before against after."""

from collections.abc import Iterator
import json
from pathlib import Path
import shutil
import subprocess
import tempfile
import time
from typing import Any


def rows() -> Iterator[dict[str, Any]]:
    """Nine minutes, of which three are the pretraining; kept in runs/chat_benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(['git', 'clone', '--quiet', '.', folder], check=True)
        (Path(folder) / '.venv').symlink_to(Path('.venv').resolve())
        seconds = []
        for target in ('pretrained', 'chat'):
            start = time.perf_counter()
            make = ['make', '--old-file=.venv/.installed', target]
            subprocess.run(make, cwd=folder, check=True)
            seconds.append(time.perf_counter() - start)
        results = Path(folder) / 'runs' / 'chat'
        found = list(figures(results))
        shutil.copytree(results, 'runs/chat_benchmark', dirs_exist_ok=True)
    yield _row('make chat after pretraining', seconds[1], 360, 'min', 's')
    yield from found


def figures(results: Path) -> Iterator[dict[str, Any]]:
    """What the runs in a folder say of themselves."""
    lines = (results / 'grpo' / 'metrics.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    held_out = [record for record in records if 'eval_reward' in record]
    first, last = held_out[0], held_out[-1]
    before, after = first['eval_reward'], last['eval_reward']
    yield _row(
        'GRPO: mean reward on held-out prompts, gain', after - before, 0.1, 'max', '',
        ours=after, peer=before,
    )  # fmt: skip
    yield _row('GRPO: KL to its start, an answer', last['eval_kl'], 15, 'min', 'nats')
    answers = json.loads((results / 'grpo' / 'evals' / 'chat.json').read_text())
    share = 100 * answers['stopped'] / answers['asked']
    yield _row('GRPO: answers that stop by themselves', share, 95, 'max', '%')
    lines = (results / 'sft' / 'metrics.jsonl').read_text().splitlines()
    forgotten = json.loads(lines[-1])['forgetting_docs']
    yield _row(
        'SFT with replay: forgetting of the documentation', forgotten, 0.1, 'min',
        'nats a token',
    )  # fmt: skip
    sft, grpo = (
        json.loads((results / run / 'evals' / 'docs.json').read_text())['bits_per_byte']
        for run in ('sft', 'grpo')
    )
    yield _row(
        'DPO and GRPO: bits per byte of the documentation against SFT', grpo / sft, 1.1,
        'min', 'ratio', ours=grpo, peer=sft,
    )  # fmt: skip
    size = (results / 'report.html').stat().st_size / 1024
    yield _row('the report of four runs', size, 300, 'min', 'KiB')


def _row(
    name: str, value: float, goal: float, direction: str, unit: str,
    ours: float | None = None, peer: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    return dict(
        name=name, value=value, goal=goal, direction=direction, unit=unit,
        ours=ours, peer=peer,
    )  # fmt: skip
