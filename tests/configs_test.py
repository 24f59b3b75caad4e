"""Every shipped config builds what it says, and opens with how to run it."""

import ast
from pathlib import Path

import pytest

from gptjax import command
from gptjax.model import config as model_config
from gptjax.train import adapter, build
from gptjax.train import settings as settings_lib

ROOT = Path(__file__).parents[1]
TRAINING = [
    *sorted(ROOT.glob('configs/*.py')),
    *sorted(ROOT.glob('configs/demo/*.py')),
    *sorted(ROOT.glob('configs/chat/*.py')),
    *sorted(ROOT.glob('configs/sentiment/*.py')),
]


@pytest.mark.parametrize('path', TRAINING, ids=lambda path: path.stem)
def test_a_training_config_has_every_section_and_a_command(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = command.load_config(str(path)).to_dict()
    settings_lib.check_sections(config)
    command.splat(settings_lib.Data, 'data', config['data'])
    command.splat(model_config.Compute, 'compute', config['compute'])
    command.splat(settings_lib.Checkpoint, 'checkpoint', config['checkpoint'])
    command.splat(settings_lib.Eval, 'eval', config['eval'])
    command.splat(settings_lib.Options, 'run', config['run'])
    build.optimizer_of(config, steps=10_000)
    adapter.of(config)
    if 'init_from' not in config['model']:
        model_config.architecture('model', **config['model'])
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    name = path.relative_to(ROOT).as_posix()
    assert f'--config={name}' in docstring, 'the docstring says how to run it'


@pytest.mark.parametrize('path', sorted(ROOT.glob('configs/data/*.py')), ids=str)
def test_a_data_config_has_every_section_and_a_command(path):
    config = command.load_config(str(path)).to_dict()
    if path.stem not in ('fetch', 'quality', 'augment'):
        built = {'tokenizer', 'held_out', 'shard_tokens'}
        refined = {'path', 'read', 'steps', 'licences', 'run'}
        corpus = refined if 'steps' in config else {'corpus'}
        assert set(config) == built | corpus
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert f'--config={path.relative_to(ROOT).as_posix()}' in docstring


def test_any_preset_can_be_pretrained(monkeypatch):
    monkeypatch.chdir(ROOT)
    for preset in ('modern-small', 'mixtral-8x7b', 'llama-3.1-8b'):
        config = command.load_config(f'configs/pretrain.py:{preset}').to_dict()
        arch = model_config.architecture('model', **config['model'])
        assert preset.startswith(arch.family)
    with pytest.raises(command.UserError, match="did you mean 'modern-small'"):
        command.load_config('configs/pretrain.py:modern-smal')
