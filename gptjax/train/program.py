"""What a compiled program consists of: its operations, whose they are, their work.

Read from the text of an optimised HLO module. Imports no JAX.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
import dataclasses
import math
import re
from typing import NamedTuple

# Names of `jax.named_scope`; the innermost one of an operation is its stage.
STAGES = (
    'embedding', 'layers', 'attention', 'cross', 'mlp', 'head', 'loss', 'accumulate',
    'optimizer', 'guard',
)  # fmt: skip
CONTAINERS = ('while', 'call', 'conditional')  # of operations that count themselves

_LINE = re.compile(r'\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)')
_COMPUTATION = re.compile(r'(?:ENTRY )?%?([\w.\-]+) \(.*\{$')
_ARRAY = re.compile(r'\b(pred|token|[a-z]+(\d+)\w*)\[([\d,]*)\]')
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:ension)?s"?[=:]\s*[{\[]([^}\]]*)[}\]]')
_SLICES = ('slice', 'dynamic-slice', 'gather')


class Stage(NamedTuple):
    """Where in a step an operation belongs; part is '' where nothing says it."""

    part: str  # of STAGES
    when: str  # forward, recomputed or backward; '' of what is neither


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation, each time that it runs; a loop may run it more than once."""

    name: str
    kind: str
    stage: Stage
    flops: float  # of products; those in kernels of others are not known, and 0
    bytes: float  # read and written, if nothing of it is in a cache


class _Instruction(NamedTuple):
    name: str
    shape: str
    kind: str
    operands: list[str]
    rest: str
    root: bool


def stage(path: str) -> Stage:
    """The stage of a path of scopes, as the metadata of an operation have it."""
    known = [word for word in re.findall(r'[\w.]+', path) if word in STAGES]
    part = known[-1] if known else ''
    if part in ('', 'accumulate', 'optimizer', 'guard'):
        return Stage(part, '')
    if 'rematted_computation' in path:
        return Stage(part, 'recomputed')
    return Stage(part, 'backward' if 'transpose(' in path else 'forward')


def operations(text: str) -> dict[str, Operation]:
    """The operations of an HLO module by name, those inside fusions not among them."""
    module = _Module(text)
    found = {}
    for lines in module.computations.values():
        if lines and lines[0].name not in module.fused:
            for line in lines:
                found[line.name] = Operation(
                    line.name,
                    line.kind,
                    module.stage(line),
                    module.flops(line),
                    module.traffic(line),
                )
    return found


class _Module:
    """The lines of a module: by name, by computation, and who reads whom."""

    def __init__(self, text: str):
        self.computations: dict[str, list[_Instruction]] = {}
        self.lines: dict[str, _Instruction] = {}
        self.users: dict[str, list[_Instruction]] = {}
        lines: list[_Instruction] = []
        for raw in text.splitlines():
            if begun := _COMPUTATION.match(raw):
                lines = self.computations[begun[1]] = []
            elif match := _LINE.match(raw):
                root, name, shape, kind, rest = match.groups()
                operands = re.findall(r'%([\w.\-]+)', rest.partition(')')[0])
                line = _Instruction(name, shape, kind, operands, rest, bool(root))
                lines.append(line)
                self.lines[name] = line
                for operand in operands:
                    self.users.setdefault(operand, []).append(line)
        inside = [
            self.inside(line)
            for line in self.lines.values()
            if line.kind not in CONTAINERS
        ]
        self.fused = {line.name for lines in inside for line in lines}

    def inside(self, line: _Instruction) -> list[_Instruction]:
        """What a fusion consists of, or the function of a reduction."""
        called = re.search(r'(?:calls|to_apply)=%?([\w.\-]+)', line.rest)
        return self.computations[called[1]] if called else []

    def stage(self, line: _Instruction) -> Stage:
        """Its own, else of what it consists of, else of its next users or operands."""
        own = _of_metadata(line)
        if own.part:
            return own
        if found := _commonest(self.inside(line)):
            return found
        for following in (self._users, self._operands):
            near = {line.name: line}
            for _ in range(4):  # tuples, loops and copies are in between
                near = {one.name: one for n in near.values() for one in following(n)}
                if found := _commonest(near.values()):
                    return found
        return own

    def _users(self, line: _Instruction) -> list[_Instruction]:
        return self.users.get(line.name, [])

    def _operands(self, line: _Instruction) -> list[_Instruction]:
        return [self.lines[one] for one in line.operands if one in self.lines]

    def flops(self, line: _Instruction) -> float:
        """2 for each product of two numbers in products of arrays."""
        total = sum((self.flops(one) for one in self.inside(line)), 0.0)
        contracted = _CONTRACTED.search(line.rest)
        if line.kind in ('dot', 'custom-call') and contracted and line.operands:
            left = _dims(self.lines[line.operands[0]].shape)
            shared = [left[int(dim)] for dim in re.findall(r'\d+', contracted[1])]
            total += 2.0 * math.prod(_dims(line.shape)) * math.prod(shared)
        return total

    def traffic(self, line: _Instruction) -> float:
        """Bytes of operands and results; of what is only sliced, those of the slice."""
        inside = self.inside(line) if line.kind == 'fusion' else []
        given = {
            int(one.rest.partition(')')[0]): one.name
            for one in inside
            if one.kind == 'parameter'
        }
        if line.kind in CONTAINERS:
            return 0.0
        total = 0.0
        for number, operand in enumerate(line.operands):
            name = given.get(number, operand)
            users = self.users.get(name, []) if inside else [line]
            if users and all(one.operands[0] == name for one in users):
                if all(one.kind in _SLICES for one in users):
                    total += sum(_bytes(one.shape) for one in users)
                    continue
                if all(one.kind == 'dynamic-update-slice' for one in users):
                    continue  # written in place
            total += _bytes(self.lines[operand].shape) if operand in self.lines else 0
        return total + self._written(next((one for one in inside if one.root), line))

    def _written(self, line: _Instruction) -> float:
        if line.kind == 'bitcast' and line.operands[0] in self.lines:
            return self._written(self.lines[line.operands[0]])
        if line.kind == 'dynamic-update-slice':
            return _bytes(self.lines[line.operands[1]].shape)
        return _bytes(line.shape)


def _of_metadata(line: _Instruction) -> Stage:
    named = re.search(r'op_name="([^"]*)"', line.rest)
    return stage(named[1] if named else '')


def _commonest(lines: Iterable[_Instruction]) -> Stage | None:
    stages = map(_of_metadata, lines)
    found = Counter(one for one in stages if one.part).most_common(1)
    return found[0][0] if found else None


def _arrays(shape: str) -> Iterator[tuple[int, list[int]]]:
    """(bits of a number, dimensions) of each array of a shape."""
    for kind, bits, dims in _ARRAY.findall(shape):
        width = 8 if kind == 'pred' else int(bits or 0)
        yield width, [int(dim) for dim in dims.split(',') if dim]


def _dims(shape: str) -> list[int]:
    return next(_arrays(shape), (0, []))[1]


def _bytes(shape: str) -> float:
    return sum((math.prod(dims) * bits / 8 for bits, dims in _arrays(shape)), 0.0)
