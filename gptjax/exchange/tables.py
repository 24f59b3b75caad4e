"""Names and layouts of other libraries' tensors as data, and what interprets it.

A table is a list of `Entry`: under which name a tensor stands in their file, which of
our parameters it holds, and both layouts in letters. Reading and writing are the same
table, forwards and backwards, so they cannot disagree.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any, Protocol, runtime_checkable

from flax import linen as nn
from flax import traverse_util
import jax
import numpy as np

from gptjax import command, core, trees
from gptjax import sharding as sharding_lib
from gptjax.model import config as model_config
from gptjax.model import transformer

# Every value of these is one of float32.
WIDENED = ('float32', 'float16', 'bfloat16')
_SHOWN = 8  # names in a message


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of theirs, or one a layer or an expert, and what it is of ours.

    name: with {l} there is one tensor a layer, our axis 0; with {e} one an expert, the
        axis after it.
    paths: our parameters. Several of them lie in one tensor, in this order, along the
        axis that `theirs` writes as their number.
    theirs, ours: the axes in letters (`sizes`), without those of {l} and {e}; letters
        in parentheses are one axis, the last letter fastest.

    >>> Entry('h.{l}.attn.c_attn.bias', ('q', 'k', 'v'), '(3 N H)', 'N H')
    """

    name: str
    paths: tuple[str, ...]
    theirs: str
    ours: str

    @property
    def per_layer(self) -> bool:
        return '{l}' in self.name

    @property
    def per_expert(self) -> bool:
        return '{e}' in self.name

    @property
    def layout(self) -> str:
        """Our axes in letters, with those of layers and experts."""
        return 'L ' * self.per_layer + 'E ' * self.per_expert + self.ours


@runtime_checkable
class Source(Protocol):
    """Where tensors come from: a file, a folder of files, or a dictionary."""

    @property
    def shapes(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]: ...

    def read(self, name: str) -> np.ndarray:
        """The tensor; a memory map where it can be, so that a part reads a part."""
        ...


class Arrays:
    """A Source of arrays in memory."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = dict(arrays)
        self.shapes = {name: (a.shape, a.dtype) for name, a in arrays.items()}

    def read(self, name: str) -> np.ndarray:
        return self._arrays[name]


def sizes(arch: model_config.Architecture, path: str = '') -> dict[str, int]:
    """The letters of layouts for a parameter: those of Architecture, and more.

    P rows of a table of positions; Y token types; C classes; d is D once more (a square
    matrix) and h is H / 2 (the two halves of a head under rotary positions); L are the
    layers of the encoder for a path inside it.
    """
    head, experts = arch.head, arch.experts
    return {
        **{letter: getattr(arch, letter) for letter in 'TVDFNKHL'},
        'L': arch.encoder_L if path.startswith('encoder/') else arch.L,
        'P': arch.T + arch.positions.offset,
        'Y': arch.types,
        'C': 2 if head.kind == 'pretraining' else head.classes,
        'E': experts.E if experts else 0,
        'd': arch.D,
        'h': arch.H // 2,
    }


def leaves(
    arch: model_config.Architecture, sharding: sharding_lib.Sharding | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """path -> shape and sharding of every parameter; on one device by default."""
    arch = dataclasses.replace(arch, dropout=0.0, init_std=1.0, windows=(0,))
    if arch.positions.kind != 'learned':  # no parameter is as long as the context
        arch = dataclasses.replace(arch, T=min(arch.T, 8))
    return dict(_leaves(arch, sharding or sharding_lib.single()))


@functools.lru_cache(maxsize=64)
def _leaves(
    arch: model_config.Architecture, sharding: sharding_lib.Sharding
) -> dict[str, jax.ShapeDtypeStruct]:
    compute = model_config.Compute('float32', 'none', scan_unroll=1, accumulate=1)
    boxed = transformer.abstract(transformer.make(arch, compute, sharding))
    places = dict(trees.paths(sharding.of_boxed(boxed)))
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[path])
        for path, leaf in trees.paths(nn.unbox(boxed))
    }


def present(table: Sequence[Entry], paths: Mapping[str, Any]) -> list[Entry]:
    """The entries of a family's table whose parameters a model has."""
    return [entry for entry in table if set(entry.paths) <= set(paths)]


