"""Where every array lies: the mesh, and one table from logical to mesh axes.

Weights and activations name their axes by meaning; a preset of `RULES` says over which
mesh axes each is split. Everything else (gradients, optimizer state, checkpoints)
follows from that, through XLA's partitioner.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gptjax import command

MESH_AXES = ('data', 'fsdp', 'tensor')

LOGICAL_AXES = (
    'batch', 'length', 'embed', 'heads', 'kv_heads', 'head_dim', 'mlp', 'vocab',
    'experts', 'layers', 'classes',
)  # fmt: skip

# `embed` is the model width of a weight. Activations leave theirs unnamed: their batch
# axis already uses `fsdp`.
RULES: dict[str, dict[str, tuple[str, ...]]] = {
    'data': {'batch': ('data',)},
    'fsdp': {'batch': ('data', 'fsdp'), 'embed': ('fsdp',)},
    'fsdp_tensor': {
        'batch': ('data', 'fsdp'),
        'embed': ('fsdp',),
        'heads': ('tensor',),
        'kv_heads': ('tensor',),
        'mlp': ('tensor',),
        'vocab': ('tensor',),
    },
}


@dataclasses.dataclass(frozen=True)
class Sharding:
    """A mesh and the name of its rules; hashable, so that a module can carry it."""

    mesh: Mesh
    rules: str

    def spec(self, axes: Sequence[str | None]) -> P:
        """Logical axes, one a dimension, as a PartitionSpec.

        Raises ValueError for an axis no table knows and for two dimensions on one mesh
        axis.
        """
        dims = [self._mesh_axes(axis) for axis in axes]
        used = [mesh_axis for dim in dims for mesh_axis in dim]
        if len(set(used)) < len(used):
            raise ValueError(
                f'rules {self.rules!r} put two dimensions of {tuple(axes)} '
                f'on one mesh axis: {dims}'
            )
        return P(*(dim or None for dim in dims))

    def _mesh_axes(self, axis: str | None) -> tuple[str, ...]:
        if axis is not None and axis not in LOGICAL_AXES:
            raise ValueError(f'unknown logical axis {axis!r}')
        return RULES[self.rules].get(axis, ()) if axis else ()

    def _parts(self, axis: str | None) -> int:
        return math.prod(self.mesh.shape[name] for name in self._mesh_axes(axis))

    def named(
        self, axes: Sequence[str | None], shape: Sequence[int] | None = None
    ) -> NamedSharding:
        """The sharding of an array; with its shape, checks that dimensions divide."""
        for size, axis in zip(shape or (), axes, strict=False):
            parts = self._parts(axis)
            if size % parts:
                raise command.UserError(
                    f'axis {axis!r} of an array {tuple(shape or ())} has size {size}, '
                    f'which {parts} parts (mesh {dict(self.mesh.shape)}, rules '
                    f'{self.rules!r}) do not divide; change the size to '
                    f'{math.ceil(size / parts) * parts}, or the mesh.'
                )
        return NamedSharding(self.mesh, self.spec(axes))

    def constrain(self, x: jax.Array, *axes: str | None) -> jax.Array:
        """Tells the partitioner how `x` is to lie, one logical axis a dimension."""
        return jax.lax.with_sharding_constraint(x, self.named(axes))

    @functools.cached_property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, P())

    @property
    def batch_shards(self) -> int:
        """Into how many parts the rows of a batch are split."""
        return self._parts('batch')

    def check_batch(self, rows: int, name: str) -> None:
        """Raises UserError if `rows`, the setting `name`, do not split evenly."""
        parts = self.batch_shards
        if rows % parts or rows < 1:
            below, above = rows // parts * parts, math.ceil(rows / parts) * parts
            near = f'{below} or {above}' if below else f'{max(above, parts)}'
            raise command.UserError(
                f'{name} is {rows}, which {parts} data shards do not divide; '
                f'set it to a multiple of {parts} ({near}).'
            )

    def of_boxed(self, boxed: Any) -> Any:
        """The shardings of a tree of Linen's boxed parameters (from `eval_shape`)."""
        specs = nn.get_partition_spec(boxed)
        shapes = nn.unbox(boxed)
        return jax.tree.map(
            lambda leaf, spec: self.named(
                tuple(spec) + (None,) * (len(leaf.shape) - len(spec)), leaf.shape
            ),
            shapes,
            specs,
        )


def make(
    data: int, fsdp: int, tensor: int, rules: str, devices: Sequence[Any] = ()
) -> Sharding:
    """The mesh of `data` x `fsdp` x `tensor` devices with the preset `rules`.

    One of the sizes may be -1: the devices that are left. A mesh smaller than the
    machine takes its first devices; every process must own a part of it. devices:
    those of a machine that is not here, for programs compiled ahead of time.
    """
    table = command.lookup(RULES, rules, 'preset for mesh.rules')
    sizes = dict(zip(MESH_AXES, (data, fsdp, tensor), strict=True))
    devices = devices or jax.devices()
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise command.UserError(
            f'mesh is {sizes}; sizes are 1 or more, and one may be -1 (the rest).'
        )
    if free and fixed <= len(devices) and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    total = math.prod(sizes.values())
    whole = jax.process_count() > 1
    if not 0 < total <= len(devices) or (whole and total != len(devices)):
        need = 'all of them' if whole else 'at most that many'
        raise command.UserError(
            f'mesh {sizes} has {abs(total)} devices and there are {len(devices)}; '
            f'make mesh.data x mesh.fsdp x mesh.tensor {need}.'
        )
    used = {mesh_axis for dims in table.values() for mesh_axis in dims}
    for axis, size in sizes.items():
        if size > 1 and axis not in used:
            raise command.UserError(
                f'mesh.{axis} is {size}, but rules {rules!r} split nothing over it; '
                f'set it to 1, or take other rules ({", ".join(RULES)}).'
            )
    mesh = jax.make_mesh(
        tuple(sizes.values()),
        MESH_AXES,
        axis_types=(AxisType.Auto,) * len(MESH_AXES),
        devices=devices[:total],
    )
    return Sharding(mesh, rules)


def single() -> Sharding:
    """One device: for generation, serving and evaluation of what fits on it."""
    return make(data=1, fsdp=1, tensor=1, rules='data')
