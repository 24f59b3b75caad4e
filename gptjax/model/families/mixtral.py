"""Mixtral (Jiang et al., 2024): Llama with eight experts, two of them for each token.

The coefficients of the router's losses are the paper's neighbours: 0.001 of balance as
in Mixtral's released config, and 0.001 of the z-loss (Zoph et al., 2022).
"""

import dataclasses

from gptjax.model import config
from gptjax.model.families import llama


def mixed(
    arch: config.Architecture, E: int, k: int, base: float
) -> config.Architecture:
    return dataclasses.replace(
        arch,
        family='mixtral',
        positions=config.Positions('rotary', base=base),
        experts=config.Experts(E=E, k=k, balance=0.001, z=0.001),
    )


SIZES = {
    'nano': mixed(llama.SIZES['nano'], E=4, k=2, base=10_000.0),
    '8x7b': mixed(
        llama.sized(32, 4096, 14_336, 32, 8, T=32_768), E=8, k=2, base=1_000_000.0
    ),
}
