"""How long a step takes: a roofline with one set of constants for all targets.

A step is products, attention and the memory that both wait for, one after another;
beside them run the collectives, of which a share is not hidden. The constants are
fitted to the rows that MaxText publishes for v5e, v5p and v6e, each within 15 % in MFU
(experiments/benchmarks/_scale_plan.py); on a CPU they are measured. Imports no JAX.
"""

from collections.abc import Sequence
import dataclasses
import math

from gptjax.model import config
from gptjax.plan import targets, wire


@dataclasses.dataclass(frozen=True)
class Constants:
    """What of the rates on paper a step reaches."""

    products: float = 0.95  # of the peak, in products with weights
    experts: float = 0.8  # of those, where the rows of experts differ in number
    scores: float = 0.25  # of the peak, in attention kernels
    tiles: float = 0.74e-3  # bytes for each FLOP of products, whose operands come again
    weights: float = 0.25  # of collectives of weights, gradients and tokens: not hidden
    activations: float = 0.78  # and of those of activations in the midst of a layer
    network: float = 0.88  # and between slices
    straggler: float = 0.008  # of a step more, for each doubling of the slices
    reached: float = 1.0  # of all rates of the device itself, where a run has told


FITTED = Constants()

_WITHIN = ('tensor', 'context')  # whose collectives are in the midst of a layer

# What backward does again of a layer, by remat policy. The last product of a layer
# (`down`) nothing needs; `experts` is their gather, and the way of tokens to them.
AGAIN = {
    'none': frozenset[str](),
    'minimal': frozenset({'experts'}),
    'dots': frozenset({'scores', 'experts'}),
    'offload': frozenset({'scores', 'experts'}),
    'full': frozenset({'qkv', 'scores', 'out', 'up', 'experts'}),
}


@dataclasses.dataclass(frozen=True)
class Work:
    """A step on one device."""

    arch: config.Architecture
    T: int
    tokens: float  # of this device, all microbatches
    flops_per_token: float  # of the model, in the full convention
    parameters: float  # of this device
    parts: int  # over which the heads and the MLP are split
    stages: int
    microbatches: int
    pipeline: int  # microbatches of a pipeline, times its rounds
    again: frozenset[str]
    width: int = 2  # bytes of an activation


@dataclasses.dataclass(frozen=True)
class Time:
    """Seconds of a step, and what they are made of."""

    products: float
    attention: float
    memory: float  # that nothing hides
    shown: float  # of the links within a slice: what nothing hides
    waiting: float  # for the network, a pipeline to fill and the slowest slice
    links: float  # all of them, hidden or not
    network: float
    mfu: float
    host: float = 0.0  # to and from its memory, hidden or not
    link: str = 'ICI'  # what joins the chips of a slice, or a node

    @property
    def step(self) -> float:
        return self.products + self.attention + self.memory + self.shown + self.waiting

    @property
    def binding(self) -> str:
        """What takes the most: the part whose rate the step is nearest to."""
        kinds = {
            'compute': self.products + self.attention,
            'HBM': self.memory,
            self.link: self.links,
            'DCN': self.network,
            'host': self.host,
        }
        return max(kinds, key=lambda kind: kinds[kind])


def products(arch: config.Architecture) -> dict[str, int]:
    """Multiplications of a token with the weights of one layer, by part."""
    mlp = (3 if arch.gated else 2) * arch.D * arch.F
    mlp *= arch.experts.k if arch.experts else 1
    down = arch.D * arch.F * (arch.experts.k if arch.experts else 1)
    return {
        'qkv': arch.D * arch.H * (arch.N + 2 * arch.K),
        'out': arch.D * arch.H * arch.N,
        'up': mlp - down,
        'down': down,
    }


