"""What can be rented: chips, slices of them and prices. Imports no JAX.

Rates are the vendors': Google's pages of v4, v5e, v5p and v6e, NVIDIA's data sheets of
the H100 and H200; of one link, in one direction, and of a TPU's way to its host, "How
to Scale Your Model" (Austin et al., 2025, part 2). The memory of GPUs is what CUDA
gives to a program, as out-of-memory errors of PyTorch tell it (vllm issue 27508 for the
H100); nvidia-smi counts 0.5 GiB more.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from gptjax import command


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them."""

    kind: str  # how its compiler calls it
    platform: str  # 'tpu', 'gpu' or 'cpu'
    flops: float  # FLOP/s of dense products in bfloat16
    memory: float  # bytes of HBM
    memory_rate: float  # bytes/s
    link_rate: float  # bytes/s of one link in one direction
    network_rate: float  # bytes/s between slices, for each chip
    shapes: tuple[tuple[int, ...], ...]  # of slices, smallest first
    wrap: int = 16  # an axis of a multiple of so many chips is a ring
    names: int = 1  # what a slice is called by, for each chip: v5p counts cores

    @property
    def host_rate(self) -> float:
        """Bytes/s to the memory of the host; as many come back at the same time."""
        return {'v6e': 32e9, 'H100': 64e9, 'H200': 64e9}.get(self.kind, 16e9)

    @property
    def lanes(self) -> int:
        """What a dimension is padded to a multiple of: TPUs' units have 128 lanes."""
        return 128 if self.platform == 'tpu' else 1


_FLAT = (
    (1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16),
)  # fmt: skip
_CUBES = (
    (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8),
    (8, 8, 8), (8, 8, 16), (8, 16, 16), (16, 16, 16),
)  # fmt: skip
_NODE = ((1,), (2,), (4,), (8,))  # NVSwitch: every GPU at full rate with every other
GIB = 2.0**30

CHIPS = {
    'v4': Chip('v4', 'tpu', 275e12, 32 * GIB, 1.2e12, 45e9, 6.25e9, _CUBES, 4, names=2),
    'v5e': Chip('v5e', 'tpu', 197e12, 16 * GIB, 819e9, 45e9, 3.125e9, _FLAT),
    'v5p': Chip(
        'v5p', 'tpu', 459e12, 95 * GIB, 2765e9, 90e9, 6.25e9, _CUBES, 4, names=2
    ),
    'v6e': Chip('v6e', 'tpu', 918e12, 32 * GIB, 1640e9, 90e9, 6.25e9, _FLAT),
    # 450 GB/s of NVLink and 50 GB/s of InfiniBand in each direction.
    'h100': Chip('H100', 'gpu', 989.4e12, 79.1 * GIB, 3350e9, 225e9, 50e9, _NODE, 2),
    'h200': Chip('H200', 'gpu', 989.4e12, 139.8 * GIB, 4800e9, 225e9, 50e9, _NODE, 2),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """So many slices of a chip, each of one shape."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def slice_chips(self) -> int:
        return math.prod(self.shape)

    @property
    def chips(self) -> int:
        return self.slice_chips * self.slices


def parse(name: str) -> Target:
    """A target by its name: 'v5e-16', 'v5p-128' (64 chips), 'v5e-256x2', 'h100-8'.

    Of GPUs, more than 8 are several nodes. Raises UserError for a name that is none.
    """
    kind, _, size = name.partition('-')
    count, cross, slices = size.partition('x')
    if kind == 'cpu':
        raise command.UserError(
            f'target {name!r} is no size; cpu is this machine, and measured.'
        )
    chip = command.lookup({**CHIPS, 'cpu': None}, kind, 'target')
    sizes = {math.prod(shape) * chip.names: shape for shape in chip.shapes}
    numbers = [count, slices] if cross else [count]
    if not all(n.isascii() and n.isdigit() and int(n) for n in numbers):
        known = ', '.join(f'{kind}-{size}' for size in sizes)
        raise command.UserError(
            f'target {name!r} is no size; {kind} has {known}, and {kind}-NxM for M '
            'slices.'
        )
    chips, several = int(count), int(slices or 1)
    if chip.platform == 'gpu' and chips > 8 and chips % 8 == 0:
        chips, several = 8, several * chips // 8
    if chips not in sizes:
        raise command.UserError(
            f'target {name!r} has no such slice; the sizes of {kind} are '
            f'{", ".join(map(str, sizes))}.'
        )
    return Target(name, chip, sizes[chips], several)


def larger(target: Target) -> list[Target]:
    """Slices of the same chip with more chips, or nodes, the smallest first."""
    kind, chip = target.name.partition('-')[0], target.chip
    sizes = [math.prod(shape) for shape in chip.shapes]
    if chip.platform == 'gpu':
        sizes += [8 * 2**n for n in range(1, 10)]
    return [parse(f'{kind}-{n * chip.names}') for n in sizes if n > target.chips]


def price(target: Target) -> tuple[float | None, str]:
    """(US dollars for a chip and an hour, where that is from); None if not known."""
    prices: dict[str, Any] = json.loads(PRICES.read_bytes())
    known = prices.get(target.name.partition('-')[0])
    if known is None:
        return None, ''
    return known['usd'], f'{known["source"]}, {known["date"]}'


PRICES = Path(__file__).with_name('prices.json')
