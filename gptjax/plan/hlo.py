"""What a compiled program computes, from its text: each loop as often as it runs.

XLA's own `cost_analysis` counts the body of a loop once. Here an operation counts as
often as the loops around it run, and only products count: dots, and the convolutions
that XLA makes of them for TPUs. How often a loop runs is written at it
(`known_trip_count`), or follows from its condition and its step, as the loops of scans
and those that XLA makes count from 0. Of a conditional all branches count. What a
kernel of Pallas computes is not in the text. Imports no JAX.
"""

from collections import Counter
from collections.abc import Iterator
import functools
import json
import math
import re
from typing import NamedTuple

import numpy as np

_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
_LINE = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\((.*)$')
_SHAPE = re.compile(r'\w+\[([\d,]*)\]')
_CALLED = re.compile(
    r'(?:calls|to_apply|body|condition|true_computation|false_computation)'
    r'=%?([\w.\-]+)'
)
_SENDING = re.compile(
    r'(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|send)'
    r'(-start)?$'
)
_CHAIN = re.compile(r'(channel_id=\d+),.*chain_id=')
# The ways that devices are told: one by one, as numbers in an order, and by name.
_PAIRS = re.compile(r'(?:replica_groups|source_target_pairs)=\{\{([\d,]+)')
_ORDER = re.compile(r'replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
_MESH = re.compile(r'replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}')
_IDS = re.compile(r'\[([\d,]+)\](?:T\(([\d,]+)\))?')
_ARRAY = re.compile(r'(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')


class _Operation(NamedTuple):
    name: str
    shape: str
    kind: str
    rest: str  # operands and attributes


class Message(NamedTuple):
    """A collective operation; its bytes are those that rings send.

    A gather sends a device's part to the n - 1 others, a scatter and an exchange n - 1
    of n parts, a sum both; a permutation all that it is given.
    """

    kind: str
    group: tuple[int, ...]  # devices of the first group, by their place in the mesh
    arrays: list[tuple[str, tuple[int, ...]]]  # type and shape of what a device gives
    times: int
    bytes: float  # each time
    pairs: tuple[tuple[int, ...], ...] = ()  # of a permutation: all (from, to)


class Program:
    """An HLO module.

    text: `compiled.as_text()`. unknown: how often a loop counts where the program does
    not say it, as of loops that end by what they find; else it is a ValueError.
    """

    def __init__(self, text: str, unknown: int | None = None):
        self._unknown = unknown
        self._computations: dict[str, list[_Operation]] = {}
        self._entry = ''
        count = re.search(r'num_partitions=(\d+)', text)
        self._devices = int(count[1]) if count else 1
        operations: list[_Operation] = []
        for line in text.splitlines():
            if head := _HEAD.match(line):
                operations = self._computations[head[2]] = []
                self._entry = head[2] if head[1] else self._entry
            elif found := _LINE.match(line):
                operations.append(_Operation(*found.groups()))

    def __len__(self) -> int:
        """How many operations the text has, each once."""
        return sum(map(len, self._computations.values()))

    def flops(self) -> int:
        """Floating-point operations of all products: a device's, of one execution."""
        return sum(
            times * _product(operation, self._dims(computation))
            for computation, operation, times in self._executed()
            if operation.kind in ('dot', 'convolution')
        )

    def custom_calls(self) -> Counter[str]:
        """How often each kernel runs, by the name of its operation without a number."""
        found: Counter[str] = Counter()
        for _, operation, times in self._executed():
            if operation.kind == 'custom-call':
                target = re.search(r'custom_call_target="([^"]*)"', operation.rest)
                kernel = re.sub(r'[.\d]+$', '', operation.name)
                found[f'{target[1] if target else ""}:{kernel}'] += times
        return found

    def collectives(self) -> dict[str, tuple[int, float]]:
        """By kind, how often they run and the bytes that a device sends: `messages`."""
        found: dict[str, tuple[int, float]] = {}
        for one in self.messages():
            count, moved = found.get(one.kind, (0, 0.0))
            found[one.kind] = count + one.times, moved + one.times * one.bytes
        return found

    def messages(self) -> Iterator[Message]:
        """Each collective to more than one device.

        Of TPUs, a sum of which a device keeps a part is a computation of that name, and
        counts as a scatter; what runs beside products stands in each of them, and
        counts once; 'across slices' are messages of their runtime, after sums within
        slices.
        """
        chains: set[str] = set()
        for computation, operation, times in self._executed():
            match = _SENDING.match(operation.kind)
            kind = match[1] if match else ''
            if computation.startswith('all-reduce-scatter'):
                kind = kind.replace('all-reduce', 'reduce-scatter')
            if kind == 'send':
                kind = 'across slices' * ('xla_megascale' in operation.rest)
            chain = _CHAIN.search(operation.rest)
            if not kind or (chain and chain[1] in chains):
                continue
            chains |= {chain[1]} if chain else set()
            known = self._by_name(computation)
            shapes = [
                known[name].shape for name in _operands(operation) if name in known
            ]
            arrays = [
                (type, tuple(int(size) for size in dims.split(',') if size))
                for shape in shapes
                for type, _, dims in _ARRAY.findall(shape)
            ]
            group = self._group(operation.rest)
            n = len(group)
            each = {
                'all-gather': n - 1,
                'all-reduce': 2 * (n - 1) / n,
                'reduce-scatter': (n - 1) / n,
                'all-to-all': (n - 1) / n,
                'collective-permute': 1,
                'across slices': 1,
            }[kind]
            if n > 1:
                sent = math.fsum(map(_bytes, shapes)) * each
                pairs = _pairs(operation.rest)
                yield Message(kind, group, arrays, times, sent, pairs)

    def _group(self, rest: str) -> tuple[int, ...]:
        """The devices of the first group of a collective, by their place in the mesh.

        Of messages across slices, which name none, two of no meaning.
        """
        if 'is_host_transfer' in rest:
            return 0, 1
        if found := _PAIRS.search(rest):
            return tuple(int(n) for n in found[1].split(','))
        if found := _ORDER.search(rest):
            return tuple(_ordered(found[2], found[3])[: int(found[1])].tolist())
        if not (named := _MESH.search(rest)):
            return tuple(range(self._devices))  # {}: all
        axes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", named[1])}
        given = _IDS.search(named[2])
        ids = (
            _ordered(*given.groups()) if given else np.arange(math.prod(axes.values()))
        )
        # An axis, or a part of one: 'axis_0':(before)size.
        parts = {
            name: (int(before or 1), int(size or axes[name]))
            for name, before, size in re.findall(
                r"'(\w+)'(?::\((\d+)\)(\d+))?", named[3]
            )
        }
        shape: list[int] = []
        for name, n in axes.items():
            before, size = parts.get(name, (n, 1))
            shape += [before, size, n // before // size]
        first = ids.reshape(shape)[(0, slice(None), 0) * len(axes)]
        return tuple(first.ravel().tolist())

    def _by_name(self, computation: str) -> dict[str, _Operation]:
        return {one.name: one for one in self._computations[computation]}

    def _dims(self, computation: str) -> dict[str, list[int]]:
        return {one.name: _dims(one.shape) for one in self._computations[computation]}

    def _executed(self) -> Iterator[tuple[str, _Operation, int]]:
        """Each operation with its computation and how often it runs."""
        for name, times in self._times(self._entry).items():
            for operation in self._computations[name]:
                yield name, operation, times

    def _times(self, computation: str) -> Counter[str]:
        """How often each computation runs where this one runs once."""
        found: Counter[str] = Counter({computation: 1})
        for operation in self._computations[computation]:
            times = self._trips(operation) if operation.kind == 'while' else 1
            called = _CALLED.findall(operation.rest)
            for branches in _BRANCHES.findall(operation.rest):
                called += [name.strip().lstrip('%') for name in branches.split(',')]
            for name in called:
                for inner, count in self._times(name).items():
                    found[inner] += times * count
        return found

    def _trips(self, operation: _Operation) -> int:
        found = re.search(r'"known_trip_count":(\{[^}]*\})', operation.rest)
        if found:
            return int(json.loads(found[1])['n'])
        names = re.search(r'condition=%?([\w.\-]+), body=%?([\w.\-]+)', operation.rest)
        found_names = names.groups() if names else ()
        condition, body = (self._by_name(name) for name in found_names)
        for compared in condition.values():
            if compared.kind == 'compare' and 'direction=LT' in compared.rest:
                counter, bound = (condition[name] for name in _operands(compared))
                place = re.search(r'index=(\d+)', counter.rest)
                if place and bound.kind == 'constant':
                    step = _step(body, int(place[1]))
                    return -(-_number(bound) // step)
        if self._unknown is not None:
            return self._unknown
        raise ValueError(f'how often {operation.name} runs is not in the program')


def _pairs(rest: str) -> tuple[tuple[int, ...], ...]:
    found = re.search(r'source_target_pairs=\{(\{.*?\})\}', rest)
    return tuple(
        tuple(int(n) for n in pair.split(','))
        for pair in re.findall(r'\{([\d,]+)\}', found[1] if found else '')
    )


def _ordered(dims: str, axes: str | None) -> np.ndarray:
    """The numbers of devices, as an array of these dimensions with its axes swapped."""
    sizes = [int(n) for n in dims.split(',')]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return (ids.transpose([int(n) for n in axes.split(',')]) if axes else ids).ravel()


def _bytes(shape: str) -> float:
    return math.fsum(
        math.prod(int(size) for size in dims.split(',') if size)
        * (8 if kind == 'pred' else int(bits or 0))
        / 8
        for kind, bits, dims in _ARRAY.findall(shape)
    )


def _operands(operation: _Operation) -> list[str]:
    """Their names; some versions write shapes before them."""
    given = re.sub(r'/\*.*?\*/', '', operation.rest.partition(')')[0])
    return [name.split()[-1].lstrip('%') for name in given.split(', ') if name]


def _number(operation: _Operation) -> int:
    return int(operation.rest.partition(')')[0])


def _step(body: dict[str, _Operation], place: int) -> int:
    """What a loop adds to its counter, the element of its state at `place`.

    XLA does two steps of some loops in one, and then counts by two.
    """
    *_, root = body.values()
    added = body[_operands(root)[place]]
    steps = [body[name] for name in _operands(added)] if added.kind == 'add' else []
    numbers = [_number(one) for one in steps if one.kind == 'constant']
    return numbers[0] if numbers else 1


def _dims(shape: str) -> list[int]:
    found = _SHAPE.search(shape)
    return [int(size) for size in found[1].split(',') if size] if found else []


def _product(operation: _Operation, dims: dict[str, list[int]]) -> int:
    """2 x the multiplications of a dot or a convolution."""
    attributes = operation.rest.partition(')')[2]
    left, right = (dims[name] for name in _operands(operation))
    out = _dims(operation.shape)
    if operation.kind == 'dot':
        found = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', attributes)
        inner = [int(dim) for dim in found[1].split(',') if dim] if found else []
        return 2 * math.prod(out) * math.prod(left[dim] for dim in inner)
    return _convolution(left, right, out, attributes)


def _convolution(
    left: list[int], right: list[int], out: list[int], attributes: str
) -> int:
    """Products alone count, not what meets padding or the holes of a dilation."""
    labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', attributes)
    assert labels is not None
    window = re.search(r'window=\{([^}]*)\}', attributes)
    given = dict(part.split('=') for part in window[1].split()) if window else {}
    count = len(re.sub(r'\D', '', labels[1]))
    numbers = {
        name: [int(x) for x in given[name].split('x')] if name in given else [1] * count
        for name in ('size', 'stride', 'lhs_dilate', 'rhs_dilate')
    }
    low = (
        [int(pad.split('_')[0]) for pad in given['pad'].split('x')]
        if ('pad' in given)
        else [0] * count
    )
    met = math.prod(
        _met(
            left[labels[1].index(str(i))], out[labels[3].index(str(i))], low[i],
            *(numbers[name][i] for name in numbers),
        )
        for i in range(count)
    )  # fmt: skip
    groups = re.search(r'batch_group_count=(\d+)', attributes)
    rows = left[labels[1].index('b')] // (int(groups[1]) if groups else 1)
    features = right[labels[2].index('i')] * right[labels[2].index('o')]
    return 2 * met * rows * features


@functools.cache
def _met(
    size: int, out: int, low: int, kernel: int, stride: int, dilate: int, spread: int
) -> int:
    """Pairs of places, of the result and of the kernel, that meet an input."""
    return sum(
        0 <= at < size * dilate - dilate + 1 and at % dilate == 0
        for place in range(out)
        for at in range(
            place * stride - low, place * stride - low + kernel * spread, spread
        )
    )
