"""A plan end to end, but for compilers: what is told, and what is refused."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import planning
import pytest

from configs import gpt2, pretrain
from gptjax import command
from gptjax import sharding as sharding_lib
from gptjax.plan import (
    ahead,
    compare,
    cpu,
    job,
    memory,
    page,
    plans,
    report,
    search,
    targets,
)
from gptjax.train import log
from gptjax.train import state as state_lib


@pytest.fixture(scope='module')
def xl():
    return planning.job_of(gpt2.get_config('xl'))


@pytest.fixture(scope='module')
def made():
    return plans.make(gpt2.get_config('xl'), ['v5e-16', 'h100-8'], compiled=False)


def test_weights_and_moments_are_exact(xl):
    """12 bytes for each parameter, in as many parts as their axes are split into.

    Mutation: moments that are not split as their weights are.
    """
    held = xl.held(FSDP)
    places = dict(data=1, fsdp=4, tensor=1, rules='fsdp', devices=jax.devices()[:4])
    sharding = sharding_lib.make(**places)
    shapes, places = state_lib.shardings_of(xl.boxed, xl.optimizer, sharding)
    state = shapes.opt_state, places.opt_state
    both = zip(*map(jax.tree.leaves, state), strict=True)
    expected = sum(
        math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, place in both
    )
    assert held.optimizer == expected
    assert xl.held(job.Layout((), 'data', 512, 1, 'full')).weights == 4 * xl.parameters
    assert xl.parameters == sum(xl.weights.values()) == 1_557_686_400


def test_moments_of_another_shape_lie_everywhere():
    """Adafactor has m + n numbers for a matrix of m x n: a hundredth of AdamW's."""
    config = gpt2.get_config('small')
    adamw = planning.job_of(config).held(FSDP).optimizer
    config.optimizer = planning.ADAFACTOR
    assert planning.job_of(config).held(FSDP).optimizer < adamw / 20


FSDP = job.Layout((('fsdp', 4),), 'fsdp', 512, 1, 'full')


def test_what_backward_finds():
    """By hand, of 2 layers of width 32: the numbers of a token and a layer.

    full: its input. dots: that, 4 heads and 2 x 2 of keys and values in 128 lanes each,
    what attention gives, and two results of F. Mutation: heads of 8 numbers.
    """
    arch = pretrain.get_config('llama-nano')
    made = planning.job_of(arch).arch
    made = dataclasses.replace(made, D=32, N=4, K=2, H=8, F=64)
    assert memory.saved(made, 'full', 1) == 32
    assert memory.saved(made, 'dots', 1) == 32 + 8 * 128 + 32 + 2 * 64
    minimal = 32 + 12 * 128 + 32 + 2 * 64 + 4 * 2 * 128
    assert memory.saved(made, 'minimal', 1) == minimal
    assert memory.saved(made, 'none', 1) > memory.saved(made, 'dots', 1)


def test_the_best_fits_and_no_other_is_faster(xl):
    """Mutation: sorting by memory; a limit of all of it."""
    target = targets.parse('v5e-16')
    found = search.ranked(xl, target)
    assert all(one.bytes.peak <= 0.9 * target.chip.memory for one in found)
    assert found[0].time.step <= min(one.time.step for one in found) + 1e-4
    own = search.evaluate(xl, target, xl.own(16))
    assert found[0].time.step <= own.time.step


def test_the_fields_of_json(made):
    told = [report.as_json(one) for one in made.plans]
    assert [one['target'] for one in told] == ['v5e-16', 'h100-8']
    assert list(told[0]) == [
        'target', 'chips', 'peak_bytes_per_device', 'step_seconds', 'mfu',
        'tokens_per_second', 'days', 'cost_usd', 'binding', 'mesh', 'batch', 'remat',
        'note', 'compiled', 'flags',
    ]  # fmt: skip
    assert (told[0]['note'], told[0]['compiled']) == (made.plans[0].note, False)
    json.dumps(told)
    one, plan = told[0], made.plans[0]
    assert one['days'] == pytest.approx(19_073 * one['step_seconds'] / 86_400)
    assert one['cost_usd'] == pytest.approx(one['days'] * 24 * 16 * 1.20)
    assert one['tokens_per_second'] * one['step_seconds'] == pytest.approx(512 * 1024)
    assert sum(report.spent(plan).values()) == pytest.approx(one['step_seconds'])


GOLDEN = """
v5e-16 16 13.4_of_16 3.21_s 53.2% 50.8% 163,258 0.71 $327 compute fsdp_16 minimal
h100-8 8 54.5_of_79 1.05_s 64.5% 61.6% 497,035 0.23 $483 compute fsdp_8 minimal
"""