def expected(
    arch: model_config.Architecture, entries: Sequence[Entry]
) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors of such a model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in entries:
        letters = sizes(arch, entry.paths[0])
        for name, _ in _places(entry, letters):
            if name in shapes:
                raise ValueError(f'a table has tensor {name} twice')
            shapes[name] = _shape(entry.theirs, letters)
    return shapes


def load(
    arch: model_config.Architecture,
    entries: Sequence[Entry],
    source: Source,
    leaves: Mapping[str, jax.ShapeDtypeStruct],
) -> core.Params:
    """The parameters of a model, from tensors of theirs.

    leaves: path -> shape and sharding of every parameter; each device's part is read
    where it lies in the source, so that no process holds a whole model that is split.

    Raises UserError unless every tensor of `source` is one of the table, of its shape,
    and none is missing; ValueError where table and `leaves` do not fit.
    """
    check(arch, entries, source, leaves)
    flat = dict(stream(arch, entries, source, leaves))
    return traverse_util.unflatten_dict(flat, sep='/')


def stream(
    arch: model_config.Architecture,
    entries: Sequence[Entry],
    source: Source,
    leaves: Mapping[str, jax.ShapeDtypeStruct],
) -> Iterator[tuple[str, jax.Array]]:
    """As `load`, one parameter at a time and unchecked, for what is not kept."""
    for entry in entries:
        for which, path in enumerate(entry.paths):
            leaf = leaves[path]
            read = functools.partial(_read, arch, entry, which, source, leaf.shape)
            place = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
            yield path, jax.make_array_from_callback(leaf.shape, place, read)


def check(
    arch: model_config.Architecture,
    entries: Sequence[Entry],
    source: Source,
    leaves: Mapping[str, jax.ShapeDtypeStruct],
) -> None:
    """Raises as `load` does, without reading a tensor."""
    _check_table(arch, entries, leaves)
    wanted = expected(arch, entries)
    missing = [f'{name} {wanted[name]}' for name in wanted if name not in source.shapes]
    unknown = [
        f'{name} {shape}'
        for name, (shape, _) in source.shapes.items()
        if name not in wanted
    ]
    wrong = [
        f'{name} has {source.shapes[name][0]}, not {shape}'
        for name, shape in wanted.items()
        if name in source.shapes and source.shapes[name][0] != shape
    ]
    types = [
        f'{name} {dtype}'
        for name, (_, dtype) in source.shapes.items()
        if str(dtype) not in WIDENED
    ]
    faults = [
        f'{what}: {_listed(names)}'
        for what, names in (
            ('missing', missing),
            ('not of this model', unknown),
            ('of another shape', wrong),
            (f'of a type other than {", ".join(WIDENED)}', types),
        )
        if names
    ]
    if faults:
        raise command.UserError(
            f'the tensors are not those of this {arch.family} model: '
            f'{"; ".join(faults)}. Its configuration and its weights disagree, or it '
            'has parts that are not known here; take both from one place.'
        )


def dump(
    arch: model_config.Architecture, entries: Sequence[Entry], params: core.Params
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor) of all tensors of theirs, one at a time: `load` backwards."""
    flat = dict(trees.paths(params))
    shapes = {path: jax.ShapeDtypeStruct(a.shape, a.dtype) for path, a in flat.items()}
    _check_table(arch, entries, shapes)
    yield from written(arch, entries, flat)


def written(
    arch: model_config.Architecture,
    entries: Sequence[Entry],
    flat: Mapping[str, Any],
) -> Iterator[tuple[str, np.ndarray]]:
    """As `dump`, of some entries, from path -> parameter."""
    for entry in entries:
        letters = sizes(arch, entry.paths[0])
        for name, index in _places(entry, letters):
            parts = [_host(flat[path], index) for path in entry.paths]
            yield name, _to_theirs(entry, parts, letters)


def _check_table(
    arch: model_config.Architecture,
    entries: Sequence[Entry],
    leaves: Mapping[str, jax.ShapeDtypeStruct],
) -> None:
    """Raises ValueError unless the table holds every parameter once, in its shape."""
    found = held(arch, entries)
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    if found != shapes:
        differ = sorted(set(found.items()) ^ set(shapes.items()))
        raise ValueError(f'the table of {arch.family} and the model differ: {differ}')


def held(
    arch: model_config.Architecture, entries: Sequence[Entry]
) -> dict[str, tuple[int, ...]]:
    """The paths and shapes of our parameters in the tensors of some entries."""
    made: dict[str, tuple[int, ...]] = {}
    for entry in entries:
        for path in entry.paths:
            if path in made:
                raise ValueError(f'a table of {arch.family} has {path} twice')
            made[path] = _shape(entry.layout, sizes(arch, path))
    return made


def _places(
    entry: Entry, letters: Mapping[str, int]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, index into our leading axes) of every tensor of an entry."""
    for layer in range(letters['L'] if entry.per_layer else 1):
        for expert in range(letters['E'] if entry.per_expert else 1):
            index = (layer,) * entry.per_layer + (expert,) * entry.per_expert
            yield (
                entry.name.replace('{l}', str(layer)).replace('{e}', str(expert)),
                index,
            )


