"""Adapters of PEFT against what it made of them itself (tests/golden/make_peft.py)."""

import dataclasses
import json
from pathlib import Path
import shutil

from golden import cases, folder, weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
import tiny_family

from gptjax import command, trees
from gptjax.exchange import huggingface, peft, workdir
from gptjax.model import lora, transformer
from gptjax.text import table as text_table
from gptjax.train import adapter as adapter_lib
from gptjax.train import build, host, start, zarr

GOLDEN = Path(__file__).parents[1] / 'golden'
ADAPTERS = ('gpt2', 'llama', 'llama-patterns')  # test_parity has them all


def stored(key):
    """(meta, logits) of an adapter, and the meta of its base."""
    with np.load(GOLDEN / 'peft.npz') as file:
        meta, logits = json.loads(str(file[f'{key}/meta'])), file[f'{key}/logits']
    with np.load(GOLDEN / 'families.npz') as file:
        return meta, logits, json.loads(str(file[f'{meta["base"]}/meta']))


def write(path, key, **changes):
    """The folder of a golden adapter; `changes` to its settings."""
    meta, _, _ = stored(key)
    path.mkdir()
    (path / peft.CONFIG).write_text(json.dumps(meta['config'] | changes))
    tensors = {
        name: weights.tensor(name, shape, 0)
        * np.float32(0.25 if 'lora_B' in name else 1)
        for name, shape in meta['shapes'].items()
    }
    safetensors.numpy.save_file(tensors, path / peft.WEIGHTS)
    return tensors


def based(path, key):
    """(architecture, parameters) of the base of a golden adapter."""
    _, _, base = stored(key)
    folder.write(path / 'base', base['config'], base['shapes'], 0)
    return huggingface.load(path / 'base')


@pytest.mark.parametrize('key', ADAPTERS)
def test_logits_are_those_of_peft_and_the_way_back_is_exact(key, tmp_path):
    meta, logits, _ = stored(key)
    theirs = write(tmp_path / 'adapter', key)
    arch, params = based(tmp_path, key)
    adapter = peft.read(tmp_path / 'adapter', arch)

    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    batch = {k: jnp.asarray(v) for k, v in cases.inputs(meta['base'], 0).items()}
    joined = lora.join(params, adapter.params, adapter.section.scale)

    @jax.jit
    def forward(params):
        return transformer.forward(model, params, batch)

    ours = np.asarray(forward(joined))[np.asarray(batch['segments']) > 0]
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-5)

    (tmp_path / 'out').mkdir()
    peft.write(tmp_path / 'out', arch, adapter, base_name=None)
    back = safetensors.numpy.load_file(tmp_path / 'out' / peft.WEIGHTS)
    settings = json.loads((tmp_path / 'out' / peft.CONFIG).read_text())
    assert set(back) == set(theirs)
    if key != 'llama-patterns':  # whose ranks are made one, with zeros
        for name, tensor in theirs.items():
            np.testing.assert_array_equal(back[name], tensor, strict=True)
        for name in ('r', 'lora_alpha', 'use_rslora', 'fan_in_fan_out'):
            assert settings[name] == meta['config'][name]
        assert not settings['rank_pattern']
    again = peft.read(tmp_path / 'out', arch)
    jax.tree.map(np.testing.assert_array_equal, again.params, adapter.params)
    assert again.section == adapter.section


def random_adapter(arch, R=2, seed=0, train=(), among=''):
    """An adapter of what can have one among some paths, in which nothing is 0."""
    rng = np.random.default_rng(seed)
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    flat = dict(trees.paths(tiny_family.params(model)))
    section = adapter_lib.Adapter(
        R=R,
        alpha=3.0,
        rank_stabilised=True,
        targets=[path for path in flat if lora.adaptable(path) and among in path],
        train=list(train),
        base='float32',
    )
    shapes = jax.eval_shape(
        lambda: section.start(
            transformer.abstract(model),
            tiny.sharding(),
            0,
            lambda: tiny_family.params(model),
        )
    )
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), shapes
    )
    return peft.Adapter(params, section, '')


