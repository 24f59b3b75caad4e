"""Qwen3 (Yang et al., 2025): Llama with norms on queries and keys, heads of 128."""

import dataclasses

from gptjax.model import config
from gptjax.model.families import qwen2


def sized(
    L: int, D: int, F: int, N: int, K: int, H: int = 128, T: int = 40_960,
    V: int = 151_936, tied: bool = True,
) -> config.Architecture:  # fmt: skip
    return dataclasses.replace(
        qwen2.sized(L, D, F, N, K, T=T, V=V, tied=tied),
        family='qwen3',
        H=H,
        attention_bias='none',
        norms=config.Norms('rms', eps=1e-6, query_key=True),
    )


SIZES = {
    'nano': sized(2, 128, 384, 4, 2, H=48, T=256, V=2048),
    '0.6b': sized(28, 1024, 3072, 16, 8),
    '1.7b': sized(28, 2048, 6144, 16, 8),
    '4b': sized(36, 2560, 9728, 32, 8),
    '8b': sized(36, 4096, 12_288, 32, 8, tied=False),
}
