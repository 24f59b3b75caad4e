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
    """One kind of message of a step."""

    kind: str
    axis: str  # of the mesh
    count: int  # for layers: how many times any of them sends so
    bytes: float  # of one device in a step
    by: str = 'all-reduce'  # the collective, as compilers call it


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What the sizes of messages follow from."""

    arch: config.Architecture
    width: int  # bytes of an activation, and of a weight that is gathered
    layer_weights: float  # parameters of the layers outside experts
    expert_weights: float  # and in them
    table_weights: float  # and of embeddings and the head
    tokens: float  # of one device in a microbatch
    accumulate: int  # microbatches of a step
    again: frozenset[str]  # what backward computes again
    sequence: bool = False  # the stream's length is split over `tensor`
    parts: int = 1  # into which a pipeline cuts a microbatch
    uses: float = (
        1.0  # how often a pipeline takes a layer for a microbatch, with bubble
    )
    passes: int = 1  # and hands on a part of one: for each of its rounds
    each: bool = False  # copies of the weights sum their gradients in each microbatch


_PERMUTE = 'collective-permute'
_ROOM = 1.25  # what a round of `experts` can send, of the even share


def sent(traffic: Traffic, sizes: Mapping[str, int]) -> Iterator[Sent]:
    """All messages of a step on a mesh of these sizes, where they are above 1.

    What is small beside the stream is left out: statistics of the loss and of routers,
    numbers of tokens. Scales of norms count as other weights do.
    """
    n = {axis: sizes.get(axis, 1) for axis in _AXES}
    ring = {axis: (size - 1) / size for axis, size in n.items()}
    arch, calls, width = traffic.arch, traffic.accumulate, traffic.width
    layers, times = round(arch.L / n['stage']), calls * traffic.uses
    runs = round(layers * times)
    # Of a device, along `fsdp`.
    dense = traffic.layer_weights / n['tensor'] / n['stage']
    expert = traffic.expert_weights / n['tensor'] / n['expert'] / n['stage']
    split = n['tensor'] * n['stage']  # of the vocabulary
    tables = traffic.table_weights / split
    stream = traffic.tokens * arch.D * width  # of all layers, in a call
    part = stream / traffic.parts  # of one
    if n['fsdp'] > 1:
        # Of a vocabulary that is whole, an embedding's rows travel, not its weights.
        head = tables if split > 1 else arch.V * arch.D
        one = ring['fsdp'] * (dense + expert) * times
        once = ring['fsdp'] * head * calls
        moved = (2 * one + once) * width
        if 'experts' not in traffic.again:  # they stay, gathered
            moved -= ring['fsdp'] * expert * times * width
        yield Sent('gather weights', 'fsdp', 2 * runs, moved, 'all-gather')
        # The weight gradient is a float32 sum.
        moved = (one + once) * 4
        yield Sent('scatter gradients', 'fsdp', runs, moved, 'reduce-scatter')
        if split == 1:
            moved = 2 * ring['fsdp'] * stream * calls
            yield Sent('exchange embeddings', 'fsdp', 2 * calls, moved, 'all-to-all')
            if n['expert'] > 1:  # whose rows lie in another order
                moved = 2 * stream * calls
                yield Sent('exchange embeddings', 'expert', 2 * calls, moved, _PERMUTE)
    if n['expert'] > 1:
        k = arch.experts.k if arch.experts else 1
        count = (6 if 'experts' in traffic.again else 4) * runs
        moved = count * _ROOM * ring['expert'] * k * part
        yield Sent('tokens to experts', 'expert', count, moved, 'all-to-all')
    if n['tensor'] > 1:
        yield from _split_layers(traffic, ring['tensor'], runs)
    if n['context'] > 1:
        C, keys = n['context'], traffic.tokens / traffic.parts * 2 * arch.K * arch.H
        keys *= runs / n['tensor']
        passes = 2 + ('scores' in traffic.again)
        # Their gradients are float32 sums; and the order of a row is undone, twice.
        moved = (passes * (C - 1) * width + C * 4) * keys + 2 * stream * calls
        count = (passes * (C - 1) + C) * runs
        yield Sent('pass keys and values', 'context', count, moved, _PERMUTE)
    if n['stage'] > 1:
        # From stage to stage and back; at the end from the last one, and back.
        count = 2 * calls * traffic.passes
        moved = count * part + 2 * stream * calls
        yield Sent('pass activations', 'stage', count, moved, _PERMUTE)
        # Of the vocabulary, as in `_split_layers`; what the last stage has; the input.
        moved = 4 * 2 * ring['stage'] * stream * calls
        yield Sent('sum activations', 'stage', 4 * calls, moved)
    yield from _copies(n, (dense + tables) / n['fsdp'], expert / n['fsdp'], traffic)


def _split_layers(traffic: Traffic, ring: float, runs: int) -> Iterator[Sent]:
    """Sums of the stream where layers are split: two each way, and of the vocabulary.

    Where the stream is split as well, a sum is a scatter and a gather; and backward
    gathers again what products read.
    """
    arch = traffic.arch
    stream = traffic.tokens * arch.D * traffic.width
    part = stream / traffic.parts
    passes = 4 + ('out' in traffic.again)
    one = ring * (passes * part * runs + 2 * stream * traffic.accumulate)
    if not traffic.sequence:
        yield Sent('sum activations', 'tensor', passes * runs, 2 * one)
        return
    count, more = passes * runs, 1 if 'out' in traffic.again else 2
    yield Sent('scatter activations', 'tensor', count, one, 'reduce-scatter')
    count += more * runs
    one += ring * more * part * runs
    yield Sent('gather activations', 'tensor', count, one, 'all-gather')


def _copies(
    n: Mapping[str, int], dense: float, expert: float, traffic: Traffic
) -> Iterator[Sent]:
    """Sums of the gradients of what lies whole along an axis, bytes of a device.

    In the order of the mesh, the fastest axis first: the next sends what one device of
    it has of the sum. Copies of the weights sum at the end of a step; the others do for
    each microbatch, and all do where experts are split, or `each` says so.
    """
    arch, times = traffic.arch, traffic.accumulate * traffic.uses
    layers = round(arch.L / n['stage'])
    each = traffic.each or (arch.experts and n['expert'] > 1)
    mine = dense, expert
    for axis in ('context', 'expert', 'data', 'slice'):
        if axis == 'data' and times > 1 and not each:
            mine, times = (dense, expert), 1
        if n[axis] > 1:
            summed = mine[0], mine[1] * (axis != 'expert')
            moved = 2 * (n[axis] - 1) / n[axis] * sum(summed) * 4 * times
            yield Sent('sum gradients', axis, round(layers * times), moved)
            mine = mine[0] / n[axis], mine[1] / (n[axis] if summed[1] else 1)


_AXES = ('slice', 'stage', 'data', 'fsdp', 'expert', 'context', 'tensor')


def across(target: targets.Target, sizes: Mapping[str, int]) -> frozenset[str]:
    """The mesh axes of the network: `slice`, and of GPUs those past a node."""
    found, inner = {'slice'}, 1
    for axis in reversed(_AXES[1:]):
        inner *= sizes.get(axis, 1)
        if sizes.get(axis, 1) > 1 and inner > target.slice_chips:
            found.add(axis)
    return frozenset(found)


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
