"""What a step sends: bytes of a device for each form of parallelism, and over what.

The rings of "How to Scale Your Model" (Austin et al., 2025, parts 3 and 5): of n
devices, each sends (n - 1) / n of an array that is gathered or scattered, and twice
that of one that is summed. Imports no JAX.
"""

from collections.abc import Iterator, Mapping
import dataclasses

from gptjax.model import config
from gptjax.plan import targets


@dataclasses.dataclass(frozen=True)
class Sent:
    """One kind of collective of a step."""

    kind: str
    axis: str  # of the mesh
    count: int
    bytes: float  # of one device in a step


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What the sizes of messages follow from."""

    arch: config.Architecture
    width: int  # bytes of an activation, and of a weight that is gathered
    layer_weights: float  # parameters of the layers outside experts
    expert_weights: float  # and in them
    table_weights: float  # and of embeddings and the head
    tokens: float  # of one device in a microbatch
    accumulate: int
    again: frozenset[str]  # what backward computes again
    sequence: bool = False  # the stream's length is split over `tensor`


_ROOM = 1.25  # what a round of `experts` can send, of the even share


def sent(traffic: Traffic, sizes: Mapping[str, int]) -> Iterator[Sent]:
    """All collectives of a step on a mesh of these sizes, where they are above 1."""
    n = {axis: sizes.get(axis, 1) for axis in _AXES}
    arch, times, width = traffic.arch, traffic.accumulate, traffic.width
    L = arch.L / n['stage']
    dense = traffic.layer_weights / n['tensor'] / n['stage']
    table = traffic.table_weights / n['tensor'] / n['stage']
    expert = traffic.expert_weights / n['tensor'] / n['expert'] / n['stage']
    whole = dense + expert + table
    stream = traffic.tokens * arch.D * width  # the residual stream of a device
    ring = {axis: (size - 1) / size for axis, size in n.items()}
    layers = round(L)
    if n['fsdp'] > 1:
        one = ring['fsdp'] * whole * times
        yield Sent('gather weights', 'fsdp', 2 * layers * times, 2 * one * width)
        # The weight gradient is a float32 sum.
        yield Sent('scatter gradients', 'fsdp', layers * times, one * 4)
    mine = whole / n['fsdp']
    if n['expert'] > 1:  # what is not in experts is the same along this axis
        summed = 2 * ring['expert'] * (dense + table) / n['fsdp'] * 4
        yield Sent('sum gradients', 'expert', layers, summed)
        chosen = arch.experts.k if arch.experts else 1
        moved = 4 * _ROOM * ring['expert'] * chosen * stream * L * times
        yield Sent('tokens to experts', 'expert', 4 * layers * times, moved)
    if n['data'] > 1:
        yield Sent('sum gradients', 'data', layers, 2 * ring['data'] * mine * 4)
    if n['tensor'] > 1:
        passes = 4 + ('out' in traffic.again)
        summed = 2 * ring['tensor'] * stream * passes * L * times
        # A sum in its two halves, and two gathers of what products read, in backward.
        more = (2 if 'out' not in traffic.again else 1) * traffic.sequence
        summed += ring['tensor'] * stream * more * L * times
        count = (passes * (1 + traffic.sequence) + more) * layers * times
        kind = 'gather and scatter' if traffic.sequence else 'sum'
        yield Sent(f'{kind} activations', 'tensor', count, summed)
    if n['context'] > 1:
        keys = traffic.tokens * 2 * arch.K * arch.H * width
        passes = 3 + ('scores' in traffic.again)  # backward sends gradients as well
        moved = passes * (n['context'] - 1) * keys * L * times
        yield Sent('pass keys and values', 'context', passes * layers * times, moved)
        summed = 2 * ring['context'] * mine * 4
        yield Sent('sum gradients', 'context', layers, summed)
    if n['stage'] > 1:
        yield Sent('pass activations', 'stage', 2 * times, 2 * stream * times)
    if n['slice'] > 1:
        yield Sent('sum gradients', 'slice', layers, 2 * ring['slice'] * mine * 4)


_AXES = ('slice', 'stage', 'data', 'fsdp', 'expert', 'context', 'tensor')


def rates(target: targets.Target, sizes: Mapping[str, int]) -> dict[str, float]:
    """Bytes/s that a device sends along each mesh axis, where all its links work.

    Mesh axes take dimensions of the slice from the last one on, as they lie closest
    together. A ring sends both ways; a line, and a part of a dimension, one way. Slices
    of three dimensions have rings where all of them are multiples of 4, or none. What
    is left of an axis of GPUs goes on over nodes: each GPU of it that a node has brings
    a network card, and the slower of both binds. `host` is the way to its memory.
    """
    chip, left = target.chip, sorted(target.shape)
    rings = len(left) < 3 or not any(dim % chip.wrap for dim in left)
    found = {'slice': chip.network_rate, 'host': chip.host_rate}
    for axis in reversed(_AXES[1:]):
        size, rate = sizes.get(axis, 1), 0.0
        while size > 1 and max(left, default=1) > 1:
            fits = [dim for dim in left if size % dim == 0 and dim > 1]
            if fits:
                dim = max(fits)
                left.remove(dim)
                size //= dim
                rate += chip.link_rate * (2 if rings and dim % chip.wrap == 0 else 1)
            else:  # a part of a dimension
                part = max(left)
                left.remove(part)
                left.append(max(1, part // size))
                rate, size = rate + chip.link_rate, 1
        if size > 1:
            cards = sizes[axis] // size * chip.network_rate
            rate = min(rate or cards, cards)
        found[axis] = rate or chip.link_rate
    return found
