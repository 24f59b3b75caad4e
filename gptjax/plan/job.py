"""What is trained, and one way to lay it out: what the analytic plan reads of both."""

from collections.abc import Iterator, Mapping
import contextlib
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
from gptjax.train import build, freeze, inputs
from gptjax.train import settings as settings_lib

_OF_ADAMW = ('b1', 'b2', 'eps', 'mu_dtype', 'nu_dtype')  # options


@dataclasses.dataclass(frozen=True)
class Layout:
    """Mesh x batch x remat: what a search is over."""

    sizes: tuple[tuple[str, int], ...]  # of mesh axes above 1
    rules: str
    rows: int  # of a step, over all chips
    accumulate: int
    remat: str
    pipeline: int = 0  # microbatches through the stages; 0: as many as stages
    rounds: int = 1  # that they go around these
    loss_rows: int = 0  # tokens of a microbatch whose logits exist at once; 0 is all

    def size(self, *axes: str) -> int:
        """Devices along these mesh axes together."""
        return math.prod(n for axis, n in self.sizes if axis in axes)

    def parts(self, axis: str) -> int:
        """Into how many parts a logical axis is split."""
        return self.size(*sharding_lib.table(self.rules).get(axis, ()))

    @property
    def turns(self) -> int:
        """Iterations of a microbatch in which a stage of a pipeline has work."""
        return (self.pipeline or self.size('stage')) * self.rounds

    @property
    def iterations(self) -> int:
        """All of them: while the pipeline fills, stages compute on zeros."""
        return self.turns + self.size('stage') - 1

    @property
    def sequence(self) -> int:
        """Into how many parts the stream's length is split between products."""
        return self.size('tensor') if 'sequence' in self.rules.split('_') else 1

    def __str__(self) -> str:
        axes = ' x '.join(f'{axis} {n}' for axis, n in self.sizes) or 'one device'
        return axes + ', sequence' * (self.sequence > 1)


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
        if min(self.steps, *(rows for _, rows in edges)) < 1:
            raise command.UserError(
                f'steps is {self.steps} and data.batch_size {data.batch_size}; a plan '
                'needs at least 1 of each, and of the rows of data.batch_ramp.'
            )
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
        # Of attention shapes are no matter; cuDNN's and others need what is not here.
        plain = dataclasses.replace(self.compute, attention='reference')
        model = transformer.make(self.arch, plain, sharding_lib.single())
        self.boxed = transformer.abstract(model)
        self.trained = build.trained_of(settings, model)
        self._held: dict[Any, Held] = {}

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

    @functools.cached_property
    def causal(self) -> float:
        """What is left of the operations without the scores that a mask hides."""
        arch = dataclasses.replace(self.arch, T=self.T)
        return cost.causal_flops_per_token(arch) / self.flops_per_token

    @property
    def scored(self) -> bool:
        """Whether attention has all its scores at once, as dropout inside needs."""
        return self.compute.attention == 'reference' or self.arch.dropout > 0

    def own(self, chips: int) -> Layout:
        """The layout that the config itself has, on so many chips."""
        mesh = dict(self.settings['mesh'])
        rules = mesh.pop('rules')
        fixed = math.prod(n for n in mesh.values() if n > 0)
        sizes = {
            axis: n if n > 0 else max(1, chips // fixed) for axis, n in mesh.items()
        }
        one = self.compute
        own = one.pipeline_microbatches, one.pipeline_rounds, one.loss_rows
        return Layout(split(sizes), rules, self.rows, one.accumulate, one.remat, *own)

    def spared(self) -> Iterator[tuple[str, 'Job']]:
        """Settings with which AdamW's moments take less, and the job with them."""
        section = self.settings['optimizer']
        if section['name'] != 'adamw':
            return
        bf16, names = 'bfloat16', ('mu_dtype', 'nu_dtype')
        few = {key: section[key] for key in section if key not in _OF_ADAMW}
        few |= dict(
            name='adafactor', decay_rate=0.8, threshold=1.0, parameter_scale=True
        )
        for what, changed in (
            (f'optimizer.mu_dtype={bf16}', {**section, 'mu_dtype': bf16}),
            (
                f'optimizer.mu_dtype={bf16} and optimizer.nu_dtype={bf16}',
                {**section, **dict.fromkeys(names, bf16)},
            ),
            ('optimizer.name=adafactor', few),
        ):
            with contextlib.suppress(command.UserError):  # b2 too large, or muP
                yield what, Job({**self.settings, 'optimizer': changed})

    def held(self, layout: Layout) -> Held:
        """Bytes of a device; UserError where a dimension does not divide."""
        known = layout.sizes, layout.rules
        if known not in self._held:
            freeze.check_stages(self.trained, layout.parts('layers'))
            parts = {axis: layout.parts(axis) for axis in sharding_lib.LOGICAL_AXES}
            sums = (math.fsum(leaf.part(parts) for leaf in of) for of in self._leaves)
            self._held[known] = Held(*sums)
        return self._held[known]

    @functools.cached_property
    def _leaves(self) -> tuple[list['_Leaf'], ...]:
        """Arrays of weights, optimizer and gradients, which lie as the first do."""
        params = nn.unbox(self.boxed)
        grads = jax.eval_shape(self.trained.take, params)
        opt_state = jax.eval_shape(self.optimizer.init, grads)
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
            grads,
            self.trained.prune(axes),
            transform_non_params=whole,
            is_leaf=lambda leaf: isinstance(leaf, tuple),
        )
        return tuple(
            [
                _Leaf(leaf.shape, leaf.dtype.itemsize, named.axes)
                for leaf, named in zip(
                    jax.tree.leaves(shapes), jax.tree.leaves(names), strict=True
                )
            ]
            for shapes, names in (
                (params, axes),
                (opt_state, like),
                (grads, self.trained.prune(axes)),
            )
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
