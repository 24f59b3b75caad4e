"""Several targets, compilers that disagree, batches that grow."""

import dataclasses
import json
import math

import planning
import pytest

from configs import gpt2
from gptjax import command
from gptjax.plan import (
    ahead,
    cost_model,
    job,
    memory,
    page,
    plans,
    report,
    search,
    targets,
)

GIB = targets.GIB


def compiler(monkeypatch, peaks, more=()):
    """`ahead.compile_` that says these peaks, in turn; the layouts that it saw.

    more: what it says besides of the first ones.
    """
    seen, left, said = [], iter(peaks), iter(more)

    def compile_(settings, target, layout):
        seen.append(layout)
        told = {'peak': next(left), 'seconds': 1.0, 'collectives': {}}
        return {**told, **next(said, {})}

    monkeypatch.setattr(ahead, 'missing', lambda target: '')
    monkeypatch.setattr(ahead, 'compile_', compile_)
    return seen


def test_a_target_that_does_not_fit_leaves_the_others(monkeypatch):
    """All are searched before the first is compiled. Mutation: each by itself."""
    seen, ranked = compiler(monkeypatch, [GIB]), search.ranked

    def searched(planned, target):
        assert not seen
        return ranked(planned, target)

    monkeypatch.setattr(search, 'ranked', searched)
    config = gpt2.get_config('xl')
    made = plans.make(config, ['v5e-16', 'v5e-1'], compiled=True)
    first, refused = map(report.as_json, made.plans)
    assert first['peak_bytes_per_device'] == GIB
    assert list(refused) == ['target', 'error']
    assert refused['target'] == 'v5e-1'
    assert 'do not fit on v5e-1 ' in refused['error']
    json.dumps(refused)
    assert refused['error'] in report.text(made)
    assert refused['error'] in page.page(made)


def test_a_compiled_peak_above_the_memory_is_not_the_best(monkeypatch):
    """15 of 16 GiB is above 90 %: the next that would fit. Mutation: no comparison."""
    seen = compiler(monkeypatch, [15 * GIB, 12 * GIB])
    config = gpt2.get_config('xl')
    (plan,) = plans.make(config, ['v5e-16'], compiled=True).plans
    assert plan.compiled['peak'] == 12 * GIB
    assert plan.found.layout == seen[1] != seen[0]
    seen = compiler(monkeypatch, [27 * GIB, 12 * GIB], [{'error': 'too large'}])
    (plan,) = plans.make(config, ['v5e-16'], compiled=True).plans
    assert plan.found.layout == seen[1] != seen[0]
    assert plan.found.bytes.peak * 27 / 13.4 < 0.9 * 16 * GIB
    compiler(monkeypatch, [15 * GIB] * 3)
    with pytest.raises(command.UserError, match=r'15\.0 GiB and more on v5e-16'):
        plans.make(config, ['v5e-16'], compiled=True)


def test_batches_that_grow():
    """Tokens and seconds are summed, memory is of the largest. Mutation: batch_size."""
    config = gpt2.get_config('xl')
    config.steps = 100
    config.optimizer.warmup_steps = 10
    config.data.batch_size = 256
    config.data.batch_ramp = ((10, 384), (40, 512), (200, 4096))
    made = plans.make(config, ['v5e-16'], compiled=False)
    assert made.job.stretches == [(10, 256), (30, 384), (60, 512)]
    assert made.job.all_tokens == (10 * 256 + 30 * 384 + 60 * 512) * 1024
    (plan,) = made.plans
    assert plan.found.layout.rows == 512
    assert not 384 % (plan.found.layout.parts('batch') * plan.found.layout.accumulate)
    most = 100 * plan.found.time.step
    assert 0.8 * most < plan.seconds < 0.9 * most  # 438.4 rows of 512 on average: 0.856
    assert 'steps of up to 524,288 tokens are 0.05B' in report.job(made)


def test_lanes_are_of_tpus():
    """Heads of 64 take their 64 numbers on a GPU. Mutation: 128 everywhere."""
    arch = planning.job_of(gpt2.get_config('small')).arch
    heads = 3 * arch.N * 64
    assert memory.saved(arch, 'dots', 1, 1) == 2 * arch.D + heads + arch.F
    chips = [targets.CHIPS[kind].lanes for kind in ('v5p', 'v6e', 'h100', 'h200')]
    assert chips == [128, 128, 1, 1]
    tpu = targets.parse('v5e-1')
    gpu = dataclasses.replace(
        tpu, chip=dataclasses.replace(tpu.chip, platform='gpu')
    )  # that differs in nothing else
    work = cost_model.Work(arch, 1024, 1e4, 1.0, 0.0, 1, 1, 1, 1, frozenset())
    times = [cost_model.seconds(work, at, [], {'slice': 1.0}) for at in (tpu, gpu)]
    assert times[0].attention == pytest.approx(2 * times[1].attention)
    assert times[0].products == pytest.approx(times[1].products)


def test_float32_has_half_the_peak_of_bfloat16():
    """Mutation: one peak for all."""
    config = gpt2.get_config('small')
    config.compute.dtype = 'float32'
    made = planning.job_of(config)
    target, layout = (
        targets.parse('h100-8'),
        job.Layout((('data', 8),), 'data', 512, 4, 'full'),
    )
    single = search.evaluate(made, target, layout).time
    config.compute.dtype = 'bfloat16'
    half = search.evaluate(planning.job_of(config), target, layout).time
    assert single.products == pytest.approx(2 * half.products)
    assert single.attention == pytest.approx(2 * half.attention)
    assert half.memory < single.memory <= 2 * half.memory
    assert math.isclose(single.mfu * single.step, half.mfu * half.step)
    config.compute.dtype = 'float32'
    (plan,) = plans.make(config, ['h100-8'], compiled=False).plans
    assert plan.note.endswith('float32 at half the peak')