def test_golden_plan_of_gpt2_xl(made):
    """What users of the README see; `_` stands for a space."""
    rows = [[cell.replace(' ', '_') for cell in report.row(p)] for p in made.plans]
    for row, batch in zip(rows, ['512_/_8', '512_/_2'], strict=True):
        assert row.pop(-2) == batch
    assert '\n'.join(map(' '.join, rows)) == GOLDEN.strip(), (
        'The plan of GPT-2 XL has moved. Where the models of memory or time changed on '
        'purpose, `make benchmark AREA=scale.plan` says whether they are nearer to '
        'compilers and published rows; then change this, README.md and docs/scale.md.'
    )


def test_the_examples_of_the_docs_are_what_is_printed():
    """The table of README.md, and the table and one target of docs/scale.md."""
    names = ['v5e-16', 'v5p-128', 'v6e-256', 'h100-8']
    text = report.text(plans.make(gpt2.get_config('xl'), names, compiled=False))
    for file in ('README.md', 'docs/scale.md'):
        page_ = (Path(__file__).parents[2] / file).read_text()
        _, asked, after = page_.partition(f'--target={",".join(names)}\n')
        assert asked
        assert after.split('```\n')[1].rstrip() in text, file


def test_text_and_page_tell_the_same(made):
    text, html = report.text(made), page.page(made)
    for plan in made.plans:
        assert all(cell in text and cell in html for cell in report.row(plan))
    assert '1,557,686,400 parameters' in text
    assert 'http' not in html  # nothing is fetched


def test_what_fits_nowhere_is_told_the_smallest_slice_that_would_do():
    config = pretrain.get_config('llama-2-7b')
    with pytest.raises(command.UserError, match=r'do not fit on v5e-4 .* is v5e-16\.'):
        plans.make(config, ['v5e-4'], compiled=False)


def test_what_is_no_pretraining_is_refused():
    config = gpt2.get_config('small')
    config.objective.name = 'masked_lm'
    with pytest.raises(command.UserError, match='plans are of pretraining'):
        plans.make(config, ['v5e-16'], compiled=False)
    config = gpt2.get_config('small')
    config.data.batch_size, config.model.T = 1, 1023  # nor are rows split
    with pytest.raises(command.UserError, match='multiple of 16'):
        plans.make(config, ['v5e-16'], compiled=False)


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(ahead.importlib.util, 'find_spec', lambda name: None)
    assert 'gptjax[tpu]' in ahead.missing(targets.parse('v5e-16'))
    assert 'gptjax[cuda]' in ahead.missing(targets.parse('h100-8'))


def test_a_calibrated_plan_gives_back_its_calibration(monkeypatch):
    """A step that took 3 s is forecast to take 3 s. Mutation: one rate not scaled."""
    config = pretrain.get_config('llama-nano')
    config.data.batch_size = 16  # of 256 tokens, as the calibration has them
    made = planning.job_of(config)
    chip = targets.Chip('cpu', 'cpu', 1e11, 1e10, 1e10, 1e10, 1e10, ((1,),))
    here = targets.Target('cpu', chip, (1,))
    monkeypatch.setattr(cpu, 'measured', lambda program: 3.0)
    constants = cpu.calibrate(made, here)
    layout = job.Layout((), 'data', 16, 1, 'dots')
    found = search.evaluate(made, here, layout, constants)
    assert found.time.step == pytest.approx(3.0)


def test_plan_against_actual(tmp_path):
    config = gpt2.get_config('small')
    (tmp_path / 'config.json').write_text(config.to_json())
    with pytest.raises(command.UserError, match='no metrics of steps'):
        compare.compare(tmp_path, 'v5e-16')
    lines = [{'step': n, 'tokens_per_second': speed} for n, speed in enumerate(
        (None, 1.0, 2e6, 2e6))]  # fmt: skip
    (tmp_path / 'metrics.jsonl').write_bytes(b''.join(map(log.line, lines)))
    found = compare.compare(tmp_path, 'v5e-16')
    step = 512 * 1024 / 2e6  # the first speed has what only begins once
    assert found['step_seconds']['actual'] == pytest.approx(step)
    ratio = found['mfu']['plan'] / found['mfu']['actual']
    assert ratio == pytest.approx(step / found['step_seconds']['plan'])
    assert 'step_seconds' in compare.text(found)
    # Mutations: an MFU of 1.9; a word on the batch, which training has taken.
    with pytest.raises(command.UserError, match=r'v5e-1: it did 8.7 times'):
        compare.compare(tmp_path, 'v5e-1')
    with pytest.raises(command.UserError, match='has not run on h100-24, as'):
        compare.compare(tmp_path, 'h100-24')
