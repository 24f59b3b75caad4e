"""The Transformer (Vaswani et al., 2017, table 3): an encoder and a decoder."""

from gptjax.model import config


def sized(
    L: int, D: int, F: int, N: int, T: int = 512, V: int = 37_000
) -> config.Architecture:
    return config.Architecture(
        family='transformer',
        T=T, V=V, D=D, F=F, N=N, K=N, H=D // N, L=L, encoder_L=L,
        dropout=0.1,
        init_std=D**-0.5,
        norms=config.Norms('layer', eps=1e-6, order='post'),
        positions=config.Positions('sinusoidal'),
        head=config.Head(),
        activation='relu',
        attention_bias='none',
        mlp_bias=True,
        scale_embedding=True,
    )  # fmt: skip


SIZES = {
    'nano': sized(2, 128, 512, 2, T=128, V=2048),
    'base': sized(6, 512, 2048, 8),
    'big': sized(6, 1024, 4096, 16),
}
