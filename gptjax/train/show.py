"""What a config would train: its arrays, where they lie, and what they cost."""

from collections.abc import Sequence
import math
from typing import Any

from flax import linen as nn
import jax

from gptjax import command, sharding, trees
from gptjax.model import config as config_lib
from gptjax.model import cost, pipeline, transformer
from gptjax.train import adapter as adapter_lib
from gptjax.train import build, freeze, inputs, layout
from gptjax.train import settings as settings_lib
from gptjax.train import state as state_lib

# The part of a weight is the first of these names in its path.
_PARTS = {
    'attention': 'attention',
    'cross': 'cross attention',
    'mlp': 'mlp',
    'experts': 'experts',
    'head': 'head',
    'tokens': 'embeddings',
    'positions': 'embeddings',
    'types': 'embeddings',
}


def text(config: Any) -> str:
    """Tables of weights, of activations, of parameters and operations, of memory.

    Of a run with an adapter the first has the adapters, the second the whole model.
    Nothing is made: all of it follows from shapes. Raises UserError for a setting of
    the sections model, mesh, compute or optimizer that does not fit.
    """
    settings = settings_lib.of(config)
    _, model = build.begin_of(settings)
    trained = build.trained_of(settings, model)
    freeze.check_stages(trained, model.sharding.parts('layers'))
    full, adapter = transformer.abstract(model), adapter_lib.of(settings)
    boxed = adapter.trained(full) if adapter else full
    held = adapter.held(full) if adapter else {}
    forever = 2**31  # no shape depends on the number of steps
    _, optimizer = build.optimizer_of(settings, forever, model.arch)
    shapes, places = state_lib.shardings_of(boxed, optimizer, model.sharding, trained)
    base = nn.unbox(held), model.sharding.of_boxed(held)
    devices = model.sharding.mesh.size
    head = ['weight', 'shape', 'axes', 'split over', 'parameters', 'trained']
    parts = ['part', 'parameters', 'share', 'FLOP a token', 'share']
    data = settings_lib.data_of(settings)
    model.sharding.check_batch(data.batch_size, 'data.batch_size')
    length = inputs.length(data, model.arch)
    model.sharding.check_length(length, 'a row of T tokens')
    rows = data.batch_size // model.compute.accumulate
    pipeline.check(model.arch, model.compute, model.sharding, rows)
    named = ['activation', 'shape', 'type', 'split over', 'bytes', 'a device']
    kinds = ['state', 'bytes', f'bytes a device of {devices}']
    return '\n\n'.join(
        [
            table(head, _weights(boxed, places.params, trained), left=4),
            table(named, layout.activations(model, rows, length), left=4),
            table(parts, _by_part(model.arch, full), left=1),
            table(kinds, _bytes(shapes, places, trained, base), left=1),
        ]
    )


def remesh(config: Any, mesh: str) -> None:
    """Sets the config's mesh to one such as 'fsdp=4,tensor=2'.

    Rules that are not given are the forms of the axes named. UserError for an axis that
    there is not.
    """
    given = dict(part.partition('=')[::2] for part in mesh.split(','))
    rules = given.pop('rules', '_'.join(a for a in given if a in sharding.FORMS))
    for axis, size in given.items():
        command.lookup(dict.fromkeys(sharding.MESH_AXES), axis, 'axis in --mesh')
        if not size.isdigit():
            raise command.UserError(
                f'--mesh={mesh}: {axis} has no number; give AXIS=N,... such as '
                'fsdp=4,tensor=2.'
            )
    ones = {'data': 1, 'fsdp': 1, 'tensor': 1}
    sizes = {axis: int(size) for axis, size in given.items()}
    config.mesh = {**ones, **sizes, 'rules': rules or 'data'}


def _weights(boxed: Any, places: Any, trained: freeze.Trained) -> list[list[str]]:
    axes = {
        path: ', '.join(axis or '-' for axis in spec)
        for path, spec in trees.paths(_as_leaves(nn.get_partition_spec(boxed)))
    }
    split = dict(trees.paths(places))
    rows = []
    for path, leaf in trees.paths(nn.unbox(boxed)):
        over = [
            '+'.join(dim) if isinstance(dim, tuple) else str(dim or '-')
            for dim in split[path].spec
        ]
        shape = ' x '.join(map(str, leaf.shape))
        count = f'{math.prod(leaf.shape):,}'
        layers = trained.layers.get(path)
        learned = 'yes' if layers is None else f'{len(layers)} layers'
        learned = 'no' if layers == () else learned
        rows.append([path, shape, axes[path], ', '.join(over), count, learned])
    return [*rows, ['all', '', '', '', f'{trees.count(boxed):,}', '']]


def _as_leaves(specs: Any) -> Any:
    """PartitionSpecs as leaves of a tree, whatever JAX takes them for."""
    return jax.tree.map(
        _Leaf, specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
    )


class _Leaf(tuple):
    """A tuple that trees do not look into."""

    def __new__(cls, spec: Any) -> '_Leaf':
        return super().__new__(cls, spec)


def _by_part(arch: config_lib.Architecture, boxed: Any) -> list[list[str]]:
    counts: dict[str, int] = {}
    for path, leaf in trees.paths(nn.unbox(boxed)):
        names = [_PARTS[name] for name in path.split('/') if name in _PARTS]
        part = names[0] if names and 'norm' not in path else 'norms'
        counts[part] = counts.get(part, 0) + math.prod(leaf.shape)
    flops = cost.train_flops(arch)
    if 'experts' in counts:
        flops['experts'] = flops.pop('mlp')
    total, operations = sum(counts.values()), sum(flops.values())
    rows = []
    for part in dict.fromkeys([*counts, *flops]):
        count, work = counts.get(part, 0), flops.get(part, 0)
        rows.append(
            [
                part,
                f'{count:,}' if count else '',
                f'{count / total:.1%}' if count else '',
                f'{work:,.0f}' if work else '',
                f'{work / operations:.1%}' if work else '',
            ]
        )
    return [*rows, ['all', f'{total:,}', '100.0%', f'{operations:,.0f}', '100.0%']]


def _bytes(
    shapes: state_lib.State,
    places: state_lib.State,
    trained: freeze.Trained,
    base: tuple[Any, Any],
) -> list[list[str]]:
    parts = {
        'parameters': (shapes.params, places.params),
        'optimizer': (shapes.opt_state, places.opt_state),
        'gradients': (
            jax.eval_shape(trained.take, shapes.params),
            trained.prune(places.params),
        ),
    }
    if jax.tree.leaves(base):
        parts = {'base': base, **parts}
    rows, totals = [], [0, 0]
    for name, (leaves, where) in parts.items():
        both = list(zip(jax.tree.leaves(leaves), jax.tree.leaves(where), strict=True))
        sizes = [
            sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf, _ in both),
            sum(
                math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
                for leaf, place in both
            ),
        ]
        totals = [a + b for a, b in zip(totals, sizes, strict=True)]
        rows.append([name, *(f'{size:,}' for size in sizes)])
    return [*rows, ['all', *(f'{size:,}' for size in totals)]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Columns of text; the first `left` of them stand on the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return '  '.join(aligned).rstrip()

    return '\n'.join([line(head), line(['-' * w for w in widths]), *map(line, rows)])
