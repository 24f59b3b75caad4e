"""What a model is (Architecture) and how it is computed (Compute). Imports no JAX."""

import dataclasses
from typing import Any

from gptjax import command


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The sizes of a GPT-2 (Radford et al., 2019). Letters as in `core`."""

    T: int  # context: the longest row of tokens
    V: int  # vocabulary: at least that of the tokenizer; a multiple of 128 is fastest
    D: int  # model width
    F: int  # MLP width
    N: int  # heads
    H: int  # head width
    L: int  # layers
    dropout: float  # of embeddings, attention and residual branches, in training
    norm_eps: float
    init_std: float  # of every weight; residual projections divide it by sqrt(2 L)

    def __post_init__(self) -> None:
        for name in 'TVDFNHL':
            if getattr(self, name) < 1:
                raise command.UserError(
                    f'model.{name} is {getattr(self, name)}; it is at least 1.'
                )
        if not 0 <= self.dropout < 1:
            raise command.UserError(
                f'model.dropout is {self.dropout}; it is in [0, 1).'
            )

    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token of a full row.

        6 for each weight in a product, the tied head included, and 12 L N H T for
        attention scores over the full row: the "full" convention of nanoGPT and PaLM
        (Chowdhery et al., 2022, appendix B).
        """
        weights = self.L * (4 * self.D * self.N * self.H + 2 * self.D * self.F)
        weights += self.V * self.D
        return 6.0 * weights + 12.0 * self.L * self.N * self.H * self.T


DTYPES = {'bfloat16': 2, 'float32': 4}  # bytes of an activation
REMAT = {
    'none': 'keep every activation of the forward pass',
    'dots': 'keep the results of products with weights',
    'full': 'keep the input of each layer',
}


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model is computed; no setting here changes what it computes."""

    dtype: str  # of activations; weights stay float32
    remat: str  # what backward finds kept, the rest it computes again
    scan_unroll: int  # layers in one iteration of the scan; L unrolls it
    accumulate: int  # microbatches in a step

    def __post_init__(self) -> None:
        command.lookup(DTYPES, self.dtype, 'compute.dtype')
        command.lookup(REMAT, self.remat, 'compute.remat')
        for name in ('scan_unroll', 'accumulate'):
            if getattr(self, name) < 1:
                raise command.UserError(
                    f'compute.{name} is {getattr(self, name)}; it is at least 1.'
                )


# name: (L, N, D, T, V). The sizes of Radford et al. (2019), table 2, and small ones.
_SIZES = {
    'gpt2-nano': (2, 2, 128, 256, 2048),
    'gpt2-micro': (4, 4, 128, 256, 2048),
    'gpt2-mini': (6, 6, 384, 256, 4096),
    'gpt2-small': (12, 12, 768, 1024, 50257),
    'gpt2-medium': (24, 16, 1024, 1024, 50257),
    'gpt2-large': (36, 20, 1280, 1024, 50257),
    'gpt2-xl': (48, 25, 1600, 1024, 50257),
}


def preset(name: str, **changes: Any) -> dict[str, Any]:
    """The fields of Architecture for a named size, with `changes` made."""
    L, N, D, T, V = command.lookup(_SIZES, name, 'model preset')
    fields = dict(
        T=T, V=V, D=D, F=4 * D, N=N, H=D // N, L=L,
        dropout=0.0, norm_eps=1e-5, init_std=0.02,
    )  # fmt: skip
    for change in changes:
        command.lookup(fields, change, 'field of Architecture')
    return fields | changes
