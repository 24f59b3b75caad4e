"""Eight simulated devices, shapes checked at run time, and the way to the real data."""

import os
from pathlib import Path

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import jaxtyping
import pytest

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
