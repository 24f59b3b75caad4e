"""Forms of parallelism and their combinations against one device: losses, gradients.

The train step of every run, 20 times in float32 on packed rows of random tokens, from
the same weights. Devices are simulated ones of the CPU; 2 x 4 are two processes.
"""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import socket
import subprocess
import sys
import tempfile
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from configs import gpt2
from gptjax import trees
from gptjax.model import table as model_table
from gptjax.model import transformer
from gptjax.plan import step as step_lib

STEPS, ROWS, B1 = 20, 16, 0.9
SIZES = dict(T=32, V=64, D=32, F=64, N=4, K=4, H=8, L=4)
MODELS = {
    'gpt2': ('gpt2-nano', SIZES),
    'mixtral': ('mixtral-nano', {**SIZES, 'K': 2}),
}
# (rules, sizes of the mesh, model)
MESHES: list[tuple[str, dict[str, int], str]] = [
    ('fsdp', dict(fsdp=8), 'gpt2'),
    ('fsdp', dict(slice=2, fsdp=4), 'gpt2'),
    ('fsdp_tensor', dict(fsdp=4, tensor=2), 'gpt2'),
    ('fsdp_context', dict(fsdp=4, context=2), 'gpt2'),
    ('tensor_sequence', dict(data=4, tensor=2), 'gpt2'),
    ('expert_fsdp', dict(expert=4, fsdp=2), 'mixtral'),
    ('stage_data', dict(stage=4, data=2), 'gpt2'),
    ('stage_tensor', dict(stage=4, tensor=2), 'gpt2'),
    ('fsdp_tensor', dict(fsdp=4, tensor=4), 'gpt2'),
    ('fsdp_context', dict(fsdp=4, context=4), 'gpt2'),
    ('tensor_sequence', dict(data=4, tensor=4), 'gpt2'),
    ('expert_fsdp', dict(expert=4, fsdp=4), 'mixtral'),
    ('stage_data', dict(stage=4, data=4), 'gpt2'),
    ('stage_tensor', dict(stage=4, tensor=4), 'gpt2'),
    ('fsdp', dict(slice=2, fsdp=8), 'gpt2'),
]


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        one = str(Path(folder) / 'one')
        _run(1, ['one', one])
        found = _run(16, ['meshes', one])
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            address = f'127.0.0.1:{free.getsockname()[1]}'
        sides = [_start(4, ['processes', one, address, str(i)]) for i in range(2)]
        first, _ = [_end(side) for side in sides]
        found += first
    for name, losses, gradients in found:
        for what, value in (('20 losses', losses), ('gradients', gradients)):
            yield {
                'name': f'agree: {name}, {what} / one device', 'value': value,
                'goal': 1e-5, 'direction': 'min', 'unit': 'of it',
            }  # fmt: skip


def _start(devices: int, arguments: list[str]) -> subprocess.Popen[str]:
    flags = f'--xla_force_host_platform_device_count={devices}'
    given = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
    command = [sys.executable, '-m', 'experiments.benchmarks._scale_agree', *arguments]
    return subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True)


def _end(side: subprocess.Popen[str]) -> list[Any]:
    out, _ = side.communicate()
    if side.returncode:
        raise RuntimeError(f'{side.args!r} ended with {side.returncode}')
    # Gloo says on the same stream who is connected.
    return [json.loads(line) for line in out.splitlines() if line.startswith('["')]


def _run(devices: int, arguments: list[str]) -> list[Any]:
    return _end(_start(devices, arguments))


def _trained(
    rules: str, sizes: dict[str, int], kind: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The losses of all steps, and the gradients of the first."""
    config = gpt2.get_config('small')
    preset, changes = MODELS[kind]
    config.model = model_table.preset(preset, **changes)
    config.data.batch_size = ROWS
    # Of a gradient that is 0 but for rounding, Adam would take the sign.
    config.optimizer.update(b1=B1, eps=1e-3, clip_norm=1e9, warmup_steps=0)
    config.mesh.update(sizes | {'fsdp': sizes.get('fsdp', 1), 'rules': rules})
    config.compute.update(dtype='float32', remat='none', accumulate=1)
    program = step_lib.of(config)
    step = program.step.lower(*program.arguments).compile()
    state = program.start(transformer.init(program.model, jax.random.key(0)))
    losses, gradients = [], {}
    for number in range(STEPS):
        batch = {
            name: jax.make_array_from_callback(x.shape, place.sharding, x.__getitem__)
            for (name, place), x in zip(
                program.arguments[2].items(), _batch(number), strict=True
            )
        }
        state, metrics = step(state, {}, batch)
        losses.append(float(metrics['loss']))
        if not number:
            for path, moment in trees.paths(state.opt_state):
                if '/mu/' in path:
                    whole = multihost_utils.process_allgather(moment, tiled=True)
                    gradients[path] = np.asarray(whole) / (1 - B1)
    return np.array(losses), gradients


def _batch(number: int) -> Iterator[np.ndarray]:
    """tokens, targets, segments, positions, weights of rows of two documents."""
    rng = np.random.default_rng(number)
    T = SIZES['T']
    tokens = rng.integers(1, SIZES['V'], (ROWS, T + 1)).astype(np.int32)
    first = rng.integers(4, T - 4, (ROWS, 1))
    index = np.arange(T)
    yield from (tokens[:, :-1], tokens[:, 1:])
    yield np.where(index < first, 1, 2).astype(np.int32)
    yield np.where(index < first, index, index - first).astype(np.int32)
    yield (rng.random((ROWS, T)) < 0.8).astype(np.float32)


def _apart(found: Any, wanted: Any) -> tuple[float, float]:
    """The largest relative error of losses; of gradients, over the largest number."""
    losses = np.max(np.abs(found[0] / wanted[0] - 1))
    largest = max(np.max(np.abs(x)) for x in wanted[1].values())
    off = max(np.max(np.abs(found[1][k] - x)) for k, x in wanted[1].items())
    return float(losses), float(off / largest)


def main() -> None:
    what, one, *rest = sys.argv[1:]
    if what == 'one':
        for kind in MODELS:
            losses, gradients = _trained('data', {}, kind)
            saved: dict[str, Any] = {'losses': losses, **gradients}
            np.savez(f'{one}_{kind}.npz', **saved)
        return
    if what == 'processes':
        jax.distributed.initialize(rest[0], 2, int(rest[1]))
    for rules, sizes, kind in MESHES:
        devices = int(np.prod(list(sizes.values())))
        if what == 'processes' and devices != jax.device_count():
            continue
        known = dict(np.load(f'{one}_{kind}.npz'))
        wanted = known.pop('losses'), known
        name = ' x '.join(f'{axis} {n}' for axis, n in sizes.items())
        name += ', sequence' if 'sequence' in rules else ''
        name += ', 2 processes' if what == 'processes' else ''
        print(json.dumps([name, *_apart(_trained(rules, sizes, kind), wanted)]))
        sys.stdout.flush()


if __name__ == '__main__':
    main()
