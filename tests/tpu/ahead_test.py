"""The planner's compile for chips that are not here: make test-tpu, with libtpu."""

import pytest

from configs import gpt2
from gptjax.plan import ahead, job, search, targets
from gptjax.train import settings as settings_lib


def config_of():
    config = gpt2.get_config('small')
    config.model.update(L=3, D=512, F=2048, N=4, K=4, H=128, V=2048)
    config.data.batch_size = 32
    return config


@pytest.fixture(scope='module')
def planned():
    return job.Job(settings_lib.of(config_of()))


def test_the_estimate_is_near_what_the_compiler_has(planned):
    """Of one so small, more shares a place than of those that are worth a plan.

    Their figures are in experiments/benchmarks/_scale_plan.py. Mutations: gradients
    that are not counted; a loop's collectives counted once.
    """
    target = targets.parse('v5e-4')
    layout = job.Layout((('fsdp', 4),), 'fsdp', 32, 1, 'dots')
    found = search.evaluate(planned, target, layout)
    compiled = ahead.compile_(planned.settings, target, layout)
    assert 'error' not in compiled, compiled
    assert found.bytes.peak == pytest.approx(compiled['peak'], rel=0.4)
    assert compiled['arguments'] >= found.bytes.weights + found.bytes.optimizer
    moved = sum(moved for _, moved in compiled['collectives'].values())
    expected = sum(one.bytes for one in found.sent)
    assert 0.7 * expected < moved < 2 * expected


def test_what_does_not_fit_is_an_error_of_one_line(planned):
    target = targets.parse('v5e-1')
    layout = job.Layout((), 'data', 512, 1, 'none')
    compiled = ahead.compile_(planned.settings, target, layout)
    assert 'RESOURCE_EXHAUSTED' in compiled['error']
    assert '\n' not in compiled['error']


def test_two_slices_sum_their_gradients_over_the_network():
    """Each chip sends its part of the gradients once: a sum of two is half a ring's.

    Compiled, sums are done within a slice first. Mutation: a mesh whose `fsdp` crosses
    slices sends weights too.
    """
    config = config_of()
    config.model.T, config.compute.attention = 128, 'reference'  # compiles in 40 s
    planned = job.Job(settings_lib.of(config))
    target = targets.parse('v5e-4x2')
    layout = job.Layout((('slice', 2), ('fsdp', 4)), 'fsdp', 32, 1, 'full')
    found = search.evaluate(planned, target, layout)
    compiled = ahead.compile_(planned.settings, target, layout)
    assert 'error' not in compiled, compiled
    (expected,) = (one.bytes for one in found.sent if one.axis == 'slice')
    assert expected == pytest.approx(4 * planned.parameters / 4)
    _, moved = compiled['collectives']['across slices']
    assert 0.95 * expected < moved < 1.4 * expected
