"""What a model costs to train: floating-point operations by part. Imports no JAX."""

from gptjax.model import config


def train_flops(arch: config.Architecture) -> dict[str, float]:
    """Operations of forward and backward for one token of a full row, by part.

    6 for each weight in a product with the token, the head over tokens included, and 12
    L N H S for attention scores, S the keys a query may see: all T, or its window. That
    is the "full" convention of nanoGPT and PaLM (Chowdhery et al., 2022, appendix B).
    In an encoder-decoder it is a token of the target with one of the source.
    """
    if arch.encoder_L:
        one = {
            'attention': _attention(arch, arch.L + arch.encoder_L),
            'scores': _scores(arch, arch.L) + arch.encoder_L * _layer_scores(arch, 0),
            'cross attention': _attention(arch, arch.L),
            'cross scores': arch.L * _layer_scores(arch, 0),
        }
    else:
        one = {
            'attention': _attention(arch, arch.L),
            'scores': _scores(arch, arch.L),
        }
    one['mlp'] = _mlp(arch, arch.L + arch.encoder_L)
    one['head'] = _head(arch)
    return {part: 6.0 * products for part, products in one.items()}


def flops_per_token(arch: config.Architecture) -> float:
    """The sum of `train_flops`."""
    return sum(train_flops(arch).values())


def causal_flops_per_token(arch: config.Architecture) -> float:
    """`flops_per_token` without the scores that a causal mask hides.

    The "causal" convention: half of the scores of a full row, and of a window of w
    tokens in a row of T the part w / 2T.
    """
    keys = [min(arch.window(i) or arch.T, arch.T) for i in range(arch.L)]
    hidden = sum(arch.N * arch.H * S * S / arch.T for S in keys)
    return flops_per_token(arch) - 6.0 * hidden * arch.causal


def _attention(arch: config.Architecture, L: int) -> int:
    return L * arch.D * arch.H * (2 * arch.N + 2 * arch.K)


def _scores(arch: config.Architecture, L: int) -> int:
    return sum(_layer_scores(arch, arch.window(i)) for i in range(L))


def _layer_scores(arch: config.Architecture, window: int) -> int:
    """Products of queries with keys, and of weights with values."""
    return 2 * arch.N * arch.H * min(window or arch.T, arch.T)


def _mlp(arch: config.Architecture, L: int) -> int:
    products = (3 if arch.gated else 2) * arch.D * arch.F
    if arch.experts is None:
        return L * products
    return L * (arch.experts.k * products + arch.D * arch.experts.E)


def _head(arch: config.Architecture) -> int:
    if arch.head.kind not in ('tokens', 'masked', 'pretraining'):
        return 0
    transform = 0 if arch.head.kind == 'tokens' else arch.D**2
    return arch.V * arch.D + transform
