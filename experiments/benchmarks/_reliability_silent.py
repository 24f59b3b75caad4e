"""What it costs to look for silent corruption every 100 steps.

On two simulated devices, which hold copies, and so in a process of its own. Steps and
checks take turns; a check waits for what it finds, and so does each step here.
"""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from gptjax.model import table as model_table
from gptjax.train import begin, build, checkpoint, feed, replicas

EVERY, ROUNDS, ROWS, T, V = 100, 15, 32, 128, 1024


def rows() -> Iterator[dict[str, Any]]:
    flags = '--xla_force_host_platform_device_count=2'
    done = subprocess.run(
        [sys.executable, '-m', __name__],
        env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags},
        stdout=subprocess.PIPE,
        check=True,
    )
    steps, checks = json.loads(done.stdout)
    yield {
        'name': f'replicas compared every {EVERY} steps',
        'value': float(np.median(np.array(checks) / steps)) / EVERY,
        'goal': 0.01,
        'direction': 'min',
        'unit': 'of the step time',
        'ours': statistics.median(checks),
        'peer': statistics.median(steps),
    }


def _measure(folder: Path) -> tuple[list[float], list[float]]:
    """Seconds of steps, and of the check after each of them."""
    run = build.build(_config(folder), folder / 'run')
    _, _, frozen, state, train_step = begin.begin(
        run, checkpoint.Checkpoints(run.workdir, keep=1), None
    )
    checked = replicas.Replicas(run, 0)
    batches = feed.Feed(run.model.sharding, ROWS)
    steps, checks = [], []
    for number in range(ROUNDS + 2):
        batch = next(batches.once(run.rows, ROWS))
        start = time.perf_counter()
        state, _ = train_step(state, frozen, batch)
        jax.block_until_ready(state)
        middle = time.perf_counter()
        checked.check(state, frozen, batch, number)
        steps.append(middle - start)
        checks.append(time.perf_counter() - middle)
    return steps[2:], checks[2:]  # the first compile


def _config(folder: Path) -> ConfigDict:
    """GPT-2 of 4 layers of width 128, on two devices, on random letters."""
    letters = np.random.default_rng(0).integers(97, 123, 20_000).astype(np.uint8)
    (folder / 'text.txt').write_bytes(letters.tobytes())
    config = ConfigDict()
    config.seed, config.steps = 0, 1000
    config.model = model_table.preset(
        'gpt2-micro', T=T, V=V, D=128, F=512, N=4, K=4, H=32, L=4
    )
    config.data = dict(
        path=str(folder / 'text.txt'),
        batch_size=ROWS,
        loader='threads',
        build=dict(
            corpus=dict(name='text', licence='CC0-1.0'),
            tokenizer=dict(name='bytes'),
            held_out=dict(fraction=0.1, by='tail'),
            shard_tokens=1 << 20,
        ),
    )
    config.optimizer = dict(
        name='adamw', learning_rate=1e-4, warmup_steps=0, final_learning_rate=1e-4,
        b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, clip_norm=1.0, freeze=(),
    )  # fmt: skip
    config.objective = dict(name='next_token')
    config.mesh = dict(data=2, fsdp=1, tensor=1, rules='data')
    config.compute = dict(dtype='float32', remat='none', scan_unroll=4, accumulate=1)
    config.checkpoint = dict(every=1000, keep=1)
    config.eval = dict(every=1000, rows=4, patience=0)
    config.run = dict(log_every=1)
    return config


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as made:
        print(json.dumps(_measure(Path(made))))
