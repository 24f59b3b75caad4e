"""What users give to a plan: configs that lack keys, files, muP."""

import json
import subprocess
import types

import planning
import pytest

from configs import gpt2
from configs.demo import pretrain as demo
from gptjax import command
from gptjax.plan import __main__ as plan_main
from gptjax.plan import ahead, job, page, plans, report, targets
from gptjax.train import settings as settings_lib


def test_a_config_without_attention_has_a_kernel_that_asks_no_gpu(monkeypatch):
    """The demo's has none. Mutation: indexing in place of the default."""

    def run(command, input, **others):
        attention = json.loads(input)['settings']['compute']['attention']
        told = json.dumps({'attention': attention})
        return types.SimpleNamespace(stdout=told, stderr='', returncode=0)

    monkeypatch.setattr(subprocess, 'run', run)
    settings = settings_lib.of(demo.get_config())
    layout = job.Layout((), 'data', 4, 1, 'none')
    found = ahead.compile_(settings, targets.parse('h100-8'), layout)
    assert found == {'attention': 'triton'}


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
