"""GPT-2 (Radford et al., 2019, table 2), and small ones of its shape."""

from gptjax.model import config


def sized(
    L: int, N: int, D: int, T: int = 1024, V: int = 50_257
) -> config.Architecture:
    return config.Architecture(
        family='gpt2',
        T=T, V=V, D=D, F=4 * D, N=N, K=N, H=D // N, L=L,
        dropout=0.0,
        init_std=0.02,
        norms=config.Norms('layer', eps=1e-5),
        positions=config.Positions('learned'),
        head=config.Head(),
        activation='gelu_tanh',
        attention_bias='all',
        mlp_bias=True,
    )  # fmt: skip


SIZES = {
    'nano': sized(2, 2, 128, T=256, V=2048),
    'micro': sized(4, 4, 128, T=256, V=2048),
    'mini': sized(6, 6, 384, T=256, V=4096),
    'small': sized(12, 12, 768),
    'medium': sized(24, 16, 1024),
    'large': sized(36, 20, 1280),
    'xl': sized(48, 25, 1600),
}