@pytest.mark.parametrize('family', ['gpt2', 'bart'])
def test_every_matrix_of_a_family_there_and_back(family, tmp_path):
    """Queries, keys and values have factors of their own, GPT-2's too."""
    arch = tiny_family.arch(family, D=24, H=6)
    train = ['norm/scale', 'norm/bias'] if family == 'gpt2' else []
    adapter = random_adapter(arch, train=train)
    peft.write(tmp_path, arch, adapter, base_name=None)
    back = peft.read(tmp_path, arch)
    jax.tree.map(np.testing.assert_array_equal, back.params, adapter.params)
    assert set(back.section.targets) == set(adapter.section.targets)
    assert set(back.section.train) == set(train)
    settings = json.loads((tmp_path / peft.CONFIG).read_text())
    ranks = settings['rank_pattern']
    if family == 'gpt2':  # s is alpha / sqrt(r), of the blocks as of the others
        assert set(ranks.values()) == {6}
        for alpha in settings['alpha_pattern'].values():
            assert alpha / 6**0.5 == pytest.approx(3 / 2**0.5)
    else:
        assert not ranks


CHANGES = {
    'use_dora': ({'use_dora': True}, 'use_dora=True'),
    'another kind': ({'peft_type': 'IA3'}, "peft_type .* is 'IA3'"),
    'biases': ({'bias': 'all'}, "bias .* is 'all'"),
    'a beginning': ({'init_lora_weights': 'pissa'}, "is 'pissa'"),
    'layers': ({'layers_to_transform': [0]}, 'layers_to_transform'),
    'unheard of': ({'use_magic': 3}, 'use_magic=3'),
    'a pattern': ({'rank_pattern': {'(a+)+$': 2}}, 'write out'),
    'no rank': ({'r': 0}, 'r of .* is 0'),
    'another rank': ({'r': 5}, r'c_attn has factors|c_attn has \(4, 20\)'),
}


@pytest.mark.parametrize('change', CHANGES)
def test_what_is_not_done_is_refused_by_name(change, tmp_path):
    settings, said = CHANGES[change]
    write(tmp_path / 'adapter', 'gpt2', **settings)
    _, _, base = stored('gpt2')
    folder.write(tmp_path / 'base', base['config'], base['shapes'], 0)
    arch = huggingface.open_folder(tmp_path / 'base').arch
    with pytest.raises(command.UserError, match=said):
        peft.read(tmp_path / 'adapter', arch)


def test_an_adapter_for_another_base_is_refused_with_what_does_not_fit(tmp_path):
    arch = tiny_family.arch('gpt2', D=24)
    peft.write(tmp_path, arch, random_adapter(arch), base_name=None)
    with pytest.raises(command.UserError, match=r'h\.0\.attn\.c_attn.* not of this'):
        peft.read(tmp_path, tiny_family.arch('llama'))
    wide = tiny_family.arch('gpt2', D=24, F=32)
    with pytest.raises(command.UserError, match=r'mlp\.c_fc has .*\(24, 2\), not'):
        peft.read(tmp_path, wide)
    with pytest.raises(command.UserError, match=r'h\.3\.attn.* is missing'):
        peft.read(tmp_path, tiny_family.arch('gpt2', D=24, L=4))
    (tmp_path / peft.WEIGHTS).rename(tmp_path / 'adapter_model.bin')
    with pytest.raises(command.UserError, match=r'adapter_model\.bin, which can run'):
        peft.read(tmp_path, wide)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """A workdir of imported weights, with the tokenizer of bytes."""
    made = tmp_path_factory.mktemp('base')
    arch = tiny_family.arch('gpt2', V=264, D=24, L=1)
    params = tiny_family.params(transformer.make(arch, tiny.COMPUTE, tiny.sharding()))
    tokenizer = text_table.make(lambda: [], name='bytes')
    huggingface.save(arch, params, made / 'folder', tokenizer)
    workdir.import_model(made / 'folder', made / 'workdir')
    return made / 'workdir'


