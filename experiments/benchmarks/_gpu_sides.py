"""Both sides of _speed_gpu.py: our train step on a stream, and the peer's process."""

import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys
import time
from typing import Any, NamedTuple

from gptjax import platforms

BATCHES = 10  # of the stream, over and over
RATE = 1e-4
TINY = dict(L=2, D=64, F=128, N=4, H=16, V=256)


class Shape(NamedTuple):
    """A model, and how many rows of how many tokens."""

    preset: str
    B: int
    T: int
    V: int | None = None


class Given(NamedTuple):
    """How a figure is measured."""

    name: str
    device: str  # 'cuda' or 'cpu'
    tiny: bool
    unroll: int  # layers in an iteration of the scan; 0 is the platform's choice

    def config(self, shape: Shape) -> Any:
        """configs/gpt2.py with the model of a shape, on one device."""
        from configs import gpt2
        from gptjax.model import table as model_table

        changes: dict[str, Any] = {'T': shape.T}
        if shape.V:
            changes['V'] = shape.V
        if self.tiny:
            changes |= TINY | {'T': 32, 'K': 4 if 'gpt2' in shape.preset else 2}
        config = gpt2.get_config('small')
        config.model = model_table.preset(shape.preset, **changes)
        config.data.batch_size = min(shape.B, 4) if self.tiny else shape.B
        config.optimizer.update(
            learning_rate=RATE, final_learning_rate=RATE, warmup_steps=0
        )
        config.mesh.update(fsdp=1, rules='data')
        dtype = 'float32' if self.device == 'cpu' else 'bfloat16'
        platform = 'gpu' if self.device == 'cuda' else self.device
        unroll = self.unroll or platforms.unroll(platform, config.model.L)
        config.compute.update(
            dtype=dtype, remat='none', accumulate=1, scan_unroll=unroll
        )
        config.guard = dict(sigma=0.0)
        return config


class Ours:
    """The train step of a run, its state, and batches of the stream."""

    def __init__(self, given: Given, shape: Shape):
        import jax

        from experiments.benchmarks import _peer_gpu
        from gptjax.model import transformer
        from gptjax.plan import step

        config = given.config(shape)
        program = step.of(config)
        start = time.perf_counter()
        self._step = program.step.lower(*program.arguments).compile()
        self.model = program.model
        arch, self.B = self.model.arch, config.data.batch_size
        self.params = transformer.init(self.model, jax.random.key(0))
        self._make, self._done = program.start, 0
        self.compile_seconds = time.perf_counter() - start
        self._batches = []
        for seed in range(BATCHES):
            ids = _peer_gpu.stream(seed, self.B, arch.T, arch.V)
            self._batches.append({**_whole(ids), **_shifted(ids)})

    def begin(self) -> None:
        """The state at step 0; the weights are the state's from here on."""
        self._state = self._make(self.params)
        del self.params

    def run(self, steps: int) -> tuple[list[float], float]:
        """Losses of the next steps, read at the end, and their seconds."""
        losses = []
        start = time.perf_counter()
        for _ in range(steps):
            batch = self._batches[self._done % BATCHES]
            self._done += 1
            self._state, metrics = self._step(self._state, {}, batch)
            losses.append(metrics['loss'])
        found = [float(loss) for loss in losses]
        return found, time.perf_counter() - start


def _shifted(ids: Any) -> dict[str, Any]:
    return {'tokens': ids[:, :-1], 'targets': ids[:, 1:]}


def _whole(ids: Any) -> dict[str, Any]:
    """What a batch has besides, where each row is one document."""
    import numpy as np

    ones = np.ones((len(ids), ids.shape[1] - 1), np.int32)
    positions = np.broadcast_to(np.arange(ones.shape[1], dtype=np.int32), ones.shape)
    weights = ones.astype(np.float32)
    return {'segments': ones, 'positions': positions, 'weights': weights}


def export(arch: Any, params: Any, folder: Path) -> Path:
    """The weights as transformers reads them."""
    from gptjax.exchange import huggingface

    huggingface.save(arch, params, folder / 'model')
    return folder / 'model'


class Peer:
    """A process of _peer_gpu.py."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    @classmethod
    def begin(cls, folder: Path, given: Given, best: bool, **more: Any) -> Any:
        """None where neither this Python nor GPTJAX_PEERS has torch."""
        python = os.environ.get('GPTJAX_PEERS') or (
            sys.executable if importlib.util.find_spec('torch') else None
        )
        if python is None:
            return None
        process = subprocess.Popen(
            [python, '-P', Path(__file__).with_name('_peer_gpu.py')],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        peer = cls(process)
        settings = {'folder': str(folder), 'device': given.device, 'best': best}
        peer.ask({**settings, 'compiled': not given.tiny, **more})
        return peer

    def ask(self, line: Any) -> Any:
        """The answer to a line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line) + '\n')
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        """Its memory is free afterwards."""
        self._process.communicate()


def bandwidth() -> float:
    """Bytes a second of a copy of an array, reading and writing."""
    import jax
    import jax.numpy as jnp

    size = 2**28 if has_gpu() else 2**24
    x = jax.random.normal(jax.random.key(0), (size,), jnp.float32)
    add = jax.jit(lambda x: x + 1)
    jax.block_until_ready(add(x))
    times = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(add(x))
        times.append(time.perf_counter() - start)
    return 2 * x.nbytes / min(times)


def has_gpu() -> bool:
    """Asks the system and not JAX, which would take the memory."""
    return platforms.find()[0] == 'gpu'
