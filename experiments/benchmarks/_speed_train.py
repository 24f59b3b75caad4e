"""A training step beside nanoGPT's shape in torch, in float32 and bfloat16, on CPU.

Both sides begin with the same weights, read the same random tokens and first show the
same losses; then they take turns, each alone: the other one is stopped meanwhile. The
peer is transformers' GPT-2 under AdamW (fused), eager and compiled; its better one
counts. Ours is the train step of every run, without the loop around it: what that
costs, `speed.loader` and `reliability` measure. The memory of both lies in huge pages,
which our commands take by themselves (see `platforms`) and torch's do not.

    python -m experiments.benchmarks._speed_train [NAME]    a part of a row's name
"""

from collections.abc import Iterator
import dataclasses
import functools
import json
import os
from pathlib import Path
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from gptjax import sharding as sharding_lib
from gptjax.exchange import huggingface
from gptjax.model import config as config_lib
from gptjax.model import kernels, transformer
from gptjax.model import table as model_table
from gptjax.objectives import next_token
from gptjax.train import optim
from gptjax.train import state as state_lib
from gptjax.train import step as step_lib

# name: (preset, changes, B, steps of a turn, turns, goal in float32)
SETTINGS: dict[str, Any] = {
    '4 x 128, T 64, B 12': (
        'gpt2-micro', dict(T=64, V=65, D=128, F=512), 12, 60, 5, 1.05,
    ),
    '6 x 384, T 256, B 16': ('gpt2-mini', dict(T=256, V=65), 16, 2, 5, 1.25),
    '124M, T 1024, B 4': ('gpt2-small', dict(V=50_304), 4, 1, 2, 1.25),
}  # fmt: skip
DTYPES = ('float32', 'bfloat16')
RATE = 1e-3
TOLERANCE = {'float32': 2e-3, 'bfloat16': 3e-2}  # of losses around 4 to 11
HUGE = {**os.environ, 'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}


def rows(asked: str = '') -> Iterator[dict[str, Any]]:
    if 'GPTJAX_PEERS' not in os.environ:
        print('train: GPTJAX_PEERS is unset; its rows are left out')
        return
    for name in SETTINGS:
        for dtype in DTYPES:
            if asked in f'{name} {dtype}':
                yield _row(name, dtype)


def _row(name: str, dtype: str) -> dict[str, Any]:
    *_, B, steps, turns, goal = SETTINGS[name]
    arch = architecture(name)
    races = []
    with tempfile.TemporaryDirectory() as folder:
        given: dict[str, Any] = {'name': name, 'dtype': dtype, 'rate': RATE}
        given |= {'folder': f'{folder}/weights', 'shape': (B, arch.T, arch.V)}
        module = 'experiments.benchmarks._speed_train'
        ours = Side([sys.executable, '-m', module, '--side'], given)
        for kind in ('eager', 'compiled'):
            ours.turn(0)  # has written its weights, and begins with them again
            peer = Path(__file__).with_name('_peer_nanogpt.py')
            told = {**given, 'compiled': kind == 'compiled'}
            theirs = Side([os.environ['GPTJAX_PEERS'], '-P', str(peer)], told)
            races.append(_race(f'{name}, {dtype}, {kind}', ours, theirs, steps, turns))
            theirs.end()
        ours.end()
    own, other = min(races, key=lambda race: race[1])
    return {
        'name': f'step, {name}, {dtype} / torch, the better of eager and compiled',
        'value': other / own,
        'goal': goal if dtype == 'float32' else 1.0,
        'direction': 'max',
        'unit': 'times as fast',
        'ours': own,
        'peer': other,
    }


def _race(
    what: str, ours: 'Side', theirs: 'Side', steps: int, turns: int
) -> tuple[float, float]:
    """Median seconds of a step of both, once they have shown the same losses."""
    checked = 8 if steps > 1 else 2
    apart = np.abs(np.subtract(ours.turn(checked)[0], theirs.turn(checked)[0])).max()
    dtype = 'bfloat16' if 'bfloat16' in what else 'float32'
    if not apart <= TOLERANCE[dtype]:
        raise ValueError(f'{what}: the sides compute different things: {apart}')
    times = [
        (ours.turn(steps)[1] / steps, theirs.turn(steps)[1] / steps)
        for _ in range(turns)
    ]
    own, other = (statistics.median(x) for x in zip(*times, strict=True))
    print(
        f'train: {what}: {own * 1e3:,.1f} ms a step, torch {other * 1e3:,.1f}; losses '
        f'differ by {apart:.1e}',
        file=sys.stderr,
    )
    return own, other


class Side:
    """A process that takes steps when it is asked to, and is stopped in between."""

    def __init__(self, command: list[str], given: dict[str, Any]):
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, env=HUGE, stdin=pipe, stdout=pipe, text=True
        )
        self._tell(json.dumps(given))
        self._process.send_signal(signal.SIGSTOP)

    def turn(self, steps: int) -> tuple[list[float], float]:
        """Losses of so many steps, and their seconds."""
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        self._tell(str(steps))
        losses, seconds = json.loads(self._process.stdout.readline())
        self._process.send_signal(signal.SIGSTOP)
        return losses, seconds

    def end(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + '\n')
        self._process.stdin.flush()


