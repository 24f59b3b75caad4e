"""Layers over devices: a pipeline of stages with a circular schedule.

Microbatches go from stage to stage (Huang et al., 2019), `rounds` times around: stage s
has blocks of layers s, S + s, 2 S + s, ... (Narayanan et al., 2021, section 2.2). All
is one scan, in each iteration of which every stage, a row of arrays that the mesh axis
`stage` splits, computes and hands on; the partitioner makes that a collective permute
(Xu et al., 2021, section 3.3). Backward runs the scan the other way.
"""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import jax
from jax import ad_checkpoint, lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float
import numpy as np

from gptjax import command, core
from gptjax import sharding as sharding_lib
from gptjax.model import config

AXIS = 'stage'  # of the mesh
_INPUT = 'input of a layer'
# What w[r] is made of, and what products do with it: cheap to do again.
_PICK = ('gather', 'squeeze', 'reshape', 'transpose', 'stop_gradient', 'pvary')


class Plan(NamedTuple):
    """Which stage does what and when.

    In iteration i stage s has slot i - s, which is microbatch (i - s) mod `slots` in
    round (i - s) // slots; where there is none, it computes for nothing, on zeros or on
    what the stages before it have made of zeros.
    """

    stages: int
    rounds: int
    parts: int  # microbatches
    slots: int  # of a round: one waits until it has gone around once

    @property
    def iterations(self) -> int:
        """Of the scan: slots x rounds, and stages - 1 more, which are the bubble."""
        return self.slots * self.rounds + self.stages - 1


