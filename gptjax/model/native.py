"""The product of few rows with a weight, in C++, on CPUs: `native.cc`.

XLA widens codes to a float32 weight in memory first, which is slower than to have
float32 weights; and of those, for 2 to 64 rows, it reads half as many a second as for
one (`native_float32.cc`). The kernels are built at first use, by the machine's compiler
for its processor, into a folder of the user's cache; without a compiler there is none,
which is said once, and products are XLA's. GPTJAX_NATIVE=0 turns them off.
"""

import ctypes
import functools
import hashlib
import math
import os
from pathlib import Path
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import jaxlib
from jaxtyping import Array

from gptjax import platforms
from gptjax.model import leaves

# Of x. 16 weights of 768 x 3,072 in int8, 2 cores, here and by XLA: 1 row 3 and 21 ms,
# 16 rows 12 and 96 ms, 128 rows 83 and 127 ms; above that, XLA soon takes less.
ROWS = 128
# Of a float32 weight of at least so many bytes; a smaller one stays in a cache.
FLOAT_ROWS, FLOAT_BYTES = (2, 64), 1 << 20
_SOURCE = Path(__file__).with_name('native_float32.cc')
_FLAGS = ('-std=c++17', '-O3', '-march=native', '-fPIC', '-shared', '-w')


def covers(x: Array, weight: leaves.Rows) -> bool:
    """Whether `product` can multiply the two."""
    return (
        x.size <= ROWS * math.prod(weight.sides[0])
        and jax.default_backend() == 'cpu'
        and available()
    )


def product(x: Array, weight: leaves.Rows) -> Array:
    """x weight: the last axes of `x` are those that the weight sums over, in order.

    In float32, and of the type of `x`; each row's result is that of the row alone.
    """
    inner, outer = weight.sides
    lead = x.shape[: x.ndim - len(inner)]
    tiles, blocks = weight.codes.shape[:2]
    x_MI = x.astype(jnp.float32).reshape(-1, math.prod(inner))
    x_MI = jnp.pad(x_MI, [(0, 0), (0, blocks * 32 - x_MI.shape[1])])
    shape = jax.ShapeDtypeStruct((x_MI.shape[0], tiles * 4), jnp.float32)
    call = jax.ffi.ffi_call('gptjax_rows', shape, vmap_method='sequential')
    y_MO = call(x_MI, weight.codes, weight.scale)
    return y_MO[:, : math.prod(outer)].reshape(*lead, *outer).astype(x.dtype)


def sides(spec: str, x: Array, weight: Array) -> tuple[int, bool] | None:
    """(axes that a plain product sums over, whether the weight has them last).

    None where it is not one for `few`, which is for one CPU device.
    """
    left, right, result = spec.replace('->', ',').split(',')
    inner = ''.join(letter for letter in right if letter not in result)
    outer = ''.join(letter for letter in right if letter in result)
    lead = left.removesuffix(inner)
    rows = x.size // max(1, math.prod(x.shape[len(lead) :]))
    fits = (
        right in (inner + outer, outer + inner)
        and (left, result) == (lead + inner, lead + outer)
        and x.dtype == weight.dtype == jnp.float32
        and FLOAT_ROWS[0] <= rows <= FLOAT_ROWS[1]
        and weight.nbytes >= FLOAT_BYTES
        and weight.size * rows >= 16 * x.size  # a tile of outputs
        and jax.default_backend() == 'cpu'
        and jax.device_count() == 1
        and available()
    )
    return (len(inner), right == outer + inner) if fits else None


def few(x: Array, weight: Array, inner: int, last: bool) -> Array:
    """x weight in float32, summed over the last `inner` axes of `x`: see `sides`.

    Each row's result is that of the row alone.
    """
    lead = x.shape[: x.ndim - inner]
    outer = weight.shape[:-inner] if last else weight.shape[inner:]
    x_MI = x.reshape(math.prod(lead), -1)
    flat = weight.reshape((math.prod(outer), -1) if last else (x_MI.shape[1], -1))
    shape = jax.ShapeDtypeStruct((len(x_MI), math.prod(outer)), jnp.float32)
    multiply = jax.ffi.ffi_call('gptjax_few', shape, vmap_method='sequential')
    return multiply(x_MI, flat, inputs_last=last).reshape(*lead, *outer)


@functools.cache
def available() -> bool:
    """Whether there is a kernel, which the first call builds."""
    if os.environ.get('GPTJAX_NATIVE') == '0':
        return False
    try:
        library = ctypes.CDLL(str(build()))
    except (OSError, subprocess.SubprocessError) as error:
        print(
            f'note: products of few rows are slow here, as their kernel is not built: '
            f'{error}',
            file=sys.stderr,
        )
        return False
    for name in ('gptjax_rows', 'gptjax_few'):
        handler = jax.ffi.pycapsule(library[name])
        jax.ffi.register_ffi_target(name, handler, platform='cpu')
    return True


def build() -> Path:
    """The library, from the cache where source, compiler and processor are the same.

    Several processes may build it at once. Raises OSError or SubprocessError where it
    cannot.
    """
    compiler = os.environ.get('CXX', 'c++')
    # What the compiler predefines names its version and the processor's instructions.
    macros = _run(compiler, *_FLAGS, '-dM', '-E', '-x', 'c++', os.devnull)
    sources = [path.read_bytes() for path in sorted(_SOURCE.parent.glob('*.cc'))]
    parts = jaxlib.__version__.encode(), macros, *sources
    name = f'native-{hashlib.sha256(b"".join(parts)).hexdigest()[:16]}.so'
    # Where nothing is kept, it lies in a new folder for temporary files.
    path = (platforms.folder() or Path(tempfile.mkdtemp(prefix='gptjax'))) / name
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / name
            include = f'-I{jax.ffi.include_dir()}'
            _run(compiler, *_FLAGS, include, str(_SOURCE), '-o', str(made))
            made.replace(path)
    return path


def _run(*command: str) -> bytes:
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    if done.returncode:
        raise OSError(f'{command[0]}: {done.stderr.decode(errors="replace")[-500:]}')
    return done.stdout