def architecture(name: str) -> config_lib.Architecture:
    preset, changes, *_ = SETTINGS[name]
    return config_lib.architecture(**model_table.preset(preset, **changes))


class Ours:
    """The train step of a run on random rows."""

    def __init__(
        self, arch: config_lib.Architecture, B: int, dtype: str, products: str = 'plain'
    ):
        self.arch, self.B = arch, B
        compute = config_lib.Compute(
            dtype, remat='none', scan_unroll=0, accumulate=1, products=products
        )
        sharding = sharding_lib.single()
        choice = kernels.choose(arch, compute, sharding, arch.T)
        compute = dataclasses.replace(compute, attention=choice.name)
        self._model = transformer.make(arch, compute, sharding)
        self._optimizer = optim.adamw(
            lambda _: RATE, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1, clip_norm=1.0
        )
        self.step = jax.jit(
            functools.partial(
                step_lib.train_step,
                loss_fn=next_token.make(self._model),
                optimizer=self._optimizer,
                accumulate=1,
            ),
            donate_argnums=0,
        )
        ones = np.ones((B, arch.T), np.int32)
        positions = np.broadcast_to(np.arange(arch.T, dtype=np.int32), ones.shape)
        self._batch = {'segments': ones, 'positions': positions, 'weights': 1.0 * ones}
        self._batch['weights'] = self._batch['weights'].astype(np.float32)
        self.begin()

    def begin(self) -> None:
        """The state of the start."""
        model, optimizer = self._model, self._optimizer
        boxed = transformer.abstract(model)
        _, places = state_lib.shardings_of(boxed, optimizer, model.sharding)
        params = transformer.init(model, jax.random.key(0))
        self.state = state_lib.create(params, optimizer, 0, places)
        self._rng = np.random.default_rng(0)

    def run(self, steps: int) -> tuple[list[float], float]:
        """Losses of the next steps, and their seconds; metrics are read a step late."""
        losses: list[Any] = []
        start = time.perf_counter()
        for _ in range(steps):
            shape = (self.B, self.arch.T + 1)
            row = self._rng.integers(0, self.arch.V, shape).astype(np.int32)
            batch = {**self._batch, 'tokens': row[:, :-1], 'targets': row[:, 1:]}
            self.state, metrics = self.step(self.state, {}, batch)
            losses[-1:] = map(float, losses[-1:])
            losses.append(metrics['loss'])
        return [float(loss) for loss in losses], time.perf_counter() - start


def side() -> None:
    """Our side of a race."""
    given = json.loads(input())
    made = Ours(architecture(given['name']), given['shape'][0], given['dtype'])
    huggingface.save(made.arch, made.state.params, given['folder'])
    for line in sys.stdin:
        if int(line):
            print(json.dumps(made.run(int(line))), flush=True)
        else:
            made.begin()
            print(json.dumps([[], 0.0]), flush=True)


if __name__ == '__main__':
    if sys.argv[1:] == ['--side']:
        side()
    else:
        for row in rows(*sys.argv[1:]):
            print(f'{row["name"]}: {row["value"]:.3f} (goal {row["goal"]})')