def _read(
    arch: model_config.Architecture,
    entry: Entry,
    which: int,
    source: Source,
    shape: tuple[int, ...],
    index: tuple[slice, ...],
) -> np.ndarray:
    """The part `index` of a parameter, in float32, from the tensors that hold it."""
    letters = sizes(arch, entry.paths[which])
    ranges = [range(*s.indices(n)) for s, n in zip(index, shape, strict=True)]
    part = np.empty([len(r) for r in ranges], np.float32)
    leading = entry.per_layer + entry.per_expert
    for name, place in _places(entry, letters):
        if all(i in r for i, r in zip(place, ranges, strict=False)):
            at = tuple(i - r.start for i, r in zip(place, ranges, strict=False))
            whole = _to_ours(entry, which, source.read(name), letters)
            part[at] = whole[index[leading:]]
    return part


def _to_ours(
    entry: Entry, which: int, tensor: np.ndarray, letters: Mapping[str, int]
) -> np.ndarray:
    """One of the parameters in a tensor of theirs: a view, where no axes join."""
    axes = _letters(entry.theirs)
    view = tensor.reshape([_size(axis, letters) for axis in axes])
    stack = _stack_axis(entry)
    if stack is not None:
        view = view[(slice(None),) * stack + (which,)]
        axes.pop(stack)
    view = view.transpose([axes.index(axis) for axis in _letters(entry.ours)])
    return view.reshape(_shape(entry.ours, letters))


def _to_theirs(
    entry: Entry, parts: Sequence[np.ndarray], letters: Mapping[str, int]
) -> np.ndarray:
    axes = _letters(entry.ours)
    stack = _stack_axis(entry)
    split = [part.reshape([_size(axis, letters) for axis in axes]) for part in parts]
    order = [axis for i, axis in enumerate(_letters(entry.theirs)) if i != stack]
    turned = [part.transpose([axes.index(axis) for axis in order]) for part in split]
    joined = turned[0] if stack is None else np.stack(turned, stack)
    return np.ascontiguousarray(joined.reshape(_shape(entry.theirs, letters)))


def _stack_axis(entry: Entry) -> int | None:
    """The axis of `theirs`, all letters apart, that its parameters are stacked on."""
    if len(entry.paths) == 1:
        return None
    return _letters(entry.theirs).index(str(len(entry.paths)))


def _letters(layout: str) -> list[str]:
    """The axes, those of length 1 left out."""
    axes = layout.replace('(', ' ').replace(')', ' ').split()
    return [axis for axis in axes if axis != '1']


def _size(axis: str, letters: Mapping[str, int]) -> int:
    return int(axis) if axis.isdigit() else letters[axis]


def _shape(layout: str, letters: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a layout: '(3 N H) D' is (3 * N * H, D)."""
    groups = layout.replace('(', ' ( ').replace(')', ' ) ').split()
    shape: list[int] = []
    inside: list[int] | None = None
    for token in groups:
        if token == '(':
            inside = []
        elif token == ')':
            shape.append(math.prod(inside or ()))
            inside = None
        else:
            (shape if inside is None else inside).append(_size(token, letters))
    return tuple(shape)


def _host(leaf: Any, index: tuple[int, ...]) -> np.ndarray:
    """A part of a parameter in host memory; where it lies there, no copy."""
    if isinstance(leaf, jax.Array) and next(iter(leaf.devices())).platform != 'cpu':
        return np.asarray(leaf[index])
    return np.asarray(leaf)[index]


def _listed(names: Sequence[str]) -> str:
    more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
    return ', '.join(names[:_SHOWN]) + more
