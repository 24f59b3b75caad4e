"""Imported workdirs, exports with their card, and the command line."""

import json
import os
import runpy
import shutil
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
import small
import tiny
import tiny_config

from gptjax import command, sharding
from gptjax.exchange import huggingface, tokenizers, workdir
from gptjax.exchange.families import family
from gptjax.text import bytes as byte_level
from gptjax.text import frames
from gptjax.text import table as text_table
from gptjax.text import tokenizer as tokenizer_lib
from gptjax.train import build, checkpoint, loop, start, zarr
from gptjax.train import state as state_lib


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A small model of the tokenizer of bytes, as Hugging Face has it."""
    made = tmp_path_factory.mktemp('source') / 'model'
    arch = small.arch('qwen2', V=264)
    params = jax.tree.map(lambda x: np.nan_to_num(x, posinf=1.0), small.params(arch))
    huggingface.save(
        arch,
        params,
        made,
        text_table.make(lambda: [], name='bytes'),
        settings={'bos_token_id': 256, 'eos_token_id': 260, 'pad_token_id': 258},
        generation={'eos_token_id': [260, 256], 'temperature': 0.6},
        files={'README.md': '---\nlicense: mit\n---\nhello\n'},
    )
    return made


@pytest.fixture(scope='module')
def imported(folder):
    made = folder.parent / 'imported'
    workdir.import_model(folder, made)
    return made


def run(*argv):
    """The exit code of python -m gptjax.exchange."""
    before = sys.argv
    sys.argv = ['gptjax.exchange', *map(str, argv)]
    try:
        runpy.run_module('gptjax.exchange', run_name='__main__', alter_sys=True)
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return 0


def test_an_imported_workdir_is_like_a_trained_one(folder, imported):
    arch, params = huggingface.load(folder)
    trained = build.load(imported)
    assert (trained.model.arch, trained.step) == (arch, 0)
    jax.tree.map(np.testing.assert_array_equal, trained.params, params)
    text = 'as it was'
    assert trained.tokenizer.encode(text) == tokenizers.read(folder).encode(text)
    with pytest.raises(command.UserError, match='imported weights and no dataset'):
        build.dataset_of(trained)


def test_large_parameters_are_cut_into_files(folder, imported, monkeypatch):
    """As all are that are larger than a file is to be; the last piece is padded."""
    monkeypatch.setattr(zarr, '_CHUNK', 1000)
    workdir.import_model(folder, folder.parent / 'pieces')
    state = folder.parent / 'pieces' / 'checkpoints' / '00000000' / 'state' / 'params'
    assert len(list((state / 'tokens').iterdir())) > 20
    jax.tree.map(
        np.testing.assert_array_equal,
        build.load(folder.parent / 'pieces').params,
        build.load(imported).params,
    )


def test_a_damaged_import_is_noticed(folder, tmp_path):
    workdir.import_model(folder, tmp_path / 'w')
    state = tmp_path / 'w' / 'checkpoints' / '00000000' / 'state'
    path = state / 'params' / 'tokens' / '0.0'
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(command.UserError, match=r'no checkpoint .* is whole'):
        build.load(tmp_path / 'w')


def test_an_import_is_exported_as_it_was(folder, imported, tmp_path):
    workdir.export_model(imported, tmp_path / 'out')
    for path in folder.iterdir():
        if path.name != 'README.md':
            assert (tmp_path / 'out' / path.name).read_bytes() == path.read_bytes()
    card = (tmp_path / 'out' / 'README.md').read_text()
    assert card.startswith('---\nlicense: "mit"\n')
    for said in ('pipeline_tag: "text-generation"', '| imported weights | mit'):
        assert said in card


def test_each_device_of_a_mesh_reads_its_part(folder):
    mesh = sharding.make(2, 2, 2, 'fsdp_tensor')
    _, split = huggingface.load(folder, mesh)
    _, whole = huggingface.load(folder)
    jax.tree.map(np.testing.assert_array_equal, split, whole)
    query = split['blocks']['attention']['query']
    assert query.shape == (2, 24, 6, 10)
    assert query.addressable_data(0).shape == (2, 12, 3, 10)


def test_training_goes_on_the_same_after_export_and_import(tmp_path):
    """Ten steps, out, in, and the next step: its loss is that of no detour."""
    (tmp_path / 'text.txt').write_text(tiny_config.text())
    config = tiny_config.get_config()
    config.data.path = str(tmp_path / 'text.txt')
    config.steps = config.checkpoint.every = config.eval.every = 10
    config.model.L = config.compute.scan_unroll = 1
    assert loop.train(build.build(config, tmp_path / 'a'))
    workdir.export_model(tmp_path / 'a', tmp_path / 'folder')
    workdir.import_model(tmp_path / 'folder', tmp_path / 'b')

    config.model = {'init_from': str(tmp_path / 'b'), 'dropout': 0.0}
    run = build.build(config, tmp_path / 'next')
    batch = tiny.packed_batch(2, run.model.arch)
    terms = jax.jit(lambda params: run.loss_fn(params, {}, batch, None).terms)
    before = terms(build.load(tmp_path / 'a').params)
    after = terms(run.start_params())
    jax.tree.map(np.testing.assert_array_equal, before, after)
    card = (tmp_path / 'folder' / 'README.md').read_text()
    assert 'CC0-1.0' in card
    assert 'held-out rows of the training data, step 10' in card


def test_what_begins_with_imported_weights_says_so(imported, tmp_path):
    begun = {'model': {'init_from': str(imported)}}
    for config in ({'imported': {'source': 'x'}}, begun):
        assert workdir.origin_of(config)['source']
    assert workdir.origin_of({'model': {'init_from': str(tmp_path)}}) == {}
    assert workdir.origin_of({'model': {'V': 5}}) == {}


def test_imported_weights_are_no_run_to_go_on_with(imported):
    manifest, _ = start.saved(imported)
    nothing = state_lib.State(None, None, {}, None, {})
    with pytest.raises(command.UserError, match=r'model.init_from'):
        checkpoint.Checkpoints(imported, keep=1).restore(manifest, nothing, nothing)


def test_an_export_that_fails_leaves_nothing(imported, tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface, 'write_json', fail)
    with pytest.raises(KeyboardInterrupt):
        workdir.export_model(imported, tmp_path / 'out')
    assert not list(tmp_path.iterdir())


def test_command_line(folder, imported, tmp_path, capsys):
    made = tmp_path / 'made'
    assert run('import', f'--source={folder}', f'--workdir={made}') == 0
    out = tmp_path / 'out'
    flags = (f'--workdir={made}', f'--output={out}')
    assert run('export', *flags, '--dtype=bfloat16') == 0
    assert 'bfloat16, rounded from float32' in (out / 'README.md').read_text()
    capsys.readouterr()
    for argv, message in (
        (('export', *flags), f'{out} is not empty'),
        (('import', f'--source={folder}', f'--workdir={made}'), 'is not empty'),
        (
            ('import', '--source=nowhere', f'--workdir={tmp_path}/x'),
            'no folder or file',
        ),
        (
            ('import', f'--source={made}', f'--workdir={tmp_path}/x'),
            'holds no model.safetensors',
        ),
        (('export', f'--workdir={out}', f'--output={tmp_path}/x'), 'no checkpoint yet'),
        (
            (
                'export',
                f'--workdir={made}',
                f'--output={tmp_path}/x',
                '--format=llama2c',
            ),
            'llama2.c has no tokenizer',
        ),
    ):
        assert run(*argv) == 2
        assert message in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ['made', 'out']


def test_the_weights_in_an_export_are_those_of_the_checkpoint(imported, tmp_path):
    workdir.export_model(imported, tmp_path / 'out')
    embedding = load_file(tmp_path / 'out' / 'model.safetensors')
    np.testing.assert_array_equal(
        embedding['model.embed_tokens.weight'], build.load(imported).params['tokens']
    )


def test_the_names_of_classes_come_in_and_go_out(folder, tmp_path):
    arch = small.arch('qwen2', {'kind': 'classes', 'classes': 3}, V=264)
    names = family.names_of_labels(['bad', 'fair', 'good'])
    huggingface.save(
        arch,
        small.params(arch),
        tmp_path / 'in',
        text_table.make(lambda: [], name='bytes'),
        settings=names,
    )
    workdir.import_model(tmp_path / 'in', tmp_path / 'workdir')
    assert build.load(tmp_path / 'workdir').labels == ['bad', 'fair', 'good']
    workdir.export_model(tmp_path / 'workdir', tmp_path / 'out')
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert {name: config[name] for name in names} == names


@pytest.mark.parametrize(
    ('control', 'pad', 'noted'),
    [(tokenizer_lib.CONTROL, 256, ''), (('<|endoftext|>',), 256, 'no token for padd')],
)
def test_padding_of_a_classifier_that_decodes(control, pad, noted, tmp_path, capsys):
    """The one that the tokenizer pads with, else what ends a text, and a note."""
    arch = small.arch('gpt2', {'kind': 'classes', 'classes': 5}, V=264)
    words = byte_level.Bytes(control)
    settings = {'pad_token_id': None, 'eos_token_id': frames.end(words)}
    params = small.params(arch)
    huggingface.save(arch, params, tmp_path / 'a', words, settings=settings)
    config = json.loads((tmp_path / 'a/config.json').read_text())
    assert config['pad_token_id'] == pad
    assert noted in capsys.readouterr().err


def test_generation_that_is_not_done_here_is_said(folder, tmp_path, capsys):
    other = tmp_path / 'in'
    shutil.copytree(folder, other)
    settings = {'num_beams': 4, 'no_repeat_ngram_size': 0, 'bad_words_ids': [[7]]}
    (other / 'generation_config.json').write_text(json.dumps(settings))
    workdir.import_model(other, tmp_path / 'workdir')
    said = capsys.readouterr().err
    assert 'no num_beams=4, bad_words_ids=[[7]], which' in said
    assert 'ngram' not in said
