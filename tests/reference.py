"""A Transformer in NumPy, in float64 and one row at a time, written from the papers.

It reads an Architecture and our parameter tree, and shares no code with gptjax: truth
for what `transformers` has no class of. Letters as in `gptjax.core`.
"""

import math
from typing import Any, NamedTuple

import numpy as np

Tree = Any


class Router(NamedTuple):
    """Sums over layers: balance of each row, and logsumexp^2 of each real token."""

    balance: float = 0.0
    z: float = 0.0


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def logsumexp(x: np.ndarray) -> np.ndarray:
    return np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1)) + x.max(-1)


_erf = np.vectorize(math.erf, otypes=[float])


def activate(name: str, x: np.ndarray) -> np.ndarray:
    if name == 'gelu':  # x times the normal distribution below x
        return x * 0.5 * (1 + _erf(x / math.sqrt(2)))
    if name == 'gelu_tanh':
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if name in ('silu', 'swiglu'):
        return x / (1 + np.exp(-x))
    return np.maximum(x, 0) ** (2 if name == 'relu_squared' else 1)


def norm(arch: Any, p: Tree, x: np.ndarray) -> np.ndarray:
    """Layer norm (Ba et al., 2016, eq. 4), or RMS (Zhang and Sennrich, 2019, eq. 4)."""
    if arch.norms.kind == 'rms':
        return p['scale'] * x / np.sqrt((x**2).mean(-1, keepdims=True) + arch.norms.eps)
    spread = np.sqrt(x.var(-1, keepdims=True) + arch.norms.eps)
    return p['scale'] * (x - x.mean(-1, keepdims=True)) / spread + p.get('bias', 0)


def rotated(x_TNH: np.ndarray, positions_T: np.ndarray, base: float) -> np.ndarray:
    """RoFormer (Su et al., 2021, eq. 15) on the pairs (i, i + H/2), as complex."""
    h = x_TNH.shape[-1] // 2
    theta_h = base ** (-np.arange(h) / h)
    turns_Th = np.exp(1j * positions_T[:, None] * theta_h)
    z_TNh = (x_TNH[..., :h] + 1j * x_TNH[..., h:]) * turns_Th[:, None]
    return np.concatenate([z_TNh.real, z_TNh.imag], -1)


def attention(
    arch: Any,
    p: Tree,
    x_TD: np.ndarray,
    y_SD: np.ndarray,
    sees_TS: np.ndarray,
    positions_T: np.ndarray | None,
) -> np.ndarray:
    """Multi-head attention (Vaswani et al., 2017, 3.2) of x to y, head by head."""

    def heads(name: str, rows: np.ndarray) -> np.ndarray:
        made = np.tensordot(rows, p[name], 1) + p.get(f'{name}_bias', 0)
        if arch.norms.query_key and name != 'value':
            made /= np.sqrt((made**2).mean(-1, keepdims=True) + arch.norms.eps)
            made *= p[f'{name}_norm']
        if positions_T is not None and name != 'value':
            made = rotated(made, positions_T, arch.positions.base)
        return made

    q_TNH, k_SKH, v_SKH = heads('query', x_TD), heads('key', y_SD), heads('value', y_SD)
    out_TD = np.zeros_like(x_TD) + p.get('out_bias', 0)
    for n in range(arch.N):
        shared = n * arch.K // arch.N
        scores_TS = q_TNH[:, n] @ k_SKH[:, shared].T / math.sqrt(arch.H)
        scores_TS[~sees_TS] = -1e30
        out_TD += softmax(scores_TS) @ v_SKH[:, shared] @ p['out'][n]
    return out_TD


def mlp(arch: Any, p: Tree, x: np.ndarray) -> np.ndarray:
    up = x @ p['up'] + p.get('up_bias', 0)
    if arch.activation == 'swiglu':  # Shazeer (2020), eq. 6
        hidden = activate('silu', x @ p['gate'] + p.get('gate_bias', 0)) * up
    else:
        hidden = activate(arch.activation, up)
    return hidden @ p['down'] + p.get('down_bias', 0)


def experts(
    arch: Any, p: Tree, x_TD: np.ndarray, real_T: np.ndarray
) -> tuple[np.ndarray, Router]:
    """Each token by itself through its k likeliest experts (Jiang et al., 2024, 2.1).

    Balance is E sum_e f_e P_e (Fedus et al., 2022, eq. 4 to 6), f_e of all choices;
    z is Zoph et al. (2022), eq. 5, without its mean.
    """
    E, k = arch.experts.E, arch.experts.k
    y_TD, counts_E, shares_E, z = np.zeros_like(x_TD), np.zeros(E), np.zeros(E), 0.0
    for t, x_D in enumerate(x_TD):
        logits_E = x_D @ p['router']
        best = np.argsort(-logits_E)[:k]
        for weight, e in zip(softmax(logits_E[best]), best, strict=True):
            one = {name: p[name][e] for name in ('up', 'gate', 'down') if name in p}
            y_TD[t] += weight * mlp(arch, one, x_D)
        if real_T[t]:
            counts_E[best] += 1
            shares_E += softmax(logits_E)
            z += logsumexp(logits_E) ** 2
    real = max(real_T.sum(), 1)
    return y_TD, Router(E * (counts_E / real) @ (shares_E / real), z)


