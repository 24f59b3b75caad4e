"""BERT (Devlin et al., 2019), uncased: an encoder with norms after each sum."""

from gptjax.model import config


def sized(L: int, D: int, N: int, T: int = 512, V: int = 30_522) -> config.Architecture:
    return config.Architecture(
        family='bert',
        T=T, V=V, D=D, F=4 * D, N=N, K=N, H=D // N, L=L,
        dropout=0.1,
        init_std=0.02,
        norms=config.Norms('layer', eps=1e-12, order='post', embedding=True),
        positions=config.Positions('learned'),
        head=config.Head('masked', bias=True),
        activation='gelu',
        attention_bias='all',
        mlp_bias=True,
        causal=False,
        types=2,
    )  # fmt: skip


SIZES = {
    'nano': sized(2, 128, 2, T=128, V=2048),
    'base': sized(12, 768, 12),
    'large': sized(24, 1024, 16),
}
