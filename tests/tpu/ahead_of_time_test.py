"""Programs for TPUs that are not here: make test-tpu, with libtpu in .venv-tpu.

A small model with the head width of GPT-2; the figures of GPT-2 XL on 16 chips are in
experiments/benchmarks/_speed_tpu.py.
"""

import os

import pytest

from experiments.benchmarks import _speed_tpu


@pytest.fixture(scope='module', params=['reference', 'splash'])
def found(request):
    config = _speed_tpu.config_of('small', request.param)
    config.model.update(L=3, D=256, F=1024, N=4, K=4, H=64, V=2048)
    config.data.batch_size = 32
    config.mesh.fsdp = 4
    return request.param, _speed_tpu.measured(config, '2x2')


@pytest.fixture(scope='module', autouse=True)
def quiet():
    os.environ.update(_speed_tpu.ENVIRONMENT)


def test_the_program_computes_what_the_model_costs(found):
    """Mutations: a loop counted once; a batch that every chip computes whole."""
    attention, figures = found
    if attention == 'reference':  # the scores again, which the policy does not keep
        most = 1.05 * (1 + figures['scores'] * 4 / 3)
        assert 1 + 0.9 * figures['scores'] < figures['flops'] < most
    else:
        assert 0.95 < figures['flops'] < 1.05


def test_the_kernel_is_in_the_program(found):
    attention, figures = found
    assert (figures['kernels'] > 0) == (attention == 'splash'), figures['calls']


def test_it_fits(found):
    assert found[1]['memory'] < 0.5
