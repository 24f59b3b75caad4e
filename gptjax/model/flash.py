"""Attention by kernels of libraries: cuDNN and Triton on NVIDIA, splash on TPU.

All take packed rows, in which documents are runs of equal numbers. Padding (0) is a
document as well, or comes behind the only one: no loss reads it. Libraries are imported
where they are used, as their places change between versions of JAX.
"""

import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Int

from gptjax.model import blocked

DOCUMENTS = 16  # of a row in one call of cuDNN, whose statistics grow with it


def cudnn(x: blocked.Inputs, sight: blocked.Sight) -> Array:
    """cuDNN's flash attention: bfloat16, H a multiple of 8 up to 128, on Hopper 256.

    The batch decides on the device: a plain call where each row is one document, one
    with offsets where no row has more than DOCUMENTS (from Hopper on), else `blocked`.
    """
    from jax._src.cudnn import fused_attention_stablehlo as library

    def call(x: blocked.Inputs, mask: str, **rows: Any) -> Any:
        return library.dot_product_attention(
            *x[:3],
            **rows,
            scale=x.q_BTNH.shape[-1] ** -0.5,
            mask_type=library.MaskType[mask],
            sliding_window_length=sight.window or None,
        )

    def one(x: blocked.Inputs) -> Any:
        if sight.causal:
            return call(x, 'CAUSAL')
        real_B = jnp.maximum(jnp.sum(x.segments_BT > 0, 1, dtype=jnp.int32), 1)
        return call(x, 'PADDING', q_seqlen=real_B, kv_seqlen=real_B)

    def several(x: blocked.Inputs) -> Any:
        # JAX 0.10 takes the stride of queries for that of keys (jax#39521).
        lengths_BC, starts_BC = documents(x.segments_BT, DOCUMENTS)
        return call(
            _repeated(x),
            'PADDING_CAUSAL' if sight.causal else 'PADDING',
            q_seqlen=lengths_BC,
            kv_seqlen=lengths_BC,
            q_offsets=starts_BC,
            kv_offsets=starts_BC,
        )

    rest = functools.partial(blocked.attend, sight=sight)
    hopper = library.check_compute_capability('9.0')
    alone_BT = (x.segments_BT == x.segments_BT[:, :1]) | (x.segments_BT == 0)
    most = jnp.max(jnp.sum(_begins(x.segments_BT), 1))
    branch = jnp.where(jnp.all(alone_BT), 0, jnp.where(most <= DOCUMENTS, 1, 2))
    return lax.switch(branch, [one, several if hopper else rest, rest], x)


def documents(
    segments_BT: Int[Array, 'B T'], C: int
) -> tuple[Int[Array, 'B C'], Int[Array, 'B C+1']]:
    """The lengths and first tokens of the documents of each row, and -1 behind them."""
    number_BT = jnp.cumsum(_begins(segments_BT), 1) - 1
    lengths_BC = jnp.sum(number_BT[:, :, None] == jnp.arange(C), 1, dtype=jnp.int32)
    starts_BC = jnp.cumsum(lengths_BC, 1, dtype=jnp.int32) - lengths_BC
    there = lengths_BC > 0
    starts_BC = jnp.where(there, starts_BC, -1)
    ends = ((0, 0), (0, 1))
    return jnp.where(there, lengths_BC, -1), jnp.pad(
        starts_BC, ends, constant_values=-1
    )


def _begins(segments_BT: Array) -> Array:
    """Whether a document begins at a token, or padding does."""
    return jnp.diff(segments_BT, axis=1, prepend=-1) != 0


def _repeated(x: blocked.Inputs) -> blocked.Inputs:
    """With a key head for each query head."""
    G = x.q_BTNH.shape[2] // x.k_BTKH.shape[2]
    k, v = (jnp.repeat(one, G, 2) if G > 1 else one for one in (x.k_BTKH, x.v_BTKH))
    return x._replace(k_BTKH=k, v_BTKH=v)


def triton(x: blocked.Inputs, sight: blocked.Sight, interpret: bool = False) -> Any:
    """JAX's flash attention in Pallas on Triton; T is a multiple of 128, no windows."""
    from jax.experimental.pallas.ops.gpu import attention as library

    scale = x.q_BTNH.shape[-1] ** -0.5
    return library.mha(*_repeated(x), scale, sight.causal, interpret=interpret)


def splash(x: blocked.Inputs, sight: blocked.Sight, interpret: bool = False) -> Array:
    """JAX's splash attention in Pallas for TPUs; T is a multiple of 128.

    It skips blocks of keys that nobody sees. The larger a block, the fewer times keys
    are read; 512 is the size that public recipes use on all chips.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    _, T, N, H = x.q_BTNH.shape
    size = next(size for size in (512, 384, 256, 128) if T % size == 0)
    names = ('q', 'kv', 'kv_compute', 'q_dkv', 'kv_dkv', 'kv_dkv_compute')
    sizes: Any = {f'block_{name}': size for name in (*names, 'q_dq', 'kv_dq')}
    # None is no bound. A window of 0 is all; another counts the query itself.
    reach = sight.window - 1 if sight.window else None
    mask: Any = library.LocalMask((T, T), (reach, 0 if sight.causal else reach), 0)
    if not sight.causal and not sight.window:
        mask = library.FullMask((T, T))
    kernel = library.make_splash_mha_single_device(
        library.MultiHeadMask([mask] * N),
        block_sizes=library.BlockSizes(**sizes),
        interpret=interpret,
    )
    # It scales no scores, so queries are scaled.
    q_BTNH = (x.q_BTNH.astype(jnp.float32) * H**-0.5).astype(x.q_BTNH.dtype)
    heads_first = (jnp.swapaxes(one, 1, 2) for one in (q_BTNH, x.k_BTKH, x.v_BTKH))
    segments = library.SegmentIds(x.segments_BT, x.segments_BT)
    return jnp.swapaxes(jax.vmap(kernel)(*heads_first, segments), 1, 2)
