"""RoBERTa (Liu et al., 2019): BERT trained longer, with other details.

One token type, and positions that begin at row 2 of their table: its padding has id 1.
"""

import dataclasses

from gptjax.model import config
from gptjax.model.families import bert


def sized(L: int, D: int, N: int, T: int = 512, V: int = 50_265) -> config.Architecture:
    return dataclasses.replace(
        bert.sized(L, D, N, T=T, V=V),
        family='roberta',
        norms=config.Norms('layer', eps=1e-5, order='post', embedding=True),
        positions=config.Positions('learned', offset=2),
        types=1,
    )


SIZES = {
    'nano': sized(2, 128, 2, T=128, V=2048),
    'base': sized(12, 768, 12),
    'large': sized(24, 1024, 16),
}
