"""Settings that follow from others."""

import json

import numpy as np
import pytest
import tiny
import tiny_config

from gptjax import command
from gptjax.model import config, transformer
from gptjax.model import table as model_table
from gptjax.objectives import next_token, preference
from gptjax.train import build
from gptjax.train import settings as settings_lib


@pytest.fixture
def a_config(tmp_path):
    made = tiny_config.get_config()
    (tmp_path / 'text.txt').write_text(tiny_config.text())
    made.data.path = str(tmp_path / 'text.txt')
    return made


def test_rows_may_be_shorter_than_the_context(a_config, tmp_path):
    a_config.data.T = 16
    run = build.build(a_config, tmp_path / 'run')
    assert (run.T, run.model.arch.T) == (16, 32)
    for rows in (run.rows, run.eval_rows):
        assert rows.read(np.arange(2))['tokens'].shape == (2, 16)
    a_config.data.T = 33
    with pytest.raises(command.UserError, match=r'data\.T is 33, .* model is 32'):
        build.build(a_config, tmp_path / 'other')


def test_what_starts_from_a_workdir_takes_its_tokenizer():
    model, raw = {'init_from': 'runs/x'}, {'corpus': {}, 'tokenizer': {'name': 'bytes'}}
    data = dict(path='a', batch_size=1, loader='threads', build=raw)

    def tokenizer(model, build):
        settings = {'model': model, 'data': {**data, 'build': build}}
        return settings_lib.data_of(settings).build.get('tokenizer')

    assert tokenizer(model, raw) == {'name': 'bytes'}
    assert tokenizer(model, {'corpus': {}}) == {'name': 'folder', 'path': 'runs/x'}
    assert tokenizer({}, {'corpus': {}}) is None


def sigmoid(model):
    return preference.make(model, dict(name='sigmoid', beta=0.1), 'live')


@pytest.mark.parametrize('objective', [next_token.make, sigmoid])
def test_a_causal_encoder_keeps_its_head(objective):
    """Rothe et al. (2020): BERT's weights, its head among them, start a GPT."""
    fields = model_table.preset('bert-nano', T=16, V=48, causal=True)
    arch = config.architecture('model', **fields)
    objective(transformer.make(arch, tiny.COMPUTE, tiny.sharding()))
    encoder = config.architecture('model', **{**fields, 'causal': False})
    with pytest.raises(command.UserError, match=r'set model\.causal=True'):
        objective(transformer.make(encoder, tiny.COMPUTE, tiny.sharding()))


def test_an_imported_workdir_is_not_trained_in(a_config, tmp_path):
    step = tmp_path / 'run' / 'checkpoints' / '00000000'
    step.mkdir(parents=True)
    (step / 'manifest.json').write_text('{}')
    (tmp_path / 'run' / 'config.json').write_text('{"imported": {}}')
    with pytest.raises(command.UserError, match=r'another workdir, with model\.init_'):
        build.build(a_config, tmp_path / 'run')


def test_a_config_from_before_a_field_of_the_model_is_the_same_config(
    a_config, tmp_path
):
    now = settings_lib.of(a_config)
    before = settings_lib.of(a_config)
    del before['model']['head']['values']
    (tmp_path / 'checkpoints' / '1').mkdir(parents=True)
    (tmp_path / 'checkpoints' / '1' / 'manifest.json').touch()
    (tmp_path / 'config.json').write_text(json.dumps(before))
    settings_lib.check_unchanged(now, tmp_path, allowed=False)
    now['model']['head']['values'] = True
    with pytest.raises(command.UserError, match=r'head\.values: False -> True'):
        settings_lib.check_unchanged(now, tmp_path, allowed=False)


def test_a_run_of_an_older_config_goes_on(a_config, tmp_path):
    """One from before there was compute.attention, a ramp, or optimizer.schedule."""
    old = settings_lib.of(a_config)
    assert 'attention' not in old['compute']
    (tmp_path / 'config.json').write_text(json.dumps(old))
    manifest = tmp_path / 'checkpoints/00000001/manifest.json'
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    new = {**old, 'compute': {**old['compute'], 'attention': 'auto'}}
    new['optimizer'] = {**old['optimizer'], 'schedule': 'cosine', 'ema': 0.0}
    assert not {'batch_ramp', 'T'} & old['data'].keys()
    new['data'] = {**old['data'], 'batch_ramp': [], 'T': None}
    settings_lib.check_unchanged(new, tmp_path, allowed=False)
    new['compute']['dtype'] = 'bfloat16'
    with pytest.raises(command.UserError, match="dtype: 'float32' -> 'bfloat16'"):
        settings_lib.check_unchanged(new, tmp_path, allowed=False)


def test_a_run_leaves_a_mesh_of_stages_without_being_asked(a_config, tmp_path, capsys):
    """What its pipeline was set to does not fit other meshes. Mutation: it is bound."""
    staged = settings_lib.of(a_config)
    staged['compute'] |= dict(pipeline_rounds=2, pipeline_microbatches=4)
    staged['compute']['attention'] = 'blocked'
    (tmp_path / 'config.json').write_text(json.dumps(staged))
    (tmp_path / 'checkpoints/1').mkdir(parents=True)
    (tmp_path / 'checkpoints/1/manifest.json').touch()
    settings_lib.check_unchanged(settings_lib.of(a_config), tmp_path, allowed=False)
    told = capsys.readouterr().err
    assert 'pipeline_rounds: 2 -> 1' in told
    assert "attention: 'blocked' -> 'auto'" in told
