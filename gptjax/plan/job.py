"""What is trained, and one way to lay it out: what the analytic plan reads of both."""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import optax

from gptjax import command, trees
from gptjax import sharding as sharding_lib
from gptjax.model import config as model_config
from gptjax.model import cost, transformer
from gptjax.train import build, inputs
from gptjax.train import settings as settings_lib


@dataclasses.dataclass(frozen=True)
class Layout:
    """Mesh x batch x remat: what a search is over."""

    sizes: tuple[tuple[str, int], ...]  # of mesh axes above 1
    rules: str
    rows: int  # of a step, over all chips
    accumulate: int
    remat: str

    def size(self, *axes: str) -> int:
        """Devices along these mesh axes together."""
        return math.prod(n for axis, n in self.sizes if axis in axes)

    def parts(self, axis: str) -> int:
        """Into how many parts a logical axis is split."""
        return self.size(*sharding_lib.table(self.rules).get(axis, ()))

    def __str__(self) -> str:
        return ' x '.join(f'{axis} {n}' for axis, n in self.sizes) or 'one device'


def split(sizes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """The sizes above 1, in the order of the mesh."""
    return tuple(
        (axis, sizes[axis])
        for axis in sharding_lib.MESH_AXES
        if axis in sizes and sizes[axis] > 1
    )


@dataclasses.dataclass(frozen=True)
class Held:
    """Bytes of one device between steps, exactly."""

    weights: float
    optimizer: float
    gradients: float


class Job:
    """A pretraining config: its model, optimizer, batch and number of tokens.

    Raises UserError for a config that does not fit, or is not of a causal decoder.
    """

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings
        name, _ = settings_lib.named(settings['objective'], 'objective')
        section = settings['model']
        if name != 'next_token' or 'init_from' in section or 'adapter' in settings:
            raise command.UserError(
                'plans are of pretraining: a config whose objective is next_token, '
                'without model.init_from and without an adapter.'
            )
        self.arch = model_config.architecture(**section)
        data = settings_lib.data_of(settings)
        self.T = inputs.length(data, self.arch)
        if 'steps' not in settings:
            raise command.UserError(
                'a plan needs the number of steps, and epochs need the data; set '
                'steps in place of epochs.'
            )
        self.steps = settings['steps']
        # (steps, rows of each), as the batch grows.
        edges = [(0, data.batch_size), *data.batch_ramp]
        ends = [first for first, _ in edges[1:]] + [self.steps]
        self.stretches = [
            (min(end, self.steps) - first, rows)
            for (first, rows), end in zip(edges, ends, strict=True)
            if first < self.steps
        ]
        self.rows = max(rows for _, rows in self.stretches)
        self.compute = command.splat(
            model_config.Compute, 'compute', settings['compute']
        )
        _, self.optimizer = build.optimizer_of(settings, self.steps, self.arch)
        model = transformer.make(self.arch, self.compute, sharding_lib.single())
        self.boxed = transformer.abstract(model)

    @property
    def parameters(self) -> int:
        return trees.count(self.boxed)

    @property
    def tokens(self) -> int:
        """Of a step, the largest."""
        return self.rows * self.T

    @property
    def all_tokens(self) -> int:
        """Of all steps."""
        return self.T * sum(steps * rows for steps, rows in self.stretches)

    @functools.cached_property
    def flops_per_token(self) -> float:
        """Of a row of T tokens, forward and backward, in the full convention."""
        arch = dataclasses.replace(self.arch, T=self.T)
        return cost.flops_per_token(arch)

    def pipeline(self, stages: int) -> int:
        """Microbatches that go through the stages, times how often they go round."""
        compute = self.compute
        return (compute.pipeline_microbatches or stages) * compute.pipeline_rounds

    @functools.cached_property
    def causal(self) -> float:
        """What is left of the operations without the scores that a mask hides."""
        arch = dataclasses.replace(self.arch, T=self.T)
        return cost.causal_flops_per_token(arch) / self.flops_per_token

    def own(self, chips: int) -> Layout:
        """The layout that the config itself has, on so many chips."""
        mesh = dict(self.settings['mesh'])
        rules = mesh.pop('rules')
        fixed = math.prod(n for n in mesh.values() if n > 0)
        sizes = {
            axis: n if n > 0 else max(1, chips // fixed) for axis, n in mesh.items()
        }
        return Layout(
            split(sizes), rules, self.rows, self.compute.accumulate, self.compute.remat
        )

    def held(self, layout: Layout) -> Held:
        """Bytes of a device; UserError where a dimension does not divide."""
        parts = {axis: layout.parts(axis) for axis in sharding_lib.LOGICAL_AXES}
        weights, moments = (
            math.fsum(leaf.part(parts) for leaf in leaves) for leaves in self._leaves
        )
        return Held(weights, moments, gradients=weights)

    @functools.cached_property
    def _leaves(self) -> tuple[list['_Leaf'], list['_Leaf']]:
        """Arrays of the weights, and of the optimizer, which lie as they do."""
        params = nn.unbox(self.boxed)
        opt_state = jax.eval_shape(self.optimizer.init, params)
        axes = jax.tree.map(
            lambda leaf, spec: _Axes(tuple(spec) + (None,) * (leaf.ndim - len(spec))),
            params,
            nn.get_partition_spec(self.boxed),
        )

        def whole(leaf: Any) -> Any:
            return jax.tree.map(lambda x: _Axes((None,) * x.ndim), leaf)

        like = optax.tree_utils.tree_map_params(
            self.optimizer,
            # Moments of another shape, as of a matrix's rows alone, lie everywhere.
            lambda leaf, param, own: jax.tree.map(
                lambda x: own if x.shape == param.shape else whole(x), leaf
            ),
            opt_state,
            params,
            axes,
            transform_non_params=whole,
            is_leaf=lambda leaf: isinstance(leaf, tuple),
        )
        return tuple(  # type: ignore[return-value]
            [
                _Leaf(leaf.shape, leaf.dtype.itemsize, named.axes)
                for leaf, named in zip(
                    jax.tree.leaves(shapes), jax.tree.leaves(names), strict=True
                )
            ]
            for shapes, names in ((params, axes), (opt_state, like))
        )

    @functools.cached_property
    def weights(self) -> dict[str, float]:
        """Parameters of layers outside experts, in experts, and of the tables."""
        counts = {'layers': 0.0, 'experts': 0.0, 'tables': 0.0}
        for path, leaf in trees.paths(nn.unbox(self.boxed)):
            inside = 'experts' if 'experts' in path else 'layers'
            part = inside if path.startswith('blocks') else 'tables'
            counts[part] += math.prod(leaf.shape)
        return counts

    @property
    def width(self) -> int:
        """Bytes of an activation."""
        return model_config.DTYPES[self.compute.dtype]


@dataclasses.dataclass(frozen=True)
class _Axes:
    """The logical axes of an array, one leaf of a tree."""

    axes: tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class _Leaf:
    shape: tuple[int, ...]
    itemsize: int
    axes: tuple[str | None, ...]

    def part(self, parts: Mapping[str, int]) -> int:
        """Bytes of a device where logical axes are split into so many parts."""
        size = self.itemsize
        for length, axis in zip(self.shape, self.axes, strict=True):
            over = parts.get(axis, 1) if axis and axis != 'length' else 1
            if length % over:
                raise command.UserError(
                    f'axis {axis!r} of a weight {self.shape} has size {length}, which '
                    f'{over} parts do not divide; change the mesh.'
                )
            size *= length // over
        return size