def plan(
    compute: config.Compute, sharding: sharding_lib.Sharding, rows: int
) -> Plan | None:
    """The schedule for a batch of so many rows; None on a mesh without stages.

    Rows that `compute.pipeline_microbatches` does not divide, of rewards and other
    single batches, are cut into fewer: training has none, see `check`. Decoding has no
    pipeline: every stage computes all layers, and holds all weights for it.
    """
    stages, rounds = sharding.mesh.shape[AXIS], compute.pipeline_rounds
    if stages == 1:
        return None
    parts = compute.pipeline_microbatches or stages
    parts = math.gcd(parts, max(1, rows // sharding.batch_shards))
    return Plan(stages, rounds, parts, max(parts, stages) if rounds > 1 else parts)


def check(
    arch: config.Architecture,
    compute: config.Compute,
    sharding: sharding_lib.Sharding,
    rows: int,
) -> None:
    """Raises UserError where layers or the rows of a microbatch do not split evenly.

    rows: those of a step's microbatch, of which the pipeline makes smaller ones.
    """
    stages, rounds = sharding.mesh.shape[AXIS], compute.pipeline_rounds
    parts, shards = compute.pipeline_microbatches or stages, sharding.batch_shards
    blocks = stages * rounds
    faults = {
        'compute.pipeline_microbatches or pipeline_rounds is set, and mesh.stage is 1; '
        'set them to 0 and 1, or mesh.stage to more.': stages == 1
        and (rounds > 1 or compute.pipeline_microbatches > 0),
        f'model.L is {arch.L} and model.encoder_L {arch.encoder_L}, which {stages} '
        f'stages x {rounds} rounds do not divide; change it, mesh.stage or '
        'compute.pipeline_rounds.': arch.L % blocks > 0 or arch.encoder_L % blocks > 0,
        f'compute.pipeline_microbatches is {parts}, and with several rounds it is at '
        f'least the {stages} of mesh.stage.': rounds > 1 and parts < stages,
        f'a microbatch has {rows} rows (data.batch_size / compute.accumulate), which '
        f'{parts} microbatches of the pipeline on {shards} data shards do not divide; '
        f'make it a multiple of {parts * shards}, or change '
        'compute.pipeline_microbatches.': stages > 1 and rows % (parts * shards) > 0,
    }
    for message in (message for message, wrong in faults.items() if wrong):
        raise command.UserError(message)


# (weights, stream, window, *what else it reads, dropout key) -> (stream, its losses)
Layer = Callable[..., tuple[Array, core.Metrics]]


def run(
    layer: Layer,
    policy: Callable[..., Any] | None,
    how: Plan,
    unroll: int,
    sharding: sharding_lib.Sharding,
    weights: Any,
    windows_L: np.ndarray,
    x_BTD: Float[Array, 'B T D'],
    beside: tuple[Any, ...],
    key: Array | None,
) -> tuple[Float[Array, 'B T D'], core.Metrics]:
    """The stream after all layers, and the sums of the router's losses.

    policy: that of `layer`, if it is rematerialised. weights: a stack of layers, L in
    front. beside: what layers read besides the stream; arrays with B rows go along with
    their microbatch. Dropout has a key for each layer and microbatch. With R rounds,
    weights move once a call from the layout of the stack to that of the rounds, and
    gradients back: 1 - 1 / R of a stage's, in the type of activations where they were
    cast before (`low.tree`), and back in float32. A step that accumulates has a call
    for each of its microbatches.
    """
    S, rounds, parts, slots = how
    rows = x_BTD.shape[0]

    def cut(x: Array) -> Array:
        """Microbatch m takes every parts-th row, so that devices keep their own."""
        return x.reshape(rows // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def by_stage(x: Any) -> Any:
        return x.reshape(rounds, S, len(x) // (rounds * S), *x.shape[1:]).swapaxes(0, 1)

    leaves, tree = jax.tree.flatten(beside)
    moving = [leaf.ndim > 0 and len(leaf) == rows for leaf in leaves]
    leaves = [cut(x) if own else x for x, own in zip(leaves, moving, strict=True)]
    parts_MbTD = cut(x_BTD)
    place = sharding.spec(('batch', 'length', None), parts_MbTD.shape[1:])
    over = NamedSharding(sharding.mesh, P(AXIS, *place))
    windows = by_stage(windows_L)
    line = _Line(layer, policy, how, unroll, over, windows, (leaves, moving, tree), key)
    weights = jax.tree.map(lambda w: _split(by_stage(w), sharding), weights)
    # A copy for each stage, of which the first reads its own: so the gradient is summed
    # over stages once, and not in each iteration.
    fed = jnp.broadcast_to(parts_MbTD[:, None], (parts, S, *parts_MbTD.shape[1:]))
    each = NamedSharding(sharding.mesh, P(None, *over.spec))
    fed = lax.with_sharding_constraint(fed, each)
    fed = jnp.pad(fed, [(0, how.iterations - parts)] + [(0, 0)] * 4)
    waiting = slots - S if rounds > 1 else 0
    queue = lax.with_sharding_constraint(jnp.zeros_like(fed[:waiting]), each)
    _, (states, router) = lax.scan(
        functools.partial(line.iterate, weights),
        (jnp.zeros_like(fed[0]), queue),
        (jnp.arange(how.iterations), fed),
    )
    # XLA sends the last stage's of all iterations, and cuts them there (v5e).
    states = states[how.iterations - slots :][:parts]
    x_BTD = states[:, S - 1].swapaxes(0, 1).reshape(x_BTD.shape)
    return x_BTD, jax.tree.map(jnp.sum, router)


def _split(weight: Array, sharding: sharding_lib.Sharding) -> Array:
    """Stages in front over their mesh axis; the partitioner knows the other axes."""
    spec = P(AXIS, None, None, *(P.UNCONSTRAINED,) * (weight.ndim - 3))
    return lax.with_sharding_constraint(weight, NamedSharding(sharding.mesh, spec))


@jax.custom_vjp
def _handed(x: Array) -> Array:
    """What each stage gives to the next, and backward to the one before.

    The transpose of `roll` is the sum of two arrays, each of which would be sent.
    """
    return jnp.roll(x, 1, axis=0)


_handed.defvjp(lambda x: (_handed(x), None), lambda _, dy: (jnp.roll(dy, -1, axis=0),))


class _Line(NamedTuple):
    """What does not change from iteration to iteration, but for the weights."""

    layer: Layer
    policy: Callable[..., Any] | None
    how: Plan
    unroll: int
    over: NamedSharding  # of the streams of all stages, (S, b, T, D)
    windows: np.ndarray  # (S, rounds, layers of a stage in a round)
    beside: tuple[list[Array], list[bool], Any]  # leaves, whether cut, tree
    key: Array | None

    def iterate(self, weights: Any, carry: Any, inputs: Any) -> Any:
        """Every stage does its layers, and hands on; the queue is before the first."""
        S, rounds, parts, slots = self.how
        (state, queue), (i, fed) = carry, inputs
        slot_S = i - jnp.arange(S)
        back = state  # of the first stage: what the last one handed on
        if len(queue):
            back, queue = queue[i % len(queue)], queue.at[i % len(queue)].set(state)
        first = jnp.arange(S)[:, None, None, None] == 0
        again = (i >= slots) & (i < slots * rounds)
        state = jnp.where(first, jnp.where(again, back, fed), state)
        state = lax.with_sharding_constraint(state, self.over)
        stage = self.stage
        if rounds > 1:
            stage = jax.checkpoint(stage, policy=self._kept, prevent_cse=False)
        stages = jax.vmap(stage, spmd_axis_name=AXIS)
        state, router = stages(jnp.arange(S), weights, state, slot_S)
        state = lax.with_sharding_constraint(state, self.over)
        real_S = (slot_S >= 0) & (slot_S < rounds * slots) & (slot_S % slots < parts)
        router = jax.tree.map(lambda x_S: jnp.where(real_S, x_S, 0), router)
        handed = lax.with_sharding_constraint(_handed(state), self.over)
        return (handed, queue), (state, router)

    def _kept(self, primitive: Any, *args: Any, **params: Any) -> Any:
        """What backward finds of an iteration: what `policy` says, and no weights.

        Weights of a round are picked anew in each iteration, and the scan would keep
        as many copies: 2.4 MB against 1.7 in 9 iterations of 8 layers of width 32.
        """
        if self.policy is None:
            return primitive.name not in _PICK
        named = jax.checkpoint_policies.save_only_these_names(_INPUT)
        inputs = named(primitive, *args, **params)
        return inputs or self.policy(primitive, *args, **params)

    def stage(self, s: Array, weights: Any, x_bTD: Array, slot: Array) -> Any:
        """The layers of a stage for the microbatch that is there."""
        _, rounds, parts, slots = self.how
        m = jnp.minimum(slot % slots, parts - 1)
        r = jnp.clip(slot // slots, 0, rounds - 1)
        leaves, moving, tree = self.beside
        here = [x[m] if own else x for x, own in zip(leaves, moving, strict=True)]
        beside = jax.tree.unflatten(tree, here)
        S, _, count = self.windows.shape
        number_l = (r * S + s) * count + jnp.arange(count)
        window_l = jnp.asarray(self.windows)[s, r]
        if (self.windows == self.windows[:1, :1]).all():
            # One for all stages: of a switch between kernels, one branch runs.
            window_l = jnp.asarray(self.windows[0, 0])

        def one(x_bTD: Array, inputs: Any) -> tuple[Array, core.Metrics]:
            weights, window, number = inputs
            x_bTD = ad_checkpoint.checkpoint_name(x_bTD, _INPUT)
            key = self.key  # of dropout: one for each layer and microbatch
            key = key if key is None else jax.random.fold_in(key, number * parts + m)
            return self.layer(weights, x_bTD, window, *beside, key)

        weights = jax.tree.map(lambda w: w[r] if rounds > 1 else w[0], weights)
        layers = weights, window_l, number_l
        x_bTD, router = lax.scan(one, x_bTD, layers, unroll=min(self.unroll, count))
        return x_bTD, jax.tree.map(jnp.sum, router)
