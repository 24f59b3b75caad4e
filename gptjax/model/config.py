"""What a model is (Architecture) and how it is computed (Compute). Imports no JAX."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from gptjax import command

POSITIONS = {
    'learned': 'a table, one row a position (Radford et al., 2018)',
    'sinusoidal': 'sines and cosines, nothing learned (Vaswani et al., 2017)',
    'rotary': 'queries and keys turned by their position (Su et al., 2021)',
    'none': 'no positions at all',
}
SCALINGS = {
    'none': 'frequencies as they are',
    'linear': 'all of them divided by `factor` (Chen et al., 2023)',
    'llama3': 'the slow ones divided by `factor`, the fast ones kept',
}
NORMS = {
    'layer': 'mean and variance (Ba et al., 2016)',
    'rms': 'the root mean square alone (Zhang and Sennrich, 2019)',
}
ORDERS = {
    'pre': 'x + f(norm(x)), and a norm after the last layer',
    'post': 'norm(x + f(x))',
}
ACTIVATIONS = {
    'gelu': 'GELU (Hendrycks and Gimpel, 2016)',
    'gelu_tanh': 'its approximation by tanh, as in GPT-2',
    'relu': 'max(x, 0)',
    'relu_squared': 'max(x, 0)^2 (So et al., 2021)',
    'silu': 'x sigmoid(x)',
    'swiglu': 'silu(gate) x up (Shazeer, 2020)',
}
BIASES = {
    'none': 'no projection of attention has a bias',
    'qkv': 'query, key and value have',
    'all': 'the output projection too',
}
HEADS = {
    'tokens': 'logits of the next token',
    'masked': 'logits of the token at its own place, behind a layer of their own',
    'pretraining': "'masked', and two classes: is sentence B the next one (BERT)",
    'classes': 'logits of classes for a whole row',
    'reward': 'one number for a whole row',
    'value': 'one number for each token',
    'none': 'hidden states',
}


@dataclasses.dataclass(frozen=True)
class Positions:
    """How a model knows the order of its tokens."""

    kind: str  # of POSITIONS
    offset: int = 0  # unused first rows of a learned table: 2 in RoBERTa and BART
    base: float = 10_000.0  # rotary: wavelengths are 2 pi base^(2i/H)
    scaling: str = 'none'  # rotary: of SCALINGS, for contexts beyond `original`
    factor: float = 1.0
    low: float = 1.0  # llama3: wavelengths above original/low are slow
    high: float = 4.0  # llama3: wavelengths below original/high are fast
    original: int = 0  # llama3: the context before scaling


@dataclasses.dataclass(frozen=True)
class Norms:
    """Where activations are normalised, and how."""

    kind: str  # of NORMS
    eps: float
    order: str = 'pre'  # of ORDERS
    bias: bool = True  # of layer norms
    embedding: bool = False  # one more after the embeddings (BERT)
    query_key: bool = False  # RMS over each head's queries and keys, with a scale


@dataclasses.dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the MLP; no token is ever dropped."""

    E: int  # experts
    k: int  # experts for a token, the likeliest by the router
    balance: float  # coefficient of the load-balance loss (Fedus et al., 2022)
    z: float  # coefficient of the router's z-loss (Zoph et al., 2022)


