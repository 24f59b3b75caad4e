"""What noticing damage costs a save and a restore.

A state of 400 MB, as AdamW has it for 35M parameters, on the disk of TMPDIR. A save by
Checkpoints and one by Orbax alone take turns; so do the blocked part of a save and a
plain copy of every array, which is what a device that is no CPU would have to do
(on a CPU Orbax keeps a view, and the next step does not write in its place). First what
is restored is compared with what was saved, bit for bit.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
import shutil
import statistics
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from gptjax.train import checkpoint, manifest
from gptjax.train import state as state_lib

ROUNDS = 7
PARAMETERS = 35_000_000
_PLACE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        yield from _rows(Path(folder))


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    state = _state()
    checkpoints = checkpoint.Checkpoints(folder / 'run', keep=1)
    _check(checkpoints, state)
    orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
    times: dict[str, list[float]] = {
        name: [] for name in ('copy', 'blocked', 'ours', 'orbax', 'sha256', 'verify')
    }

    def timed(name: str, function: Callable[..., Any], *given: Any) -> None:
        start = time.perf_counter()
        function(*given)
        times[name].append(time.perf_counter() - start)

    def ours(number: int) -> None:
        timed('blocked', checkpoints.save, number, state, {})
        checkpoints.wait()

    def alone() -> None:
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            rest=ocp.args.StandardSave({'opt_state': state.opt_state}),
        )
        orbax.save(folder / 'orbax', args=items)
        orbax.wait_until_finished()

    for number in range(1, ROUNDS + 1):
        timed('copy', lambda: [np.array(x) for x in jax.tree.leaves(state)])
        timed('ours', ours, number)
        timed('orbax', alone)
        shutil.rmtree(folder / 'orbax')
        path = checkpoints.path(number)
        timed('sha256', manifest._fingerprints, path, manifest._files(path))
        timed('verify', checkpoints.whole, number)
    checkpoints.close()
    orbax.close()
    seconds = {name: statistics.median(found) for name, found in times.items()}
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e9

    def row(name: str, value: float, goal: float, **more: Any) -> dict[str, Any]:
        return {'name': name, 'value': value, 'goal': goal, **more}

    yield row(
        'save blocked, less 20 ms / a plain copy',
        max(0.0, seconds['blocked'] - 0.02) / seconds['copy'],
        1.2, direction='min', unit='copies', ours=seconds['blocked'],
        peer=seconds['copy'],
    )  # fmt: skip
    yield row(
        'save to the end / Orbax without checks',
        seconds['ours'] / seconds['orbax'],
        1.6, direction='min', unit='times', ours=seconds['ours'],
        peer=seconds['orbax'],
    )  # fmt: skip
    for name, what in (('sha256', 'sha256 of files'), ('verify', 'verifying a step')):
        speed = size / seconds[name]
        yield row(what, speed, 1.0, direction='max', unit='GB/s', ours=speed)


def _state() -> state_lib.State:
    shapes = {f'layer_{n}': (PARAMETERS // 24 // 512, 512) for n in range(24)}
    params = {
        name: jax.random.normal(key, shapes[name])
        for name, key in zip(
            shapes, jax.random.split(jax.random.key(0), 24), strict=True
        )
    }
    moments = optax.adamw(1e-3).init(params)
    leaves, tree = jax.tree.flatten(moments)
    drawn = [
        jax.random.normal(jax.random.key(n), leaf.shape) if leaf.ndim else leaf
        for n, leaf in enumerate(leaves)
    ]
    key = jax.random.key_data(jax.random.key(2))
    moments = jax.tree.unflatten(tree, drawn)
    state = state_lib.State(jnp.int32(1), key, params, moments, {})
    return jax.block_until_ready(jax.device_put(state, _PLACE))


def _check(checkpoints: checkpoint.Checkpoints, state: state_lib.State) -> None:
    """What is restored is what was saved; and programs are compiled afterwards."""
    checkpoints.save(0, state, {})
    checkpoints.wait()
    found = checkpoints.newest()
    assert found is not None
    places = jax.tree.map(lambda leaf: _PLACE, state)
    restored = checkpoints.restore(found, state, places)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
