"""Decoding on NVIDIA GPUs: parts of a row's cache side by side, and then their sum.

One query a row is too few programs for a GPU, and a cache in parts makes more of them
(Flash-Decoding: Dao et al., 2023). The kernel is JAX's, in Pallas. It is taken where
`prove` has found it right for such heads, which who decodes calls before it compiles.
"""

import math
import sys

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from gptjax.model import config, kernels

_proven: dict[tuple[int, int, int, str], bool] = {}
_SLOTS = 16  # that a part has at least


def prove(arch: config.Architecture, dtype: str, interpret: bool = False) -> bool:
    """Whether the kernel agrees with the reference here; told where it does not.

    interpret: as on a GPU, but computed by the CPU.
    """
    if jax.default_backend() != 'gpu' and not interpret:
        return False
    key = arch.N, arch.K, arch.H, dtype
    if key not in _proven:
        try:
            error = _error(arch, dtype, interpret)
            why = f'off by {error:.2g} of the largest number'
            _proven[key] = error <= kernels.TOLERANCE[dtype]
        except Exception as failed:  # of a library: no list of kinds is complete
            why = f'{type(failed).__name__}: {failed}'.splitlines()[0][:200]
            _proven[key] = False
        if not _proven[key]:
            print(f'note: decoding without parts of the cache: {why}', file=sys.stderr)
    return _proven[key]


def _error(arch: config.Architecture, dtype: str, interpret: bool) -> float:
    """The largest error of three rows, over the largest number."""
    B, S, H = 3, 256, arch.H
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (
        jax.random.normal(key, (B, T, n, H)).astype(dtype)
        for key, T, n in zip(keys, (1, S, S), (arch.N, arch.K, arch.K), strict=True)
    )
    last_B, worst = jnp.array([3, 100, S - 1]), 0.0
    for window in (0, 40):
        found = attend(q, k, v, last_B, window, interpret)
        slots_S = jnp.arange(S)
        seen_BS = slots_S <= last_B[:, None]
        seen_BS &= (slots_S > last_B[:, None] - window) | (window == 0)
        with jax.default_matmul_precision('highest'):
            wide = (jnp.repeat(x.astype(jnp.float32), arch.G, 2) for x in (k, v))
            k_BSNH, v_BSNH = wide
            scores = jnp.einsum('BTNH,BSNH->BNTS', q.astype(jnp.float32), k_BSNH)
            scores = jnp.where(seen_BS[:, None, None], scores * H**-0.5, -jnp.inf)
            wanted = jnp.einsum('BNTS,BSNH->BTNH', jax.nn.softmax(scores), v_BSNH)
        apart = jnp.max(jnp.abs(found.astype(jnp.float32) - wanted))
        worst = np.maximum(worst, float(apart / jnp.max(jnp.abs(wanted))))
    return float(worst)


def fits(arch: config.Architecture, devices: int, q_BTNH: Array, S: int) -> bool:
    """Whether the kernel is proven, and takes such queries and caches of S slots."""
    key = arch.N, arch.K, arch.H, q_BTNH.dtype.name
    alone = devices == 1 and q_BTNH.shape[1] == 1
    return alone and S % _SLOTS == 0 and {key: False, **_proven}[key]


def attend(
    q_B1NH: Float[Array, 'B 1 N H'],
    k_BSKH: Float[Array, 'B S K H'],
    v_BSKH: Float[Array, 'B S K H'],
    position_B: Int[Array, 'B'],
    window: int,
    interpret: bool = False,
) -> Float[Array, 'B 1 N H']:
    """softmax(q k / sqrt(H)) v over the slots to `position_B`, or a window of them."""
    # Here, as the libraries of `flash`: no other platform needs it.
    from jax.experimental.pallas.ops.gpu import decode_attention

    S = k_BSKH.shape[1]
    parts = math.gcd(S // _SLOTS, 16)
    slots = math.gcd(S // parts, 128)
    first_B = position_B + 1 - window if window else jnp.zeros_like(position_B)
    y_BNH = decode_attention.gqa(
        q_B1NH[:, 0],
        k_BSKH,
        v_BSKH,
        start_idx=jnp.maximum(first_B, 0),
        kv_seq_len=position_B + 1,
        block_k=slots,
        k_splits=parts,
        interpret=interpret,
    )
    return y_BNH[:, None]
