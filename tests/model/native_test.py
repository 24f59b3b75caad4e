"""The kernels of few rows: their numbers, their building, and life without."""

import concurrent.futures
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.model import layers, native, quantise

needs_compiler = pytest.mark.skipif(
    not shutil.which('c++'), reason='there is no C++ compiler on this machine'
)
SHAPES = [
    ('BTD,DNH->BTNH', (64, 3, 7), 1),
    ('BTNH,NHD->BTD', (3, 7, 40), 2),
    ('BTD,VD->BTV', (301, 33), -1),  # neither side a multiple of anything
    ('BTF,FD->BTD', (3072, 129), 1),  # several chunks of 64 KiB
]


@needs_compiler
@pytest.mark.parametrize('kind', quantise.SERVED)
@pytest.mark.parametrize(('spec', 'dims', 'inner'), SHAPES)
def test_the_kernel_is_the_product_in_float64(kind, spec, dims, inner):
    """Catches a block of a tile out of place, and rows of x lost between tiles."""
    rng = np.random.default_rng(0)
    weight = jnp.asarray(rng.normal(size=dims), jnp.float32)
    few = quantise.rows(weight, inner, kind)
    dense = np.asarray(few.dense(jnp.float32), np.float64)
    x = rng.normal(size=(13, 1, *few.sides[0])).astype(np.float32)
    wanted = np.einsum(spec, x.astype(np.float64), dense)
    assert native.available()
    multiply = jax.jit(native.product)
    alone = np.asarray(multiply(x[:1], few))
    for B in (2, 7, 13):  # tiles of 2, of 3 and 4, of 4 and 5
        found = np.asarray(multiply(x[:B], few))
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted[:B], rtol=0, atol=1e-5 * scale)
        # What a row says does not depend on the others.
        np.testing.assert_array_equal(found[:1], alone)


FLOAT_SHAPES = [
    ('BTD,DNH->BTNH', (64, 3, 7)),
    ('BTF,FD->BTD', (131, 300)),  # two panels of inputs and of outputs, and a rest
    ('BTNH,NHD->BTD', (3, 50, 40)),
    ('BTD,VD->BTV', (301, 33)),
]


@needs_compiler
@pytest.mark.parametrize(('spec', 'dims'), FLOAT_SHAPES)
def test_few_rows_of_float32_are_the_product_in_float64(monkeypatch, spec, dims):
    """Catches a panel without the sums of those above, a tile behind the last output
    that does not move back, and rows of a tile that change places.
    """
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    monkeypatch.setattr(native, 'FLOAT_BYTES', 0)
    rng = np.random.default_rng(0)
    weight = jnp.asarray(rng.normal(size=dims), jnp.float32)
    left, right, _ = spec.replace('->', ',').split(',')
    sizes = dict(zip(right, dims, strict=True))
    x = jnp.asarray(rng.normal(size=(19, 1, *map(sizes.get, left[2:]))), 'float32')
    wanted = np.einsum(spec, *(np.asarray(y, np.float64) for y in (x, weight)))
    scale = np.abs(wanted).max()
    alone = None
    for B in (2, 16, 19):  # one tile, a whole one, two
        multiply = jax.jit(lambda x: layers.einsum(spec, x, weight))
        compiled = multiply.lower(x[:B]).compile()
        assert 'gptjax_few' in compiled.as_text()
        found = np.asarray(compiled(x[:B]))
        np.testing.assert_allclose(found, wanted[:B], rtol=0, atol=1e-6 * scale)
        alone = found[:2] if alone is None else alone
        np.testing.assert_array_equal(found[:2], alone)


@needs_compiler
def test_other_products_are_xlas(monkeypatch):
    """Where rows are one or many, a weight is small, or goes with a row of its own."""
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    x_BTD, weight_DF = jnp.ones((2, 1, 512)), jnp.ones((512, 512))
    assert native.sides('BTD,DF->BTF', x_BTD, weight_DF) == (1, False)
    assert native.sides('BTD,FD->BTF', x_BTD, weight_DF) == (1, True)
    for spec, x, weight in [
        ('BTD,DF->BTF', x_BTD[:1], weight_DF),
        ('BTD,DF->BTF', jnp.ones((2, 1, 65_536)), jnp.ones((65_536, 15))),
        ('BTD,DF->BTF', jnp.ones((65, 1, 512)), weight_DF),
        ('BTD,DF->BTF', x_BTD, weight_DF[:, :511]),
        ('BTD,DF->BTF', x_BTD.astype('bfloat16'), weight_DF.astype('bfloat16')),
        ('BTD,BDF->BTF', x_BTD, jnp.ones((2, 512, 512))),
        ('DBT,DF->BTF', x_BTD.reshape(512, 2, 1), weight_DF),
    ]:
        assert native.sides(spec, x, weight) is None
    monkeypatch.undo()  # and on several devices
    assert native.sides('BTD,DF->BTF', x_BTD, weight_DF) is None


@needs_compiler
def test_the_type_is_that_of_x_and_many_rows_are_xlas():
    few = quantise.rows(jnp.ones((64, 8)), 1, 'int8')
    x_BD = jnp.full((3, 64), 0.5, jnp.bfloat16)
    assert native.covers(x_BD, few)
    found = layers.einsum('BD,DF->BF', x_BD, few)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(jnp.float32), np.full((3, 8), 32.0))
    assert not native.covers(jnp.ones((native.ROWS + 1, 64)), few)


@pytest.mark.long
@needs_compiler
def test_builds_at_once_leave_one_whole_library(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        built = [pool.submit(native.build) for _ in range(2)]
        paths = {future.result() for future in built}
    assert [*(tmp_path / 'gptjax').iterdir()] == [*paths]


PROGRAM = """
import jax.numpy as jnp
from gptjax.model import layers, native, quantise
few = quantise.rows(jnp.arange(64.0).reshape(32, 2), 1, 'int8')
for _ in range(2):
    y_BF = layers.einsum('BD,DF->BF', jnp.ones((1, 32)), few)
print(native.available(), *(round(float(y)) for y in y_BF[0]))
"""


@pytest.mark.parametrize(
    ('name', 'value', 'said'),
    [
        ('CXX', '/no/compiler', 1),
        pytest.param('GPTJAX_NATIVE', '0', 0, marks=pytest.mark.long),
        pytest.param('CXX', 'false', 1, marks=pytest.mark.long),
    ],
)
def test_without_it_products_are_xlas_and_that_is_said_once(
    tmp_path, monkeypatch, name, value, said
):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ['False', '992', '1024']
    assert done.stderr.count('kernel') == said
