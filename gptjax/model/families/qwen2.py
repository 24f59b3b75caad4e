"""Qwen2 (Yang et al., 2024): Llama with biases on query, key and value."""

import dataclasses

from gptjax.model import config
from gptjax.model.families import llama


def sized(
    L: int, D: int, F: int, N: int, K: int, T: int = 32_768, V: int = 151_936,
    tied: bool = True,
) -> config.Architecture:  # fmt: skip
    arch = llama.sized(L, D, F, N, K, T=T, V=V).with_head(tied=tied)
    return dataclasses.replace(
        arch,
        family='qwen2',
        attention_bias='qkv',
        norms=config.Norms('rms', eps=1e-6),
        positions=config.Positions('rotary', base=1_000_000.0),
    )


SIZES = {
    'nano': sized(2, 128, 344, 4, 2, T=256, V=2048),
    '0.5b': sized(24, 896, 4864, 14, 2),
    '1.5b': sized(28, 1536, 8960, 12, 2),
    '7b': sized(28, 3584, 18_944, 28, 4, V=152_064, tied=False),
}
