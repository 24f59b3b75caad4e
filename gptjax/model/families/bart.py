"""BART (Lewis et al., 2020): an encoder-decoder pretrained to mend damaged text."""

import dataclasses

from gptjax.model import config
from gptjax.model.families import marian


def sized(
    L: int, D: int, F: int, N: int, T: int = 1024, V: int = 50_265
) -> config.Architecture:
    return dataclasses.replace(
        marian.sized(L, D, F, N, T=T, V=V),
        family='bart',
        norms=config.Norms('layer', eps=1e-5, order='post', embedding=True),
        positions=config.Positions('learned', offset=2),
        activation='gelu',
        scale_embedding=False,
    )


SIZES = {
    'nano': sized(2, 128, 512, 2, T=128, V=2048),
    'base': sized(6, 768, 3072, 12),
    'large': sized(12, 1024, 4096, 16),
}
