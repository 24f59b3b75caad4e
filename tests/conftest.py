"""Eight simulated devices, shapes checked at run time, and the way to the real data."""

import atexit
import gc
import importlib.util
import os
from pathlib import Path
import shutil
import tempfile

os.environ['JAX_PLATFORMS'] = 'cpu'
# Programs here are small: without optimisation a third of the time is saved.
os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0',
)
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# Many tests compile the same small programs, in this process and in others.
if 'PYTEST_XDIST_WORKER' not in os.environ:  # workers share that of the first process
    _cache = tempfile.mkdtemp(prefix='gptjax_jax_cache')
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ['JAX_COMPILATION_CACHE_DIR'] = _cache
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'
# Tracing makes many objects, and compiled programs keep millions of them: a look at all
# of these every 700 new ones would cost more than the memory it finds.
gc.set_threshold(100_000, 20, 100)

import jaxtyping
import pytest

# What needs torch, Beam or libtpu has an environment and a target of its own:
# `make test-parity`, `make test-beam` and `make test-tpu`.
_needs = {'parity': 'torch', 'beam': 'apache_beam', 'tpu': 'libtpu'}
collect_ignore = [
    name for name, package in _needs.items() if not importlib.util.find_spec(package)
]
collect_ignore += ['faults']  # long: `make test-faults`; a path that is given is run

jaxtyping.install_import_hook('gptjax', 'beartype.beartype')


@pytest.fixture
def real_data():
    """The path of a file or folder under GPTJAX_DATA; skips where it is not there."""

    def find(name: str) -> Path:
        folder = os.environ.get('GPTJAX_DATA')
        if not folder:
            pytest.skip('GPTJAX_DATA is unset: this test reads real data from there')
        path = Path(folder) / name
        if not path.exists():
            pytest.skip(f'GPTJAX_DATA has no {name}')
        return path

    return find


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With GPTJAX_NO_SKIP, as in CI where the data are there, a skip is a failure."""
    report = yield
    if report.skipped and os.environ.get('GPTJAX_NO_SKIP'):
        report.outcome = 'failed'
        report.longrepr = f'skipped, where nothing may: {report.longrepr}'
    return report