def test_a_workdir_of_an_adapter(base, tmp_path, capsys):
    trained = build.load(base)
    arch = trained.model.arch
    adapter = random_adapter(arch, among='blocks/attention')
    adapter = adapter._replace(base=start.digest(base))
    (tmp_path / 'theirs').mkdir()
    peft.write(tmp_path / 'theirs', arch, adapter, base_name=str(base))
    with pytest.raises(command.UserError, match='by --base=DIR'):
        workdir.import_model(tmp_path / 'theirs', tmp_path / 'ours')
    workdir.import_model(tmp_path / 'theirs', tmp_path / 'ours', base)

    # It is the base with the adapter; its factors alone are what is saved.
    loaded = build.load(tmp_path / 'ours')
    joined = lora.join(trained.params, adapter.params, 3 / 2**0.5)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, joined)
    alone, scale = start.adapters(tmp_path / 'ours', base, trained.model)
    jax.tree.map(np.testing.assert_array_equal, alone, adapter.params)
    assert scale == pytest.approx(3 / 2**0.5)

    workdir.export_model(tmp_path / 'ours', tmp_path / 'peft', 'peft')
    first, second = (tmp_path / name / peft.WEIGHTS for name in ('theirs', 'peft'))
    assert first.read_bytes() == second.read_bytes()
    card = (tmp_path / 'peft' / 'README.md').read_text()
    assert 'PeftModel' in card
    assert f'| {trees.count(adapter.params):,} ' in card, 'of the adapter alone'

    # Merged, by verb and by export: weights as they are with the factors multiplied.
    workdir.merge(tmp_path / 'ours', tmp_path / 'merged')
    merged = build.load(tmp_path / 'merged')
    flat = dict(trees.paths(trained.params))
    query = np.asarray(flat['blocks/attention/query'], np.float64)
    own = adapter.params['blocks']['attention']['query']
    down, up = (np.asarray(own[side], np.float64) for side in ('down', 'up'))
    added = np.einsum('ldr,lrnh->ldnh', down, up)
    np.testing.assert_allclose(
        merged.params['blocks']['attention']['query'],
        query + 3 / 2**0.5 * added,
        rtol=0,
        atol=1e-6,
    )
    workdir.export_model(tmp_path / 'ours', tmp_path / 'out')
    assert 'note: the adapter is merged' in capsys.readouterr().err
    _, exported = huggingface.load(tmp_path / 'out')
    jax.tree.map(np.testing.assert_array_equal, exported, merged.params)
    with pytest.raises(command.UserError, match='holds no adapter'):
        workdir.merge(tmp_path / 'merged', tmp_path / 'again')
    with pytest.raises(command.UserError, match='holds no adapter'):
        workdir.export_model(tmp_path / 'merged', tmp_path / 'again', 'peft')

    # For weights of another digest, it is refused.
    with pytest.raises(command.UserError, match='other weights than those'):
        workdir.import_model(tmp_path / 'theirs', tmp_path / 'b', tmp_path / 'merged')
    with pytest.raises(command.UserError, match='holds no adapters for the weights'):
        start.adapters(tmp_path / 'ours', tmp_path / 'merged', merged.model)


def test_the_values_of_rl_are_left_out_of_exports(base, tmp_path, capsys):
    """PPO trains a number a token beside the logits, which no class of theirs has."""
    trained = build.load(base)
    arch = trained.model.arch.with_head(values=True)
    flat = dict(trees.paths(trained.params))
    flat['head/value'] = jnp.ones((arch.D, 1))
    zarr.write_params(
        tmp_path / 'w' / 'checkpoints' / f'{0:08d}',
        flat.items(),
        dataclasses.asdict(host.Host(dataclasses.asdict(arch))),
    )
    shutil.copytree(base / 'tokenizer', tmp_path / 'w' / 'tokenizer')
    shutil.copy(base / 'config.json', tmp_path / 'w')
    workdir.export_model(tmp_path / 'w', tmp_path / 'out')
    assert 'note: head/value is left out' in capsys.readouterr().err
    before = (base.parent / 'folder' / 'model.safetensors').read_bytes()
    assert (tmp_path / 'out' / 'model.safetensors').read_bytes() == before
