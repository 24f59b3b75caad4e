"""The rows that MaxText publishes for TPUs, and what the planner's model says of them.

Of AI-Hypercomputer/maxtext, commit e591f30: src/maxtext/configs/tpu/v5e/README.md and
v5p/README.md with their scripts (rows of 2,048 tokens), docs/reference/models/
tiering.md; of AI-Hypercomputer/tpu-recipes, commit c8cfe2f: training/trillium, the
TFLOP/s of their README files over 918. All count attention in full. v5p-128 are 64
chips; x2 are two slices. Left out are programs that compute something else: experts
with a capacity, Gemma's windows, 8-bit products, FSDP over several slices.
"""

from collections.abc import Iterator
from typing import NamedTuple

from gptjax.model import config, cost
from gptjax.model.families import llama, mistral, mixtral
from gptjax.plan import cost_model, targets, wire


class Row(NamedTuple):
    name: str
    target: str
    arch: config.Architecture
    rows: int  # of a chip, of arch.T tokens
    tensor: int
    again: frozenset[str]  # what its remat policy computes again
    mfu: float  # percent


_FULL = cost_model.AGAIN['full']
_MINIMAL = frozenset({'scores'})
_QKV = frozenset({'scores', 'out', 'up'})  # keeps or offloads queries, keys and values
_QKVO = frozenset({'scores', 'up'})  # and what attention gives


def _scaled(heads: int, D: int, L: int, F: int) -> config.Architecture:
    arch = llama.sized(L, D, F, heads, heads, 2048)
    return _with(arch, H=128)


def _with(arch: config.Architecture, **changes: int) -> config.Architecture:
    return config.architecture(**{**config.plain(arch), **changes})


# `global_parameter_scale` of its configs.
_SCALED = {
    16: _scaled(64, 4096, 32, 28_672),
    32: _scaled(64, 8192, 32, 28_672),
    64: _scaled(64, 8192, 64, 28_672),
    128: _scaled(128, 8192, 64, 57_344),
    256: _scaled(128, 16_384, 64, 57_344),
    512: _scaled(128, 16_384, 128, 57_344),
    1024: _scaled(256, 16_384, 128, 114_688),
}
_V5E = (
    (16, 6, 1, _FULL, (61.10, 59.37, 59.14, 58.27, 56.56, 54.65)),
    (32, 4, 1, _FULL, (66.86, 64.81, 64.10, 63.67, 62.26, 60.40)),
    (64, 2, 1, _FULL, (59.90, 56.66, 55.85, 54.96, 53.29, 50.18)),
    (128, 1, 16, _QKV, (56.06, 55.82, 54.93, 52.93, 50.86, 46.25)),
)
_V5P = (
    (32, 6, 4, _MINIMAL, 128, (71.47, 69.43)),
    (64, 3, 4, _MINIMAL, 128, (70.31, 67.26)),
    (128, 1, 8, _MINIMAL, 256, (68.68, 66.34)),
    (128, 1, 8, _MINIMAL, 512, (68.83, 59.66)),
    (256, 1, 8, _MINIMAL, 1024, (67.09, 62.99)),
    (512, 2, 8, _FULL, 1024, (63.99, 61.45)),
    (1024, 2, 16, _FULL, 2048, (55.35, 51.55)),
    (1024, 2, 16, _FULL, 4096, (64.80, 60.83)),
)
_8B = _with(llama.SIZES['3.1-8b'], T=8192)
_70B = _with(llama.SIZES['3.1-70b'], T=8192)
_V6E = (
    ('Llama 3.1 8B', _8B, 8, 3, _QKVO, 413.433),
    ('Llama 3.1 8B', _8B, 16, 3, _QKVO, 419.485),
    ('Llama 3.1 8B', _8B, 32, 3, _QKVO, 407.225),
    ('Llama 3.1 8B', _8B, 64, 5, _QKVO, 419.701),
    ('Llama 3.1 8B', _8B, 128, 4, _QKVO, 412.319),
    ('Llama 3.1 8B', _8B, 256, 4, _QKVO, 417.397),
    ('Llama 3.1 70B', _70B, 32, 2, _QKV, 443.385),
    ('Llama 3.1 70B', _70B, 64, 2, _QKV, 422.091),
    ('Llama 3.1 70B', _70B, 128, 4, _QKV, 453.500),
    ('Llama 3.1 70B', _70B, 256, 5, _QKV, 462.297),
    ('Llama 2 70B', llama.SIZES['2-70b'], 256, 2, _QKV, 402.274),
    ('Mistral 7B', _with(mistral.SIZES['7b'], T=8192), 8, 6, _QKVO, 431.981),
)


def _rows() -> Iterator[Row]:
    for size, count, tensor, again, on_v5e in _V5E:
        for i, mfu in enumerate(on_v5e):
            at, arch = f'v5e-256x{2**i}', _SCALED[size]
            yield Row(f'{size}B on {at}', at, arch, count, tensor, again, mfu)
    for size, count, tensor, again, cores, on_v5p in _V5P:
        for i, mfu in enumerate(on_v5p):
            at, arch = f'v5p-{cores}x{i + 1}', _SCALED[size]
            yield Row(f'{size}B on {at}', at, arch, count, tensor, again, mfu)
    yield Row(
        'Llama 2 70B on v5p-1024', 'v5p-1024', llama.SIZES['2-70b'], 4, 1, _QKVO, 65.4
    )
    moe = _with(mixtral.SIZES['8x7b'], T=4096)
    yield Row('Mixtral 8x7B on v5p-256', 'v5p-256', moe, 36, 1, _FULL, 52.56)
    for name, arch, chips, count, again, tflops in _V6E:
        target = f'v6e-{chips}'
        yield Row(f'{name} on {target}', target, arch, count, 1, again, tflops / 9.18)


ROWS = list(_rows())


def mfu(row: Row) -> float:
    """The forecast of a row, by the constants of the planner."""
    arch, target = row.arch, targets.parse(row.target)
    sizes = {
        'slice': target.slices, 'tensor': row.tensor,
        'fsdp': target.slice_chips // row.tensor,
    }  # fmt: skip
    layers = float(arch.L * sum(cost_model.products(arch).values()))
    tables, experts = 2.0 * arch.V * arch.D, 0.0
    if arch.experts:
        active = cost_model.products(arch)
        mlp = arch.L * (active['up'] + active['down'])
        layers, experts = layers - mlp, mlp / arch.experts.k * arch.experts.E
    tokens = float(row.rows * arch.T * row.tensor)
    traffic = wire.Traffic(
        arch, 2, layers, experts, tables, tokens, accumulate=1, again=row.again
    )
    work = cost_model.Work(
        arch, arch.T, tokens, cost.flops_per_token(arch),
        (layers + experts + tables) / target.slice_chips, row.tensor,
        stages=1, microbatches=1, pipeline=1, again=row.again,
    )  # fmt: skip
    sent = list(wire.sent(traffic, sizes))
    return cost_model.seconds(work, target, sent, wire.rates(target, sizes)).mfu
