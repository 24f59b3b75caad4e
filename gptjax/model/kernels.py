"""Which program computes attention: chosen once, from a probe, and never in silence.

A kernel takes `blocked.Inputs` and who sees whom, and returns the weighted sums of
values, y_BTNH. All agree up to rounding on documents; of padding they make anything.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int
import numpy as np

from gptjax import command
from gptjax import sharding as sharding_lib
from gptjax.model import blocked, config, flash, pieces, ring


def reference(x: blocked.Inputs, sight: blocked.Sight) -> Array:
    """softmax(q k / sqrt(H)) v over what is seen (Vaswani et al., 2017)."""
    _, T, N, H = x.q_BTNH.shape
    k_BTNH, v_BTNH = (jnp.repeat(y, N // y.shape[2], 2) for y in (x.k_BTKH, x.v_BTKH))
    scores = jnp.einsum(
        'BTNH,BSNH->BNTS', x.q_BTNH, k_BTNH, preferred_element_type=jnp.float32
    )
    index_T = jnp.arange(T)
    seen_BTS = x.segments_BT[:, :, None] == x.segments_BT[:, None]
    seen_BTS &= sight.seen(index_T[:, None] - index_T)
    scores = jnp.where(seen_BTS[:, None], scores * H**-0.5, -jnp.inf)
    weights = jax.nn.softmax(scores).astype(v_BTNH.dtype)
    return jnp.einsum('BNTS,BSNH->BTNH', weights, v_BTNH)


class Kernel(NamedTuple):
    """A program, and what it cannot do."""

    run: Callable[..., Array]  # of blocked.Inputs and `sight`
    plain: bool  # XLA, which splits it over a mesh and needs no probe
    multiple: int = 1  # of which T is one
    windows: bool = True
    parts: bool = False  # of rows that are split over the mesh axis `context`


KERNELS = {
    'reference': Kernel(reference, plain=True),
    'blocked': Kernel(blocked.attend, plain=True),
    'cudnn': Kernel(flash.cudnn, plain=False),
    'triton': Kernel(flash.triton, plain=False, multiple=128, windows=False),
    'splash': Kernel(flash.splash, plain=False, multiple=128),
    'ring': Kernel(functools.partial(ring.attend, whole=False), False, parts=True),
    'gather': Kernel(functools.partial(ring.attend, whole=True), False, parts=True),
}
CANDIDATES = {
    'gpu': ('cudnn', 'triton', 'blocked'),
    'tpu': ('splash', 'blocked'),
    'cpu': ('blocked',),
}
# The largest error, over the largest number: bfloat16 has 8 bits, the products of
# float32 on accelerators 11. A key too many or too few is an error of 0.1 and more.
TOLERANCE = {'bfloat16': 2**-5, 'float32': 2**-8}


class Choice(NamedTuple):
    """The name of a kernel, and why it is not one before it."""

    name: str
    refused: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name + (f' ({"; ".join(self.refused)})' if self.refused else '')


@functools.cache
def choose(
    arch: config.Architecture,
    compute: config.Compute,
    sharding: sharding_lib.Sharding,
    T: int,
) -> Choice:
    """The kernel for rows of T tokens: the first candidate that passes the probe.

    Raises UserError where compute.attention names one that does not. On CPU, blocks
    take 0.55 of the reference's time at T = 1024, 0.7 at 256 and 0.8 at 64, forward and
    backward (2 cores, float32; bfloat16 0.5, 0.55 and 0.75); where nothing is hidden,
    as in encoders, they take as long. Of rows over several devices, it is the ring.
    """
    platform = sharding.mesh.devices.flat[0].platform
    names = CANDIDATES.get(platform, ('blocked',))
    if compute.attention != 'auto':
        names = (compute.attention,)
    elif sharding.mesh.shape[pieces.AXIS] > 1:
        names = ('ring', 'blocked')
    elif platform == 'cpu' and not arch.causal:
        names = ('reference',)
    if arch.dropout > 0 and names != ('reference',):
        return Choice('reference', ('no other has dropout inside',))
    refused: list[str] = []
    for name in names:
        why = _trouble(name, arch, compute.dtype, sharding, T)
        if not why:
            return Choice(name, tuple(refused))
        refused.append(f'{name}: {why}')
    raise command.UserError(
        f'compute.attention does not work here, {"; ".join(refused)}; set it to '
        "'auto', which finds what does."
    )


def _trouble(
    name: str,
    arch: config.Architecture,
    dtype: str,
    sharding: sharding_lib.Sharding,
    T: int,
) -> str:
    """Why a kernel is not to be used, or ''; the same on every process."""
    kernel, C = KERNELS[name], sharding.mesh.shape[pieces.AXIS]
    if unfit := [why for w in arch.windows if (why := _unfit(kernel, T, w))]:
        return unfit[0]
    if kernel.parts:
        if C == 1:
            return 'rows are whole, as mesh.context is 1'
        return _unfit(kernel._replace(multiple=2 * C), T, 0)
    if not kernel.plain and C > 1:
        return 'it takes whole rows, and mesh.context splits them'
    # For a machine that is not here, programs are compiled and nothing runs.
    if kernel.plain or sharding.mesh.devices.flat[0] not in jax.devices():
        return ''
    why = ''
    try:
        place = sharding.named(('batch', 'length', 'heads', 'head_dim'))
        _, _, N, _ = place.shard_shape((sharding.batch_shards, T, arch.N, arch.H))
        hides = {arch.causal, arch.causal and not arch.encoder_L}  # of an encoder too
        kinds = {(hide, w if w < T else 0) for hide in hides for w in arch.windows}
        for sight in (blocked.Sight(*kind) for kind in kinds):
            error = _error(kernel, sight, (T, N, N // arch.G, arch.H), dtype)
            if not error <= TOLERANCE[dtype]:
                why = f'off by {error:.2g} of the largest number'
    except Exception as error:  # of a library: no list of kinds is complete
        why = f'{type(error).__name__}: {error}'.splitlines()[0][:200]
    if jax.process_count() > 1:
        fine = multihost_utils.process_allgather(np.array(not why))
        why = why or ('' if fine.all() else 'it fails on another process')
    return why


def _unfit(kernel: Kernel, T: int, window: int) -> str:
    if T % kernel.multiple:
        return f'rows of {T} tokens, not of a multiple of {kernel.multiple}'
    return 'it has no windows' if 0 < window < T and not kernel.windows else ''


def _error(
    kernel: Kernel, sight: blocked.Sight, shape: tuple[int, ...], dtype: str
) -> float:
    """The largest error of outputs and gradients, over the largest of each array.

    Of two rows (T, N, K, H): of one document, of three, and of forty, in the second
    row of one more, with padding behind. Scores are spread widely, so that single keys
    matter.
    """
    T, N, K, H = shape
    heads = zip(jax.random.split(jax.random.key(0), 4), (N, K, K, N), strict=True)
    q, *rest = (jax.random.normal(key, (2, T, n, H)) for key, n in heads)
    arrays = [x.astype(dtype) for x in (3 * q, *rest)]
    # The reference has T^2 N scores, which may be more than a device holds.
    oracle = KERNELS['reference' if T <= 2048 else 'blocked']
    ours, truth = (jax.jit(_both(one, sight)) for one in (kernel, oracle))
    worst, real = 0.0, T - T // 16
    for documents in (1, 3, 40):
        many_B1 = np.array([[documents], [documents + 1]])
        numbers_BT = np.arange(T) * many_B1 // real + 1
        segments_BT = jnp.array(numbers_BT * (np.arange(T) < real), jnp.int32)
        found = ours(segments_BT, *arrays)
        with jax.default_matmul_precision('highest'):
            wanted = truth(segments_BT, *(x.astype(jnp.float32) for x in arrays))
        for got, want in zip(found, wanted, strict=True):
            apart = jnp.max(jnp.abs(got.astype(jnp.float32) - want))
            worst = np.maximum(worst, float(apart / jnp.max(jnp.abs(want))))
    return worst  # NaN, if one is


def _both(kernel: Kernel, sight: blocked.Sight) -> Callable[..., tuple[Array, ...]]:
    """Outputs and gradients; padding has none."""

    def both(segments_BT: Array, q: Array, k: Array, v: Array, dy: Array) -> Any:
        def run(q: Array, k: Array, v: Array) -> Array:
            y_BTNH = kernel.run(blocked.Inputs(q, k, v, segments_BT), sight)
            return jnp.where((segments_BT > 0)[:, :, None, None], y_BTNH, 0)

        y, backward = jax.vjp(run, q, k, v)
        return y, *backward(dy)

    return both


def attending(model: Any, T: int, train: bool = True) -> tuple[Any, Choice]:
    """The model with the kernel that is chosen for rows of T tokens, and the choice.

    train: whether it is called with dropout, which rules kernels out; see `choose`.
    """
    arch = model.arch if train else dataclasses.replace(model.arch, dropout=0.0)
    choice = choose(arch, model.compute, model.sharding, T)
    compute = dataclasses.replace(model.compute, attention=choice.name)
    return model.clone(compute=compute), choice


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Chosen:
    """A kernel and where it runs: what `attention.Context` tells the layers."""

    name: str  # of KERNELS
    arch: config.Architecture
    sharding: sharding_lib.Sharding

    def parts(self, T: int) -> int:
        """How many devices work on a row of T tokens together, or 0."""
        C = self.sharding.mesh.shape[pieces.AXIS]
        return C if KERNELS[self.name].parts and T % (2 * C) == 0 else 0


def chosen(model: Any) -> Chosen | None:
    """Of a model as it is called; None is the reference, over a dense mask."""
    inside = model.train and model.arch.dropout > 0
    name = 'reference' if inside else model.compute.attention
    if name in ('auto', 'reference'):
        return None
    return Chosen(name, model.arch, model.sharding)


def ordered(
    chosen: Chosen | None, *rows: Int[Array, 'B T'] | None
) -> list[Int[Array, 'B T'] | None]:
    """Tokens and what goes with them, in the order that the kernel's load is even in.

    Who calls it gives what comes of them to `natural`.
    """
    T = next(x.shape[1] for x in rows if x is not None)
    if chosen is None or not chosen.arch.causal or not chosen.parts(T):
        return list(rows)
    order = pieces.order(T, chosen.parts(T))
    return [None if x is None else x[:, order] for x in rows]


def natural(
    chosen: Chosen | None, x_BTD: Float[Array, 'B T D']
) -> Float[Array, 'B T D']:
    """The inverse of `ordered`."""
    if chosen is None or not chosen.arch.causal or not chosen.parts(x_BTD.shape[1]):
        return x_BTD
    return pieces.natural(chosen.sharding, x_BTD)


def attend(
    chosen: Chosen, x: blocked.Inputs, window: int | Int[Array, '']
) -> Float[Array, 'B T N H']:
    """What the kernel makes of a layer, or blocks where T is none for the kernel.

    window: how many tokens a query sees; traced, it is one of the architecture's.
    """
    kinds = sorted(set(chosen.arch.windows))
    if isinstance(window, int) or len(kinds) == 1:
        return _per_shard(chosen, x, window if isinstance(window, int) else kinds[0])
    runs = [functools.partial(_per_shard, chosen, window=kind) for kind in kinds]
    return lax.switch(jnp.searchsorted(jnp.array(kinds), window), runs, x)


def _per_shard(chosen: Chosen, x: blocked.Inputs, window: int) -> Array:
    """The kernel on each device, over its own rows and heads."""
    T, kernel, place = x.q_BTNH.shape[1], KERNELS[chosen.name], chosen.sharding
    if _unfit(kernel, T, window) or (kernel.parts and not chosen.parts(T)):
        kernel = KERNELS['blocked']
    sight = blocked.Sight(chosen.arch.causal, window if window < T else 0)
    if kernel.plain or (place.mesh.size == 1 and not kernel.parts):
        return kernel.run(x, sight)
    length = pieces.AXIS if kernel.parts else None
    (rows,) = place.spec(('batch',))
    queries, keys = (
        P(rows, length, *place.spec((heads,))) for heads in ('heads', 'kv_heads')
    )
    run: Any = jax.shard_map(
        functools.partial(kernel.run, sight=sight),
        mesh=place.mesh,
        in_specs=(blocked.Inputs(queries, keys, keys, P(rows)),),  # type: ignore[arg-type]
        out_specs=queries,
        check_vma=False,
    )
    return run(x)
