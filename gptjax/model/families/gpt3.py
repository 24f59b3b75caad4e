"""GPT-3 (Brown et al., 2020, table 2.1): GPT-2 with every other layer banded.

Layers alternate between dense attention and a local band (Child et al., 2019). The
paper does not give its width; 256 is what GPT-Neo took. Widths are the table's own: its
heads times their width are not always the model's (XL: 24 x 128 beside 2048).
"""

import dataclasses

from gptjax.model import config
from gptjax.model.families import gpt2

BAND = 256


def sized(L: int, D: int, N: int, H: int, T: int = 2048) -> config.Architecture:
    arch = gpt2.sized(L, N, D, T=T)
    return dataclasses.replace(arch, family='gpt3', H=H, windows=(0, min(BAND, T // 4)))


SIZES = {
    'nano': dataclasses.replace(sized(2, 128, 2, 64, T=256), V=2048),
    'small': sized(12, 768, 12, 64),
    'medium': sized(24, 1024, 16, 64),
    'large': sized(24, 1536, 16, 96),
    'xl': sized(24, 2048, 24, 128),
    '2.7b': sized(32, 2560, 32, 80),
    '6.7b': sized(32, 4096, 32, 128),
    '13b': sized(40, 5140, 40, 128),
    '175b': sized(96, 12_288, 96, 128),
}
