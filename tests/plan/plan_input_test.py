"""What users give to a plan: configs that lack keys, files, muP."""

import json
import subprocess
import types

import planning
import pytest

from configs import gpt2, pretrain
from configs.demo import pretrain as demo
from gptjax import command
from gptjax.plan import __main__ as plan_main
from gptjax.plan import ahead, cpu, job, page, plans, report, search, targets
from gptjax.train import settings as settings_lib


def test_a_config_without_attention_has_a_kernel_that_asks_no_gpu(monkeypatch):
    """The demo's has none. Mutations: indexing in place of the default; Triton for
    windows and lengths that it has not."""

    def run(command, input, **others):
        attention = json.loads(input)['settings']['compute']['attention']
        told = json.dumps({'attention': attention})
        return types.SimpleNamespace(stdout=told, stderr='', returncode=0)

    monkeypatch.setattr(subprocess, 'run', run)
    config = demo.get_config()
    layout = job.Layout((), 'data', 4, 1, 'none')
    cases = (128, 0, 'triton'), (100, 0, 'blocked'), (256, 128, 'blocked')
    for T, window, kernel in cases:
        config.model.update(T=T, windows=(window,))
        found = ahead.compile_(settings_lib.of(config), targets.parse('h100-8'), layout)
        assert found == {'attention': kernel}


def test_a_folder_that_is_not_there_is_told_before_anything_is_planned(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(plans, 'make', lambda *given: pytest.fail('has planned'))
    for html in (tmp_path / 'no' / 'x.html', tmp_path):
        argv = ['plan', '--config=configs/gpt2.py', '--target=v5e-16', f'--html={html}']
        monkeypatch.setattr('sys.argv', argv)
        with pytest.raises(command.UserError, match='a folder that is there'):
            plan_main.main()


def test_the_table_is_printed_before_the_page_is_drawn(monkeypatch, tmp_path, capsys):
    def drawn(made):
        raise OSError('no space')

    monkeypatch.setattr(plans, 'make', lambda *given: 'made')
    monkeypatch.setattr(report, 'text', lambda made: 'the table')
    monkeypatch.setattr(page, 'page', drawn)
    argv = ['plan', '--config=configs/gpt2.py', '--target=cpu']
    monkeypatch.setattr('sys.argv', [*argv, f'--html={tmp_path / "x.html"}'])
    with pytest.raises(OSError, match='no space'):
        plan_main.main()
    assert 'the table' in capsys.readouterr().out


def test_the_optimizer_of_a_plan_is_that_of_the_model():
    """muP scales updates, of some optimizers alone. Mutation: no arch is passed."""
    config = gpt2.get_config('small')
    config.model.base_D = 256
    assert planning.job_of(config).own(1).rows == 512
    config.optimizer = planning.ADAFACTOR
    with pytest.raises(command.UserError, match='muP'):
        planning.job_of(config)


@pytest.mark.parametrize(
    'changes',
    [{'steps': 0}, {'data.batch_size': 0}, {'data.batch_ramp': ((5, 0),)}],
    ids=str,
)
def test_no_steps_and_no_rows_are_refused(changes):
    config = gpt2.get_config('small')
    config.update_from_flattened_dict(changes)
    with pytest.raises(command.UserError, match='at least 1 of each'):
        planning.job_of(config)


def test_a_batch_of_480_rows_is_cut_into_ten():
    """Mutation: powers of two alone, of which none leaves room for `minimal`."""
    config = gpt2.get_config('xl')
    config.data.batch_size = 480
    best = search.ranked(planning.job_of(config), targets.parse('v5e-16'))[0]
    assert (best.layout.accumulate, best.layout.remat) == (10, 'minimal')
    assert search._divisors(480)[-3:] == [160, 240, 480]


@pytest.mark.parametrize(
    ('rows', 'ramp', 'says'),
    [
        (512, ((20, 513),), r'step of 512 and 513 rows .* multiple of 16, or lower T'),
        (1, (), r'no microbatch of a step of 1 rows \(data.batch_size\)'),
    ],
)
def test_rows_that_do_not_divide_are_not_told_as_a_model_too_large(rows, ramp, says):
    """Mutation: the message of weights that do not fit."""
    config = gpt2.get_config('xl')
    config.data.update(batch_size=rows, batch_ramp=ramp)
    with pytest.raises(command.UserError, match=says):
        search.ranked(planning.job_of(config), targets.parse('v5e-16'))


def test_rows_too_long_are_not_told_as_a_model_too_large(monkeypatch):
    """Mutation: a smaller model, where T is 131,072."""
    monkeypatch.setattr(search, '_fitting', lambda *given: iter(()))  # as it finds
    planned = planning.job_of(pretrain.get_config('llama-3.1-70b'))
    says = 'v5e-128 holds the weights, but not the activations; lower T'
    with pytest.raises(command.UserError, match=says):
        search.ranked(planned, targets.parse('v5e-16'))


def test_rows_that_chips_do_not_divide_are_noted():
    config = gpt2.get_config('xl')
    config.data.batch_ramp = ((2000, 520),)
    (plan,) = plans.make(config, ['v5e-16'], compiled=False).plans
    assert plan.note.endswith('steps of 512 and 520 rows are no multiples of 16')


def test_a_step_too_large_for_this_machine_is_refused_before_it_is_run(monkeypatch):
    """Mutation: layers of it run first; no comparison."""
    chip = targets.Chip('cpu', 'cpu', 1e11, 1e10, 1e10, 1e10, 1e10, ((1,),))
    monkeypatch.setattr(cpu, 'target', lambda dtype: targets.Target('cpu', chip, (1,)))
    monkeypatch.setattr(cpu, 'calibrate', lambda *given: pytest.fail('has run'))
    with pytest.raises(plans.NothingFits, match='of this machine'):
        plans.make(gpt2.get_config('xl'), ['cpu'], compiled=False)


def test_json_of_targets_that_are_all_refused(monkeypatch, capsys):
    """And names are stripped, empty ones dropped. Mutation: nothing is printed."""

    def ranked(planned, target):
        raise command.UserError(f'{target.name} is too small.')

    monkeypatch.setattr(search, 'ranked', ranked)
    argv = ['plan', '--config=configs/gpt2.py', '--analytic', '--json']
    monkeypatch.setattr('sys.argv', [*argv, '--target=v5e-1, v5e-4,'])
    with pytest.raises(command.UserError, match='v5e-1 is too small'):
        plan_main.main()
    told = json.loads(capsys.readouterr().out)
    assert told == [
        {'target': name, 'error': f'{name} is too small.'}
        for name in ('v5e-1', 'v5e-4')
    ]
