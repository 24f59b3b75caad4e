"""Silent corruption: a device that computes or keeps a wrong bit and reports nothing.

Of 419 unexpected interruptions of Llama 3 405B 6 were that (Llama Team, 2024, table 5).
Copies of an array on several devices must be equal bit for bit, and so must a gradient
that one program computes twice from the same inputs.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from gptjax import command, core, trees
from gptjax.train import build
from gptjax.train import state as state_lib
from gptjax.train import step as step_lib

_PARTS = 4  # two gradients of a quarter of the rows cost about half a step

Places = tuple[NamedSharding, ...]


class Replicas:
    """Compares what must be equal; all processes call it and get the same answer."""

    def __init__(self, run: build.Run, step: int):
        """step: where the run begins."""
        self._run, self._good = run, step
        self._devices = run.model.sharding.mesh.devices.reshape(-1)
        place = run.model.sharding.replicated
        jit = functools.partial(jax.jit, static_argnames='places', out_shardings=place)
        # GPUs sum by atomics, in another order each time, where this is not asked for.
        on_gpu = self._devices[0].platform == 'gpu'
        exact = {'xla_gpu_exclude_nondeterministic_ops': True} if on_gpu else {}
        self._copies = jit(_digests)
        self._gradient = jit(functools.partial(_gradient, run), compiler_options=exact)

    def check(self, state: state_lib.State, frozen: Any, batch: Any, step: int) -> None:
        """Raises Failure (NUMERICS) where a device is found to be wrong after `step`.

        It names the devices: of three copies or more the odd one, of two both; and all,
        where what is wrong may have come to them through a sum over devices.
        """
        arrays = dict(trees.paths({**state._asdict(), 'frozen': frozen}))
        places = tuple(leaf.sharding for leaf in arrays.values())
        of_params = jax.tree.map(lambda leaf: leaf.sharding, state.params)
        trained = dict(trees.paths(self._run.trained.prune(of_params)))
        twice = functools.partial(self._gradient, places=tuple(trained.values()))
        digests = self._copies([*arrays.values()], places=places)
        found = digests, twice(state, frozen, batch), twice(state, frozen, batch)
        copies, first, second = (
            x.view(np.uint64)[..., 0] for x in jax.device_get(found)
        )
        odd = np.zeros(copies.shape, bool)  # [devices, arrays]
        for column, leaf in enumerate(arrays.values()):
            for rows in _groups(leaf.sharding, leaf.shape):
                odd[rows, column] = _odd(copies[rows, column])
        self._judge(odd, [*arrays], step, 'the copies of {} are not equal')
        trained['the loss'] = None
        self._judge(first != second, [*trained], step, 'two gradients of {} differ')
        self._good = step

    def _judge(self, odd: np.ndarray, names: list[str], step: int, what: str) -> None:
        counts = odd.sum(axis=0)
        if not counts.any():
            return
        # What a wrong copy spreads to lies on more devices than it does itself.
        sharpest = np.flatnonzero(counts == counts[counts > 0].min())
        devices = ', '.join(
            f'device {one.id} ({one.device_kind}, process {one.process_index})'
            for one in self._devices[odd[:, sharpest].any(axis=1)]
        )
        more = np.count_nonzero(counts) - 1
        what = what.format(names[sharpest[0]] + f' and {more} more' * bool(more))
        raise command.Failure(
            f'after step {step} {what}: {devices}. Nothing reported an error, so a '
            'device is silently wrong: drain its machine, delete the checkpoints after '
            f'step {self._good}, the last that passed, and run the same command again: '
            'the newest one from before was kept. '
            f'python -m gptjax.train replay --workdir={self._run.workdir} '
            f'--step={step} computes the step once more.',
            command.NUMERICS,
        )


def _digests(leaves: Sequence[jax.Array], places: Places) -> jax.Array:
    """uint32[devices, leaves, 2]: each device's digests of the bits that it holds.

    Inside shard_map, for elsewhere XLA may read any one of the copies.
    """

    def own(*shards: jax.Array) -> jax.Array:
        return jnp.stack([trees.digest_pair(shard) for shard in shards])[None]

    mesh, specs = places[0].mesh, tuple(place.spec for place in places)
    of_all = P(mesh.axis_names)
    return jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=of_all)(*leaves)


def _gradient(
    run: build.Run, state: state_lib.State, frozen: Any, batch: Any, places: Places
) -> jax.Array:
    """`_digests` of the gradient of one microbatch, and of its loss."""
    frozen = {**frozen, **{k: v for k, v in state.extra.items() if k == 'running'}}
    share = len(jax.tree.leaves(batch)[0]) // run.model.sharding.batch_shards
    least = min(share, max(_PARTS, run.model.compute.accumulate))
    parts = next(n for n in range(least, share + 1) if share % n == 0)
    # As in `step`, every `parts`-th row, so that each device keeps its own.
    batch = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:])[:, 0], batch)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

    def objective(part: core.Params) -> jax.Array:
        params = run.trained.put(state.params, part)
        terms = run.loss_fn(params, frozen, batch, key).terms.values()
        return jnp.sum(jnp.stack([step_lib.ratio(*term) for term in terms]))

    loss, grads = jax.value_and_grad(objective)(run.trained.take(state.params))
    where = *places, run.model.sharding.replicated
    return _digests([*jax.tree.leaves(grads), loss], where)


@functools.cache
def _groups(place: NamedSharding, shape: tuple[int, ...]) -> list[list[int]]:
    """Which devices, by number, hold the same part of an array."""
    numbers = {device: i for i, device in enumerate(place.mesh.devices.flat)}
    groups: dict[str, list[int]] = {}
    for device, index in place.devices_indices_map(shape).items():
        groups.setdefault(str(index), []).append(numbers[device])
    return list(groups.values())


def _odd(digests: np.ndarray) -> np.ndarray:
    """Which of the copies are not as most are; all of them, where no digest leads."""
    _, kinds, counts = np.unique(digests, return_inverse=True, return_counts=True)
    most = np.flatnonzero(counts == counts.max())
    return kinds != most[0] if len(most) == 1 else np.full(len(digests), True)
