"""Marian's translation models (Junczys-Dowmunt et al., 2018): Vaswani's, with SiLU."""

import dataclasses

from gptjax.model import config
from gptjax.model.families import transformer


def sized(
    L: int, D: int, F: int, N: int, T: int = 512, V: int = 58_101
) -> config.Architecture:
    return dataclasses.replace(
        transformer.sized(L, D, F, N, T=T, V=V),
        family='marian',
        init_std=0.02,
        norms=config.Norms('layer', eps=1e-5, order='post'),
        head=config.Head(bias=True),
        activation='silu',
        attention_bias='all',
    )


SIZES = {
    'nano': sized(2, 128, 512, 2, T=128, V=2048),
    'opus': sized(6, 512, 2048, 8),
    'big': sized(6, 1024, 4096, 16),
}