@dataclasses.dataclass(frozen=True)
class Head:
    """What stands on the last layer."""

    kind: str = 'tokens'  # of HEADS
    tied: bool = True  # logits of tokens use the embedding's weights
    bias: bool = False  # one number a token more
    soft_cap: float = 0.0  # logits become cap tanh(logits / cap); 0 is off
    pooler: bool = False  # tanh of a dense layer, before the classes
    classes: int = 0  # C
    values: bool = False  # one number for each token, besides


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A Transformer (Vaswani et al., 2017), in all families. Letters as in `core`.

    A model with `encoder_L` has an encoder of so many layers and a decoder of L that
    looks at it; one without is a decoder (causal) or an encoder (not causal).
    """

    family: str  # of table.FAMILIES: whose names its exchanged files use
    T: int  # context: the longest row of tokens
    V: int  # vocabulary: at least that of the tokenizer; a multiple of 128 is fastest
    D: int  # model width
    F: int  # MLP width, of one expert where there are several
    N: int  # query heads
    K: int  # key/value heads: N / K queries share one
    H: int  # head width
    L: int  # layers
    dropout: float  # of embeddings, attention and residual branches, in training
    init_std: float  # of every weight; residual projections divide it by sqrt(2 L)
    norms: Norms
    positions: Positions
    head: Head
    activation: str  # of ACTIVATIONS
    attention_bias: str  # of BIASES
    mlp_bias: bool
    causal: bool = True  # whether a token sees only the past
    windows: tuple[int, ...] = (0,)  # tokens that layer l sees: [l mod len]; 0 is all
    experts: Experts | None = None
    encoder_L: int = 0  # layers of an encoder, whose end the decoder attends to
    types: int = 0  # learned token types (BERT's sentence A and B); 0 is none
    scale_embedding: bool = False  # times sqrt(D)
    zero_init: bool = False  # residual projections start at 0
    # muP (Yang et al., 2021): the width at which the learning rate was found, and with
    # which initial weights, updates and logits scale to D; 0 is off.
    base_D: int = 0

    def __post_init__(self) -> None:
        for name in 'TVDFNKHL':
            if getattr(self, name) < 1:
                raise command.UserError(
                    f'model.{name} is {getattr(self, name)}; it is at least 1.'
                )
        for name, value, table in (
            ('positions.kind', self.positions.kind, POSITIONS),
            ('positions.scaling', self.positions.scaling, SCALINGS),
            ('norms.kind', self.norms.kind, NORMS),
            ('norms.order', self.norms.order, ORDERS),
            ('head.kind', self.head.kind, HEADS),
            ('activation', self.activation, ACTIVATIONS),
            ('attention_bias', self.attention_bias, BIASES),
        ):
            command.lookup(table, value, f'model.{name}')
        for wrong, message in self._contradictions():
            if wrong:
                raise command.UserError(message)

    def _contradictions(self) -> list[tuple[bool, str]]:
        head, experts = self.head, self.experts
        return [
            (
                not 0 <= self.dropout < 1,
                f'model.dropout is {self.dropout}; it is in [0, 1).',
            ),
            (
                self.N % self.K > 0,
                f'model.K is {self.K}, which does not divide the {self.N} query '
                'heads of model.N; each key/value head serves as many.',
            ),
            (
                self.positions.kind == 'rotary' and self.H % 2 > 0,
                f'model.H is {self.H}; rotary positions need it even.',
            ),
            (
                not self.windows or min(self.windows) < 0,
                f'model.windows is {self.windows}; it is one number or more, of 0 '
                '(all tokens) or above.',
            ),
            (
                experts is not None and not 1 <= experts.k <= experts.E,
                f'model.experts takes {experts and experts.k} of '
                f'{experts and experts.E} experts; k is 1 to E.',
            ),
            (
                head.kind == 'classes' and head.classes < 2,
                f'model.head.classes is {head.classes}; set it to the number of '
                'classes, 2 or more.',
            ),
            (
                self.base_D < 0 or (self.base_D > 0 and self.scale_embedding),
                f'model.base_D is {self.base_D}; it is a width, or 0, and '
                'scale_embedding, which grows with the width, is off then.',
            ),
            (
                self.encoder_L < 0 or (self.encoder_L > 0 and not self.causal),
                f'model.encoder_L is {self.encoder_L}; it is 0 or more, and a decoder '
                'beside an encoder is causal.',
            ),
        ]

    @property
    def G(self) -> int:
        """Query heads that share a key/value head."""
        return self.N // self.K

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate beside `up`."""
        return self.activation == 'swiglu'

    @property
    def shrink(self) -> float:
        """base_D / D: by what muP scales a wider model; 1 without it."""
        return self.base_D / self.D if self.base_D else 1.0

    def window(self, layer: int) -> int:
        """How many tokens a query of this layer sees, itself included; 0 is all."""
        return self.windows[layer % len(self.windows)]

    def with_head(self, **changes: Any) -> 'Architecture':
        """The same trunk under another head."""
        return dataclasses.replace(self, head=dataclasses.replace(self.head, **changes))