def paper_sines(positions_T: np.ndarray, D: int) -> np.ndarray:
    """Vaswani et al. (2017), 3.5, sines before cosines."""
    table_TD = np.empty((len(positions_T), D))
    for i in range(0, D, 2):
        table_TD[:, i] = np.sin(positions_T / 10_000 ** (i / D))
        table_TD[:, i + 1] = np.cos(positions_T / 10_000 ** (i / D))
    return np.concatenate([table_TD[:, 0::2], table_TD[:, 1::2]], -1)


def block(
    arch: Any,
    p: Tree,
    x_TD: np.ndarray,
    sees_TT: np.ndarray,
    positions_T: np.ndarray | None,
    real_T: np.ndarray,
    source: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, Router]:
    """One layer; `source` is an encoder's output and which of it each token sees."""
    routers = [Router()]

    def add(name: str, x: np.ndarray, branch: Any) -> np.ndarray:
        if arch.norms.order == 'pre':
            return x + branch(norm(arch, p[f'{name}_norm'], x))
        return norm(arch, p[f'{name}_norm'], x + branch(x))

    def wide(x: np.ndarray) -> np.ndarray:
        if arch.experts is None:
            return mlp(arch, p['mlp'], x)
        y_TD, router = experts(arch, p['experts'], x, real_T)
        routers.append(router)
        return y_TD

    x_TD = add(
        'attention',
        x_TD,
        lambda x: attention(arch, p['attention'], x, x, sees_TT, positions_T),
    )
    if source is not None:
        y_SD, sees_TS = source
        x_TD = add(
            'cross', x_TD, lambda x: attention(arch, p['cross'], x, y_SD, sees_TS, None)
        )
    x_TD = add('mlp', x_TD, wide)
    return x_TD, routers[-1]


def stack(
    arch: Any,
    p: Tree,
    x_TD: np.ndarray,
    positions_T: np.ndarray,
    segments_T: np.ndarray,
    encoder: bool,
    source: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, Router]:
    """One row of embedded tokens through all layers."""
    if arch.scale_embedding:
        x_TD = x_TD * math.sqrt(arch.D)
    if arch.positions.kind == 'learned':
        x_TD = x_TD + p['positions'][positions_T + arch.positions.offset]
    if arch.positions.kind == 'sinusoidal':
        x_TD = x_TD + paper_sines(positions_T, arch.D)
    if arch.norms.embedding:
        x_TD = norm(arch, p['embedding_norm'], x_TD)
    turned_T = positions_T if arch.positions.kind == 'rotary' else None
    place_T = np.arange(len(x_TD))
    behind_TT = place_T[:, None] - place_T
    routers = []
    for layer in range(arch.encoder_L if encoder else arch.L):
        sees_TT = segments_T[:, None] == segments_T
        if arch.causal and not encoder:
            sees_TT &= behind_TT >= 0
        if window := arch.windows[layer % len(arch.windows)]:
            sees_TT &= abs(behind_TT) < window
        weights = _layer(p['blocks'], layer)
        x_TD, router = block(
            arch, weights, x_TD, sees_TT, turned_T, segments_T > 0, source
        )
        routers.append(router)
    if arch.norms.order == 'pre':
        x_TD = norm(arch, p['norm'], x_TD)
    return x_TD, Router(*np.sum(routers, 0))


def _layer(sub: Tree, layer: int) -> Tree:
    if isinstance(sub, dict):
        return {name: _layer(below, layer) for name, below in sub.items()}
    return sub[layer]


def hidden(arch: Any, params: Tree, batch: Tree) -> tuple[np.ndarray, Router]:
    """(hidden_BTD, router losses added up over rows), as `transformer.hidden`."""
    rows, routers = [], []
    for b in range(len(batch['tokens'])):
        row = {name: np.asarray(array)[b] for name, array in batch.items()}
        source, decoder = None, params
        if arch.encoder_L:
            decoder = params['decoder']
            y_SD, router = stack(
                arch,
                params['encoder'],
                params['tokens'][row['source']],
                row['source_positions'],
                row['source_segments'],
                encoder=True,
            )
            routers.append(router)
            source = y_SD, row['segments'][:, None] == row['source_segments']
        x_TD, router = stack(
            arch,
            decoder,
            params['tokens'][row['tokens']],
            row['positions'],
            row['segments'],
            encoder=False,
            source=source,
        )
        rows.append(x_TD)
        routers.append(router)
    return np.stack(rows), Router(*np.sum(routers, 0))


def logits(arch: Any, params: Tree, x_BTD: np.ndarray) -> np.ndarray:
    """Logits of tokens; the soft cap is that of Gemma Team (2024), section 2."""
    head = params.get('head', {})
    unembed_VD = params['tokens'] if arch.head.tied else head['unembed']
    made = x_BTD @ unembed_VD.T + head.get('bias', 0)
    cap = arch.head.soft_cap
    return cap * np.tanh(made / cap) if cap else made
