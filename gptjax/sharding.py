"""Where every array lies: the mesh, and one table from logical to mesh axes.

Weights and activations name their axes by meaning; the forms of `FORMS` say over
which mesh axes each is split. Everything else (gradients, optimizer state, checkpoints)
follows from that, through XLA's partitioner.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import contextvars
import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from gptjax import command

# From the slowest network to the fastest: what lies last lies closest together.
MESH_AXES = ('slice', 'stage', 'data', 'fsdp', 'expert', 'context', 'tensor')

LOGICAL_AXES = (
    'batch', 'length', 'embed', 'heads', 'kv_heads', 'head_dim', 'mlp', 'vocab',
    'experts', 'layers', 'classes', 'positions',
)  # fmt: skip

# The parallel forms. `mesh.rules` names some, joined by `_`; data parallelism is always
# one of them. `embed` is the model width of a weight. Activations leave theirs unnamed:
# their batch axis already uses `fsdp`.
FORMS: dict[str, dict[str, tuple[str, ...]]] = {
    'data': {'batch': ('slice', 'data')},
    'fsdp': {'batch': ('fsdp',), 'embed': ('fsdp',)},
    'tensor': {
        'heads': ('tensor',),
        'kv_heads': ('tensor',),
        'mlp': ('tensor',),
        'vocab': ('tensor',),
    },
    'sequence': {'length': ('tensor',)},
    'context': {'length': ('context',)},
    'expert': {'batch': ('expert',), 'experts': ('expert',)},
    # The vocabulary as well: stages would all do the same outside the layers.
    'stage': {'layers': ('stage',), 'vocab': ('stage',)},
}
# Mesh axes along which all weights are the same: those that split nothing but rows.
COPIES = ('slice', 'data')
_AUTO = (AxisType.Auto,) * len(MESH_AXES)
_one_copy = contextvars.ContextVar('_one_copy', default=False)


@contextlib.contextmanager
def one_copy() -> Iterator[None]:
    """Inside, arrays are those of one copy of the weights, which `vmap` has all of.

    Places then say nothing of the axes `COPIES`: `vmap` puts them in front.
    """
    token = _one_copy.set(True)
    try:
        yield
    finally:
        _one_copy.reset(token)


@functools.cache
def table(rules: str) -> dict[str, tuple[str, ...]]:
    """Logical axes with the mesh axes that they are split over; UserError for a form
    that there is not."""
    merged: dict[str, set[str]] = {}
    for name in ['data', *rules.split('_')]:
        form = command.lookup(FORMS, name, f'form in mesh.rules {rules!r}')
        for axis, over in form.items():
            merged.setdefault(axis, set()).update(over)
    return {
        axis: tuple(name for name in MESH_AXES if name in over)
        for axis, over in merged.items()
    }


@dataclasses.dataclass(frozen=True)
class Sharding:
    """A mesh and its rules, see `table`; hashable, so that a module can carry it."""

    mesh: Mesh
    rules: str

    def spec(self, axes: Sequence[str | None], shape: Sequence[int] | None = None) -> P:
        """Logical axes, one a dimension, as a PartitionSpec.

        `length` yields: it takes only the mesh axes that no other dimension has, and,
        given the shape, that divide it (one token of a decoder is not split). Raises
        ValueError for an axis no table knows and for two dimensions on one mesh axis.
        """
        dims = [self._mesh_axes(axis) for axis in axes]
        taken = [
            mesh_axis
            for axis, dim in zip(axes, dims, strict=True)
            if axis != 'length'
            for mesh_axis in dim
        ]
        if len(set(taken)) < len(taken):
            raise ValueError(
                f'rules {self.rules!r} put two dimensions of {tuple(axes)} '
                f'on one mesh axis: {dims}'
            )
        for i, axis in enumerate(axes):
            if axis == 'length':
                left = tuple(name for name in dims[i] if name not in taken)
                divides = shape is None or shape[i] % self._size(left) == 0
                dims[i] = left if divides else ()
        return P(*(dim or None for dim in dims))

    def _mesh_axes(self, axis: str | None) -> tuple[str, ...]:
        if axis is not None and axis not in LOGICAL_AXES:
            raise ValueError(f'unknown logical axis {axis!r}')
        over = table(self.rules).get(axis, ()) if axis else ()
        if _one_copy.get():
            return tuple(name for name in over if name not in COPIES)
        return over

    def _size(self, mesh_axes: Sequence[str]) -> int:
        return math.prod(self.mesh.shape[name] for name in mesh_axes)

    def parts(self, axis: str) -> int:
        """Into how many parts a logical axis is split, where it does not yield."""
        return self._size(self._mesh_axes(axis))

    def named(
        self, axes: Sequence[str | None], shape: Sequence[int] | None = None
    ) -> NamedSharding:
        """The sharding of an array; with its shape, checks that dimensions divide."""
        for size, axis in zip(shape or (), axes, strict=False):
            parts = self.parts(axis) if axis and axis != 'length' else 1
            if size % parts:
                raise command.UserError(
                    f'axis {axis!r} of an array {tuple(shape or ())} has size {size}, '
                    f'which {parts} parts (mesh {self}, rules {self.rules!r}) do not '
                    f'divide; change the size to {math.ceil(size / parts) * parts}, or '
                    'the mesh.'
                )
        return NamedSharding(self.mesh, self.spec(axes, shape))

    def __str__(self) -> str:
        """The mesh, such as 'fsdp 4 x tensor 2', without the axes of one device."""
        several = [f'{name} {n}' for name, n in self.mesh.shape.items() if n > 1]
        return ' x '.join(several) or 'one device'

    def constrain(self, x: jax.Array, *axes: str | None) -> jax.Array:
        """Tells the partitioner how `x` is to lie, one logical axis a dimension."""
        place = NamedSharding(self.mesh, self.spec(axes, x.shape))
        return jax.lax.with_sharding_constraint(x, place)

    def each_copy(self, tree: Any) -> Any:
        """Arrays of all copies of the weights, one after another, each at its own."""

        def placed(x: jax.Array) -> jax.Array:
            spec = P(COPIES, *(P.UNCONSTRAINED,) * (x.ndim - 1))
            return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

        return jax.tree.map(placed, tree)

    @functools.cached_property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, P())

    @property
    def copies(self) -> int:
        """How many groups of devices have all weights, each with rows of its own."""
        return self._size(COPIES)

    @property
    def mapped(self) -> int:
        """The copies whose arrays `vmap` has: all inside `one_copy`, else 1."""
        return self.copies if _one_copy.get() else 1

    @property
    def batch_shards(self) -> int:
        """Into how many parts the rows of a batch are split."""
        return self.parts('batch')

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

    def by_width(self, shape: Sequence[int]) -> P:
        """Of activations whose width lies as that of weights, which takes first."""
        taken = self._mesh_axes('embed')
        batch = tuple(name for name in self._mesh_axes('batch') if name not in taken)
        _, length, _ = self.spec(('batch', 'length', None), shape)
        return P(batch, length, taken or None)

    def check_length(self, T: int, name: str) -> None:
        """Raises UserError if rows of `T` tokens, what `name` says, do not split.

        The load of causal attention is even where each part of `context` has two
        pieces, one near either end of a row.
        """
        parts = self.parts('length') * (2 if self.mesh.shape['context'] > 1 else 1)
        if T % parts:
            raise command.UserError(
                f'{name} is {T}, which {parts} parts of a row (mesh {self}, rules '
                f'{self.rules!r}) do not divide; set it to a multiple of {parts} '
                f'({math.ceil(T / parts) * parts}, say).'
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
    data: int,
    fsdp: int,
    tensor: int,
    rules: str,
    *,
    slice: int = 1,
    context: int = 1,
    expert: int = 1,
    stage: int = 1,
    devices: Sequence[Any] = (),
) -> Sharding:
    """The mesh of these sizes with the forms of `rules`, see `table`.

    One of the sizes may be -1: the devices that are left. A mesh smaller than the
    machine takes its first devices; every process must own a part of it. devices:
    those of a machine that is not here, for programs compiled ahead of time.
    """
    given = {
        'slice': slice, 'stage': stage, 'data': data, 'fsdp': fsdp, 'expert': expert,
        'context': context, 'tensor': tensor,
    }  # fmt: skip
    used = {mesh_axis for dims in table(rules).values() for mesh_axis in dims}
    devices = devices or jax.devices()
    sizes = _sizes(given, len(devices))
    for axis, size in sizes.items():
        if size > 1 and axis not in used:
            raise command.UserError(
                f'mesh.{axis} is {size}, but rules {rules!r} split nothing over it; '
                f'set it to 1, or add a form that does ({", ".join(FORMS)}).'
            )
    grid = _grid(sizes, devices[: math.prod(sizes.values())])
    return Sharding(Mesh(grid, MESH_AXES, axis_types=_AUTO), rules)


def _sizes(given: Mapping[str, int], devices: int) -> dict[str, int]:
    """The sizes with -1 filled in; UserError where they do not fit the devices."""
    sizes = {axis: given[axis] for axis in MESH_AXES}
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise command.UserError(
            f'mesh is {sizes}; sizes are 1 or more, and one may be -1 (the rest).'
        )
    if free and fixed <= devices and devices % fixed == 0:
        sizes[free[0]] = devices // fixed
    total = math.prod(sizes.values())
    whole = jax.process_count() > 1
    if not 0 < total <= devices or (whole and total != devices):
        need = 'all of them' if whole else 'at most that many'
        raise command.UserError(
            f'mesh {sizes} has {abs(total)} devices and there are {devices}; '
            f'make the product of its sizes {need}.'
        )
    return sizes


def _grid(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    """The devices as a mesh: the axis `slice` goes over whole slices of TPUs.

    Elsewhere the devices lie in their order, host after host, so that the first axes
    cross hosts.
    """
    if devices[0].platform != 'tpu':
        return np.array(devices).reshape(list(sizes.values()))
    slices: dict[Any, list[Any]] = {}
    for device in devices:
        slices.setdefault(getattr(device, 'slice_index', 0), []).append(device)
    groups = list(slices.values())
    if len(groups) != sizes['slice']:
        raise command.UserError(
            f'mesh.slice is {sizes["slice"]}, and there are {len(groups)} slices; set '
            f'it to {len(groups)}, as only it crosses the network between them.'
        )
    within = [sizes[axis] for axis in MESH_AXES if axis != 'slice']
    return np.stack(
        [
            mesh_utils.create_device_mesh(
                within, devices=group, allow_split_physical_axes=True
            )
            for group in groups
        ]
    )


def single() -> Sharding:
    """One device: for generation, serving and evaluation of what fits on it."""
    return make(data=1, fsdp=1, tensor=1, rules='data')