def plain(arch: Architecture) -> dict[str, Any]:
    """An Architecture as JSON has it: what `architecture` takes."""
    fields = dataclasses.asdict(arch)
    return fields | {'windows': list(arch.windows)}


_SECTIONS = {'norms': Norms, 'positions': Positions, 'head': Head, 'experts': Experts}


def architecture(section: str = 'model', /, **fields: Any) -> Architecture:
    """An Architecture from plain values: a config's section, or a manifest's JSON.

    Raises UserError for a field that is unknown, missing or of another type.
    """
    made = dict(fields)
    for name, constructor in _SECTIONS.items():
        if isinstance(made.get(name), Mapping):
            made[name] = command.splat(constructor, f'{section}.{name}', made[name])
        elif name in made and not (name == 'experts' and made[name] is None):
            raise command.UserError(
                f'{section}.{name} is {made[name]!r}; it is a section of settings.'
            )
    windows = made.get('windows', (0,))
    if not isinstance(windows, list | tuple) or not all(
        type(window) is int for window in windows
    ):
        raise command.UserError(
            f'{section}.windows is {windows!r}; it is a list of whole numbers.'
        )
    return command.splat(Architecture, section, made | {'windows': tuple(windows)})


DTYPES = {'bfloat16': 2, 'float32': 4}  # bytes of an activation
REMAT = {
    'none': 'keep every activation of the forward pass',
    'minimal': "as 'dots', and the results of attention: recompute the least",
    'dots': 'keep the results of products with weights',
    'offload': "as 'dots', but in the memory of the host",
    'full': 'keep the input of each layer',
}
ATTENTION = {
    'auto': 'the fastest of the machine that agrees with the reference',
    'reference': 'scores of all pairs of tokens at once',
    'blocked': 'blocks of queries, each with the keys that it can see',
    'cudnn': 'flash attention of cuDNN (NVIDIA)',
    'triton': 'flash attention of JAX in Pallas (NVIDIA)',
    'splash': 'splash attention of JAX in Pallas (TPU)',
    'ring': 'of rows over several devices: keys go from one to the next',
    'gather': 'of rows over several devices: each has all keys of a layer at once',
}
PRODUCTS = {
    'plain': 'in `dtype`',
    'int8': 'the forward ones in 8-bit whole numbers, gradients as of the plain ones',
    'fp8': 'in 8-bit floating point, those of gradients too',
}


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model is computed; only `products` changes what it computes."""

    dtype: str  # of activations; weights stay float32
    remat: str  # what backward finds kept, the rest it computes again
    scan_unroll: int  # layers in one iteration of the scan; 0: as fits the platform
    accumulate: int  # microbatches in a step
    products: str = 'plain'  # with the weights of layers, in training; see `low`
    attention: str = 'auto'  # of ATTENTION; see `kernels`
    loss_rows: int = 0  # tokens of a microbatch whose logits exist at once; 0 is all
    pipeline_microbatches: int = 0  # of a step's, over stages; 0: as many as stages
    pipeline_rounds: int = 1  # a microbatch goes so often around the stages

    def __post_init__(self) -> None:
        command.lookup(DTYPES, self.dtype, 'compute.dtype')
        command.lookup(REMAT, self.remat, 'compute.remat')
        command.lookup(PRODUCTS, self.products, 'compute.products')
        command.lookup(ATTENTION, self.attention, 'compute.attention')
        leasts = {'scan_unroll': 0, 'accumulate': 1, 'loss_rows': 0}
        leasts |= {'pipeline_microbatches': 0, 'pipeline_rounds': 1}
        for name, least in leasts.items():
            if getattr(self, name) < least:
                raise command.UserError(
                    f'compute.{name} is {getattr(self, name)}; it is at least {least}.'
                )
