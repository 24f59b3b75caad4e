"""The peak memory of a step before anything is compiled.

Weights, gradients and moments are exact. Activations follow from the remat policy;
temporaries are the larger of what the loss and what one layer's backward has at once.
Within 10 % of the compiler on ten configs (experiments/benchmarks/_scale_plan.py).
"""

import dataclasses
import math

from gptjax.model import config, experts
from gptjax.plan import job


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Of one device, by kind."""

    weights: float
    optimizer: float
    gradients: float
    activations: float
    temporaries: float

    @property
    def peak(self) -> float:
        return sum(vars(self).values())


def estimate(
    planned: job.Job, layout: job.Layout, held: job.Held, tokens: float, lanes: int
) -> Bytes:
    """The peak of a step whose microbatch has so many tokens on a device."""
    arch, width = planned.arch, planned.width
    tensor, stages = layout.size('tensor'), layout.size('stage')
    L = arch.L / stages
    room = _room(layout)
    per_token = saved(arch, layout.remat, tensor, lanes, layout.sequence, room)
    if stages > 1:  # what goes into the stages in all iterations, and what comes out
        per_token += 2 * arch.D / layout.sequence / L
    # Stages find the activations of all iterations, also of those on zeros.
    fill = layout.iterations / layout.turns
    activations = L * tokens * per_token * width * fill
    # A fourth of what goes to the host, or has come, is on the device: 17.6 and 1.81
    # GiB in all by libtpu 0.0.42, of Llama 2 70B over 128 v5e and of 0.1B over 4.
    activations += hosted(planned, layout, tokens) / 4
    if layout.remat == 'none' and layout.size('fsdp') > 1:  # experts stay, gathered
        inside = planned.weights['experts'] / tensor / stages
        activations += inside / layout.size('expert') * 4
    at_once = tokens * layout.rounds / layout.turns  # of a microbatch of the stages
    temporaries = max(_loss(planned, layout, tokens), _layer(planned, layout, at_once))
    if width < 4:  # the weights of layers in the type of activations
        temporaries += held.weights / 4 * width
    sums = 2 if layout.accumulate > 1 else 1  # of a microbatch, and of the step
    return Bytes(
        held.weights,
        held.optimizer,
        held.gradients * sums,
        activations,
        temporaries,
    )


def hosted(planned: job.Job, layout: job.Layout, tokens: float) -> float:
    """Bytes of a microbatch that a device has in the memory of its host."""
    if layout.remat != 'offload':
        return 0.0
    least, most = (
        saved(
            planned.arch, remat, layout.size('tensor'), 1, layout.sequence,
            _room(layout),
        )
        for remat in ('full', 'dots')
    )  # fmt: skip
    layers = planned.arch.L / layout.size('stage') * layout.iterations / layout.turns
    return layers * tokens * (most - least) * planned.width


def saved(
    arch: config.Architecture,
    remat: str,
    tensor: int,
    lanes: int = 128,
    sequence: int = 1,
    room: float = 1.0,
) -> float:
    """Numbers of a layer and a token that backward finds on the device.

    full, offload: the layer's input. dots: results of products too but the last, which
    nothing reads again; heads are padded to the lanes of a register, 128 of a TPU.
    minimal: what attention gives, too. none: also what norms and activations leave.
    tensor, sequence: into how many parts heads and the MLP, and the stream, are split.
    room: rows of experts for each that a token has. Their last product the router
    reads, to weigh it.
    """
    head = math.ceil(arch.H / lanes) * lanes
    heads = (arch.N + 2 * arch.K) * head / tensor
    rows = room * (arch.experts.k if arch.experts else 1)
    wide, weighed = arch.F * rows / tensor, arch.D * rows * (arch.experts is not None)
    D = arch.D / sequence
    if remat in ('full', 'offload'):
        return D
    attended = arch.N * head / tensor
    if remat in ('dots', 'minimal'):
        # Splash has its statistics in float32, and in all lanes of a register.
        more = attended + 2 * arch.N * lanes / tensor if remat == 'minimal' else 0.0
        return 2 * D + heads + (2 if arch.gated else 1) * wide + more + weighed
    return 10 * D + 2 * heads + attended + (5 if arch.gated else 2) * wide + weighed


def _room(layout: job.Layout) -> float:
    """Of experts on other devices, rounds have more rows than tokens need."""
    return experts.SPARE if layout.size('expert') > 1 else 1.0


def _loss(planned: job.Job, layout: job.Layout, tokens: float) -> float:
    """Logits, which become their gradient; the head's weight whole, and its own."""
    arch, width = planned.arch, planned.width
    vocab = arch.V / layout.parts('vocab')
    whole = layout.rows * planned.T / layout.accumulate  # tokens of all devices
    rows = tokens * min(1, (layout.loss_rows or whole) / whole)
    gathered = layout.size('fsdp') > 1
    return rows * vocab * width + gathered * vocab * arch.D * (width + 4)


def _layer(planned: job.Job, layout: job.Layout, tokens: float) -> float:
    """A layer's activations and their gradients; its weights and theirs, whole.

    Of the five arrays as wide as the MLP that backward has at once, and four bytes for
    each weight, the rest is taken again as it becomes free.
    """
    arch, width = planned.arch, planned.width
    tensor = layout.size('tensor')
    rows = _room(layout) * tokens * (arch.experts.k if arch.experts else 1)
    worked = 5 * rows * arch.F * width / tensor
    if tensor > 1:  # gradients of what queries, keys and values read, to be summed;
        # of a split sequence, what is gathered of either branch, too
        worked += (3 + 2 * (layout.sequence > 1)) * tokens * arch.D * 4
    if planned.scored and layout.size('context') == 1:  # in float32, and as weights
        worked += tokens * planned.T * arch.N / tensor * (4 + width)
    layer = planned.weights['layers'] / arch.L / tensor
    inside = planned.weights['experts'] / arch.L / tensor / layout.size('expert')
    return worked + (layout.size('fsdp') > 1) * 4 * (layer + inside)