def seconds(
    work: Work,
    target: targets.Target,
    sent: Sequence[wire.Sent],
    rates: dict[str, float],
    constants: Constants = FITTED,
    across: frozenset[str] = frozenset({'slice'}),
) -> Time:
    """A step of this work on a target; across: the mesh axes of the network."""
    arch, chip, L = work.arch, target.chip, work.arch.L / work.stages
    layer, head = products(arch), arch.V * arch.D
    again = sum(layer[part] for part in work.again if part in layer)
    heads = 3 + ('head' in work.again)
    per_token = L * (3 * sum(layer.values()) + again) + heads * head / work.stages
    dense = 2 * per_token / work.parts * work.tokens
    dense *= _padded(arch.D, chip.lanes) / arch.D
    # The peak is of bfloat16: float32 has half of it (TF32 of an H100), and twice the
    # bytes. That of a CPU is measured.
    halves = work.width / 2 if chip.platform != 'cpu' else 1.0
    peak = chip.flops * constants.reached / halves
    t_products = dense / (peak * constants.products)
    if arch.experts:  # of whose layers they are nearly all
        t_products /= constants.experts
    t_scores = _scores(work, L, chip.lanes) / (peak * constants.scores)
    # Weights, gradients and two moments are read, and all but gradients written; each
    # microbatch adds to the gradients of those before.
    held = 28 + (12 * work.microbatches if work.microbatches > 1 else 0)
    moved = (_moved(work, L) + dense * constants.tiles) * halves
    moved += held * work.parameters
    t_memory = moved / (chip.memory_rate * constants.reached)
    links = {one: one.bytes / rates[one.axis] for one in sent if one.axis not in across}
    t_host = math.fsum(spent for one, spent in links.items() if one.axis == 'host')
    t_links = math.fsum(links.values()) - t_host
    busy = t_products + t_scores + t_memory
    shown = math.fsum(
        spent * (constants.activations if one.axis in _WITHIN else constants.weights)
        for one, spent in links.items()
    )
    shown = max(shown, t_links - busy, t_host - busy)
    t_network = math.fsum(
        one.bytes / rates[one.axis] for one in sent if one.axis in across
    )
    bubble = (work.stages - 1) / work.pipeline * busy
    waiting = constants.network * t_network + bubble
    slower = constants.straggler * math.log2(target.slices)
    waiting += slower * (busy + shown + waiting)
    done = work.flops_per_token * work.tokens / (work.parts * work.stages)
    mfu = done / ((busy + shown + waiting) * chip.flops)
    times = t_products, t_scores, t_memory, shown, waiting, t_links, t_network
    return Time(*times, mfu, t_host, 'NVLink' if chip.platform == 'gpu' else 'ICI')


def _scores(work: Work, L: float, lanes: int) -> float:
    """FLOPs of attention kernels: forward 1, backward 2.5 (Dao, 2023, section 3.1).

    Of causal attention what is hidden is skipped. Heads narrower than the lanes of a
    unit, 128 of a TPU, take as long as those of 128.
    """
    arch = work.arch
    keys = sum(min(arch.window(i) or work.T, work.T) for i in range(arch.L)) / arch.L
    seen = keys * (1 - keys / (2 * work.T)) if arch.causal else keys
    times = 3.5 + ('scores' in work.again)
    return (
        4
        * times
        * arch.N
        * _padded(arch.H, lanes)
        * seen
        * L
        * work.tokens
        / work.parts
    )


def _padded(width: int, lanes: int) -> int:
    """What a unit of so many lanes takes for a dimension."""
    return math.ceil(width / lanes) * lanes


def _moved(work: Work, L: float) -> float:
    """Bytes of elementwise work between products, forward and backward, once."""
    arch = work.arch
    k = arch.experts.k if arch.experts else 1
    wide = (6 if arch.gated else 4) * arch.F * k
    numbers = 8 * arch.D + 4 * (arch.N + 2 * arch.K) * arch.H + wide
    more = 1.5 if 'qkv' in work.again or 'up' in work.again else 1.0
    return 2 * numbers * more * L * work.tokens / work.parts
