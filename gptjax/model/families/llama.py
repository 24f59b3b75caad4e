"""Llama (Touvron et al., 2023; Llama Team, 2024), and TinyStories models of its shape.

Rotary positions, RMS norms, SwiGLU, grouped-query attention, no biases.
"""

import dataclasses

from gptjax.model import config

LLAMA31 = config.Positions(
    'rotary', base=500_000.0, scaling='llama3', factor=8.0, low=1.0, high=4.0,
    original=8192,
)  # fmt: skip


def sized(
    L: int, D: int, F: int, N: int, K: int, T: int, V: int = 32_000
) -> config.Architecture:
    return config.Architecture(
        family='llama',
        T=T, V=V, D=D, F=F, N=N, K=K, H=D // N, L=L,
        dropout=0.0,
        init_std=0.02,
        norms=config.Norms('rms', eps=1e-5),
        positions=config.Positions('rotary'),
        head=config.Head(tied=False),
        activation='swiglu',
        attention_bias='none',
        mlp_bias=False,
    )  # fmt: skip


def _tied(arch: config.Architecture, factor: float = 1.0) -> config.Architecture:
    positions = dataclasses.replace(arch.positions, factor=factor)
    return dataclasses.replace(arch.with_head(tied=True), positions=positions)


def _third(L: int, D: int, F: int, N: int, T: int = 131_072) -> config.Architecture:
    arch = sized(L, D, F, N, 8, T, V=128_256)
    return dataclasses.replace(arch, positions=LLAMA31)


SIZES = {
    'nano': sized(2, 128, 344, 4, 2, T=256, V=2048),
    '260k': _tied(sized(5, 64, 172, 8, 4, T=512, V=512)),
    '15m': _tied(sized(6, 288, 768, 6, 6, T=256)),
    '42m': _tied(sized(8, 512, 1376, 8, 8, T=1024)),
    '110m': _tied(sized(12, 768, 2048, 12, 12, T=1024)),
    '2-7b': sized(32, 4096, 11_008, 32, 32, T=4096),
    '2-13b': sized(40, 5120, 13_824, 40, 40, T=4096),
    '2-70b': sized(80, 8192, 28_672, 64, 8, T=4096),
    '3.2-1b': _tied(_third(16, 2048, 8192, 32), factor=32.0),
    '3.2-3b': _tied(_third(28, 3072, 8192, 24), factor=32.0),
    '3.1-8b': _third(32, 4096, 14_336, 32),
    '3.1-70b': _third(80, 8192, 28_672, 64),
}
