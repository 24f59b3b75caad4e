"""The product of few rows with a weight in few bits, in C++, on CPUs: `native.cc`.

XLA widens codes to a float32 weight in memory first, which is slower than to have
float32 weights. The kernel is built at first use, by the machine's compiler for its
processor, into a folder of the user's cache; without a compiler there is none, which is
said once, and products are XLA's. GPTJAX_NATIVE=0 turns it off.
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
_SOURCE = Path(__file__).with_name('native.cc')
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
    y_MO = jax.ffi.ffi_call('gptjax_rows', shape)(x_MI, weight.codes, weight.scale)
    return y_MO[:, : math.prod(outer)].reshape(*lead, *outer).astype(x.dtype)


@functools.cache
def available() -> bool:
    """Whether there is a kernel, which the first call builds."""
    if os.environ.get('GPTJAX_NATIVE') == '0':
        return False
    try:
        library = ctypes.CDLL(str(build()))
    except (OSError, subprocess.SubprocessError) as error:
        print(
            f'note: products in few bits are slow here, as their kernel is not built: '
            f'{error}',
            file=sys.stderr,
        )
        return False
    handler = jax.ffi.pycapsule(library.gptjax_rows)
    jax.ffi.register_ffi_target('gptjax_rows', handler, platform='cpu')
    return True


def build() -> Path:
    """The library, from the cache where source, compiler and processor are the same.

    Several processes may build it at once. Raises OSError or SubprocessError where it
    cannot.
    """
    compiler = os.environ.get('CXX', 'c++')
    # What the compiler predefines names its version and the processor's instructions.
    macros = _run(compiler, *_FLAGS, '-dM', '-E', '-x', 'c++', os.devnull)
    parts = jaxlib.__version__.encode(), macros, _SOURCE.read_bytes()
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
