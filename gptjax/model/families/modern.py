"""A recipe for training from scratch, of what the GPT-2 speedruns have kept.

Rotary positions, RMS norms, also on queries and keys, squared ReLU (So et al., 2021), a
soft cap on the logits, projections that begin at zero, and a head of its own.
"""

from gptjax.model import config


def sized(
    L: int, N: int, D: int, T: int = 1024, V: int = 50_304
) -> config.Architecture:
    return config.Architecture(
        family='modern',
        T=T, V=V, D=D, F=4 * D, N=N, K=N, H=D // N, L=L,
        dropout=0.0,
        init_std=0.02,
        norms=config.Norms('rms', eps=1e-6, query_key=True),
        positions=config.Positions('rotary'),
        head=config.Head(tied=False, soft_cap=15.0),
        activation='relu_squared',
        attention_bias='none',
        mlp_bias=False,
        zero_init=True,
    )  # fmt: skip


SIZES = {
    'nano': sized(2, 2, 128, T=256, V=2048),
    'small': sized(12, 6, 768),
    'medium': sized(24, 8, 1024),
    'large': sized(36, 10, 1280),
}
