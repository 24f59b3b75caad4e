"""Every family through a folder of Hugging Face and back, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import small

from gptjax import command
from gptjax.exchange import huggingface, table, tables
from gptjax.exchange.families import family as family_lib
from gptjax.model import config

CASES = [(name, head) for name, heads in small.HEADS.items() for head in heads]
LINEAR = config.Positions('rotary', base=5e5, scaling='linear', factor=4.0)
LLAMA3 = config.Positions('rotary', 0, 5e5, 'llama3', 8.0, 1.5, 4.0, 8192)
VARIANTS = [
    ('llama', {'attention_bias': 'all', 'mlp_bias': True}),
    ('llama', {'positions': LINEAR}),
    ('llama', {'positions': LLAMA3}),
    ('mistral', {'windows': (0,)}),
    ('qwen2', {'windows': (0, 7), 'L': 4}),
    ('qwen2', {'windows': (0, 0, 7)}),
    ('qwen3', {'attention_bias': 'all', 'windows': (7,)}),
    ('mixtral', {'windows': (7,)}),
    ('bert', {'causal': True}),
    ('roberta', {'causal': True, 'types': 3}),
    ('gpt2', {'activation': 'relu'}),
    ('bart', {'scale_embedding': True}),
]


def bits_equal(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert a.shape == b.shape
        np.testing.assert_array_equal(
            np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32)
        )


def saved(folder, family='llama', head=None, **changes):
    arch = small.arch(family, head, **changes)
    params = small.params(arch)
    huggingface.save(arch, params, folder)
    return arch, params


def edit(folder, **changes):
    """Changes config.json; a value of ... takes a setting away."""
    path = folder / 'config.json'
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not ...}))


def retensor(folder, change):
    """Changes the tensors of a folder, by a function on their dictionary."""
    path = folder / 'model.safetensors'
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(('family', 'head'), CASES, ids=lambda value: str(value))
def test_a_folder_comes_back_bit_for_bit(family, head, tmp_path):
    arch, params = saved(tmp_path / 'a', family, head)
    back, again = huggingface.load(tmp_path / 'a')
    bits_equal(again, params)
    assert huggingface.config_of(back) == huggingface.config_of(arch)
    huggingface.save(back, again, tmp_path / 'b')
    for name in ('model.safetensors', 'config.json'):
        assert (tmp_path / 'a' / name).read_bytes() == (
            tmp_path / 'b' / name
        ).read_bytes()


@pytest.mark.parametrize(('family', 'changes'), VARIANTS, ids=lambda value: str(value))
def test_settings_come_back(family, changes, tmp_path):
    arch, params = saved(tmp_path / 'a', family, **changes)
    back, again = huggingface.load(tmp_path / 'a')
    bits_equal(again, params)
    assert [back.window(i) for i in range(back.L)] == [
        arch.window(i) for i in range(arch.L)
    ]
    ours, theirs = (
        dataclasses.replace(one, windows=(0,), init_std=0.0, dropout=0.0)
        for one in (arch, back)
    )
    if arch.norms.kind == 'rms':
        norms = dataclasses.replace(arch.norms, bias=back.norms.bias)
        ours = dataclasses.replace(ours, norms=norms)
    if arch.experts:
        ours = dataclasses.replace(ours, experts=back.experts)
    assert ours == theirs


def test_every_entry_of_a_table_is_used():
    archs = [(name, small.arch(name, head)) for name, head in CASES]
    archs += [(name, small.arch(name, **changes)) for name, changes in VARIANTS]
    known, used = set(), set()
    for name, arch in archs:
        entries = table.FAMILIES[name].table(arch)
        known |= set(entries)
        used |= set(tables.present(entries, tables.leaves(arch)))
    assert known == used


@pytest.mark.parametrize('family', sorted(table.ALONE))
def test_families_without_a_class_are_not_exported(family, tmp_path):
    arch = small.arch(family)
    with pytest.raises(command.UserError, match=f'{family!r} cannot be exported'):
        huggingface.save(arch, {}, tmp_path / 'a')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('family', 'changes', 'named'),
    [
        ('gpt2', {'attention_bias': 'none'}, "attention_bias='none'"),
        ('gpt2', {'K': 1}, 'K=1'),
        ('llama', {'windows': (0, 7)}, r'windows=\(0, 7\)'),
        ('llama', {'activation': 'silu'}, "activation='silu'"),
        ('mistral', {'attention_bias': 'qkv'}, "attention_bias='qkv'"),
        ('qwen2', {'windows': (3, 7)}, r'windows=\(3, 7\)'),
        ('bert', {'H': 10}, 'H=10'),
        ('bart', {'types': 2}, 'types=2'),
        ('gpt2', {'head': config.Head(soft_cap=30.0)}, 'head.soft_cap=30.0'),
        ('gpt2', {'head': config.Head('value')}, "head 'value'"),
        ('llama', {'scale_embedding': True}, 'scale_embedding=True'),
        ('mixtral', {'experts': None}, 'no experts'),
    ],
)
def test_what_a_family_lacks_is_named(family, changes, named):
    with pytest.raises(command.UserError, match=named):
        huggingface.config_of(dataclasses.replace(small.arch(family), **changes))


@pytest.mark.parametrize(
    ('family', 'changes', 'message'),
    [
        ('gpt2', {'model_type': 'gptx'}, "unknown model_type of config.json 'gptx'"),
        ('gpt2', {'model_type': ...}, 'model_type of config.json is None'),
        ('gpt2', {'architectures': ['GPT2DoubleHeadsModel']}, 'GPT2LMHeadModel'),
        ('gpt2', {'architectures': [[]]}, 'architectures of config.json'),
        ('gpt2', {'layer_norm_epsilon': -1e-5}, 'at least 0'),
        ('gpt2', {'architectures': ...}, 'architectures of config.json is None'),
        ('gpt2', {'n_embd': ...}, 'lacks n_embd'),
        ('gpt2', {'n_embd': '24'}, "n_embd of config.json is '24'"),
        ('gpt2', {'n_layer': 0}, 'n_layer of config.json is 0'),
        ('gpt2', {'n_layer': 10**7}, '10000000 layers'),
        ('gpt2', {'vocab_size': 10**7}, 'take both from one place'),
        ('gpt2', {'n_embd': 25}, '3 heads do not divide'),
        ('gpt2', {'vocab_size': 60}, r'wte.weight has \(61, 24\), not \(60, 24\)'),
        ('gpt2', {'n_layer': 1}, r'not of this model: transformer.h.1'),
        ('gpt2', {'n_layer': 3}, r'missing: transformer.h.2'),
        ('gpt2', {'scale_attn_by_inverse_layer_idx': True}, 'inverse_layer_idx'),
        ('gpt2', {'add_cross_attention': True}, 'add_cross_attention'),
        ('gpt2', {'activation_function': 'quick_gelu'}, "'quick_gelu'"),
        ('gpt2', {'layer_norm_epsilon': float('nan')}, 'a finite number'),
        ('gpt2', {'quantization_config': {'bits': 4}}, 'quantization_config'),
        ('llama', {'rope_scaling': {'rope_type': 'yarn', 'factor': 2.0}}, "'yarn'"),
        ('llama', {'rope_scaling': {'type': 'dynamic', 'factor': 2.0}}, "'dynamic'"),
        ('llama', {'rope_scaling': {'rope_type': 'linear'}}, 'lacks factor'),
        (
            'llama',
            {'rope_parameters': {'rope_theta': 1e4, 'partial_rotary_factor': 0.5}},
            'partial_rotary_factor',
        ),
        ('llama', {'rope_theta': 0.0}, 'all are above 0'),
        ('llama', {'hidden_act': 'gelu'}, 'hidden_act'),
        ('llama', {'attention_sinks': True}, 'attention_sinks=True'),
        ('llama', {'sliding_window': 5}, 'sliding_window=5'),
        ('llama', {'attention_bias': True}, 'missing: model.layers.0.self_attn.q_proj'),
        ('qwen2', {'layer_types': ['full_attention', 'linear']}, 'layer_types'),
        (
            'qwen2',
            {'layer_types': ['full_attention', 'sliding_attention']},
            'make them agree',
        ),
        ('bert', {'position_embedding_type': 'relative_key'}, 'relative_key'),
        ('bert', {'embedding_size': 12}, 'embedding_size'),
        ('roberta', {'pad_token_id': 30}, 'needs to be above'),
        ('bart', {'normalize_before': True}, 'normalize_before'),
        ('bart', {'decoder_ffn_dim': 45}, 'decoder_ffn_dim 45'),
        ('marian', {'share_encoder_decoder_embeddings': False}, 'share_encoder'),
        ('marian', {'decoder_vocab_size': 60}, 'decoder_vocab_size'),
        ('mixtral', {'num_local_experts': 6}, 'experts.5'),
    ],
)
def test_settings_that_do_not_fit_are_named(family, changes, message, tmp_path):
    saved(tmp_path / 'a', family)
    edit(tmp_path / 'a', **changes)
    with pytest.raises(command.UserError, match=message):
        huggingface.load(tmp_path / 'a')


@pytest.mark.parametrize(
    ('family', 'changes', 'fields'),
    [
        # As version 5 writes rotary positions, and as version 4 did.
        (
            'llama',
            {
                'rope_theta': ...,
                'rope_scaling': ...,
                'rope_parameters': {'rope_type': 'default', 'rope_theta': 7e5},
            },
            {'positions': config.Positions('rotary', base=7e5)},
        ),
        (
            'llama',
            {'rope_theta': 7e5, 'rope_scaling': {'type': 'linear', 'factor': 2}},
            {
                'positions': config.Positions(
                    'rotary', base=7e5, scaling='linear', factor=2.0
                )
            },
        ),
        ('llama', {'rope_theta': ...}, {'positions': config.Positions('rotary')}),
        (
            'mixtral',
            {'rope_theta': ...},
            {'positions': config.Positions('rotary', 0, 1e6)},
        ),
        ('mistral', {'sliding_window': ...}, {'windows': (4096,)}),
        ('mistral', {'sliding_window': None}, {'windows': (0,)}),
        (
            'qwen2',
            {
                'layer_types': ...,
                'use_sliding_window': True,
                'sliding_window': 9,
                'max_window_layers': 1,
            },
            {'windows': (0, 9)},
        ),
        (
            'qwen2',
            {'layer_types': ..., 'use_sliding_window': False, 'sliding_window': 9},
            {'windows': (0,)},
        ),
        ('gpt2', {'torch_dtype': 'float16', 'n_inner': 44, 'summary_type': 'x'}, {}),
        ('bart', {'torch_dtype': 'float32', 'normalize_before': False}, {}),
        ('gpt2', {'unheard_of': None, 'switched_off': False}, {}),
    ],
)
def test_settings_of_old_and_new_versions(family, changes, fields, tmp_path):
    saved(tmp_path / 'a', family)
    edit(tmp_path / 'a', **changes)
    arch = huggingface.open_folder(tmp_path / 'a').arch
    for name, value in fields.items():
        assert getattr(arch, name) == value


@pytest.mark.parametrize('family', ['gpt2', 'bert', 'llama', 'bart'])
def test_the_prefix_of_names_may_be_absent(family, tmp_path):
    _, params = saved(tmp_path / 'a', family)
    prefix = table.FAMILIES[family].prefix

    def strip(tensors):
        for name in [n for n in tensors if n.startswith(prefix)]:
            tensors[name.removeprefix(prefix)] = tensors.pop(name)

    retensor(tmp_path / 'a', strip)
    bits_equal(huggingface.load(tmp_path / 'a')[1], params)


def test_names_of_old_versions_are_read(tmp_path):
    _, params = saved(tmp_path / 'a', 'bert', {'kind': 'pretraining', 'pooler': True})

    def age(tensors):
        for name in [n for n in tensors if 'LayerNorm' in n]:
            old = name.replace('weight', 'gamma').replace('bias', 'beta')
            tensors[old] = tensors.pop(name)
        embedding = tensors['bert.embeddings.word_embeddings.weight']
        tensors['cls.predictions.decoder.weight'] = embedding.copy()
        tensors['cls.predictions.decoder.bias'] = tensors['cls.predictions.bias'].copy()
        tensors['bert.embeddings.position_ids'] = np.arange(20)[None]

    retensor(tmp_path / 'a', age)
    edit(tmp_path / 'a', architectures=['BertForMaskedLM'])  # as Google's files say
    arch, again = huggingface.load(tmp_path / 'a')
    assert arch.head.kind == 'pretraining'
    bits_equal(again, params)


def test_buffers_of_old_gpt2_are_left_out(tmp_path):
    _, params = saved(tmp_path / 'a', 'gpt2')

    def age(tensors):
        for layer in range(2):
            mask = np.tril(np.ones((1, 1, 20, 20), np.uint8))
            tensors[f'transformer.h.{layer}.attn.bias'] = mask
            tensors[f'transformer.h.{layer}.attn.masked_bias'] = np.full(
                (1,), -1e4, 'f4'
            )
        tensors['lm_head.weight'] = tensors.pop('transformer.wte.weight')

    retensor(tmp_path / 'a', age)  # the one copy of the embedding under its other name
    bits_equal(huggingface.load(tmp_path / 'a')[1], params)


def sines(T, D):
    """The published formula: even channels first, then the odd ones."""
    angles = [[t / 10000 ** (2 * (i // 2) / D) for i in range(D)] for t in range(T)]
    return np.concatenate(
        [np.sin(angles)[:, 0::2], np.cos(angles)[:, 1::2]], axis=1
    ).astype(np.float32)


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_sines_of_old_marian_are_left_out_if_they_are_sines(dtype, tmp_path):
    arch, params = saved(tmp_path / 'a', 'marian')
    name = 'model.decoder.embed_positions.weight'
    right = sines(arch.T, arch.D).astype(dtype)
    retensor(tmp_path / 'a', lambda t: t.update({name: right}))
    bits_equal(huggingface.load(tmp_path / 'a')[1], params)
    off = right.copy()
    off[7, 3] += 4e-6 if dtype == 'float32' else 2e-3
    for wrong in (off, right[:-1], np.full_like(right, np.nan), right.astype('i4')):
        retensor(tmp_path / 'a', lambda t, wrong=wrong: t.update({name: wrong}))
        with pytest.raises(command.UserError, match='positions of its own'):
            huggingface.load(tmp_path / 'a')


@pytest.mark.parametrize(
    ('family', 'head', 'settings', 'pad'),
    [
        ('roberta', {}, {'pad_token_id': None}, 1),
        ('roberta', {}, {'pad_token_id': 7}, 1),
        ('bart', {}, {}, 0),
        ('bart', {}, {'eos_token_id': 5}, 5),
        ('marian', {}, {'eos_token_id': [6, 5], 'pad_token_id': None}, 6),
        ('marian', {}, {'pad_token_id': 9}, 9),
        ('gpt2', {}, {'eos_token_id': 5}, None),
        ('gpt2', {'kind': 'reward'}, {'eos_token_id': 5}, 5),
        ('llama', {'kind': 'classes', 'classes': 3}, {'eos_token_id': 5}, 5),
    ],
)
def test_padding_is_named_where_a_class_needs_it(family, head, settings, pad, tmp_path):
    arch = small.arch(family, head)
    huggingface.save(arch, small.params(arch), tmp_path / 'a', settings=settings)
    assert json.loads((tmp_path / 'a/config.json').read_text())['pad_token_id'] == pad
    assert huggingface.open_folder(tmp_path / 'a').arch.positions == arch.positions


def test_a_copy_that_differs_is_no_copy(tmp_path):
    saved(tmp_path / 'a', 'gpt2')

    def add(tensors):
        head = tensors['transformer.wte.weight'].copy()
        head[-1, -1] = np.nextafter(head[-1, -1], 9, dtype=np.float32)
        tensors['lm_head.weight'] = head

    retensor(tmp_path / 'a', add)
    with pytest.raises(command.UserError, match=r'lm_head.weight and .* differ'):
        huggingface.load(tmp_path / 'a')
    edit(tmp_path / 'a', tie_word_embeddings=False)
    arch, params = huggingface.load(tmp_path / 'a')
    assert not arch.head.tied
    head, embedding = (
        np.asarray(x) for x in (params['head']['unembed'], params['tokens'])
    )
    assert (head != embedding).sum() == 1


def test_a_tensor_under_two_names_is_refused(tmp_path):
    saved(tmp_path / 'a', 'gpt2')
    retensor(
        tmp_path / 'a',
        lambda t: t.update({'wte.weight': t['transformer.wte.weight'].copy()}),
    )
    with pytest.raises(command.UserError, match=r'wte.weight twice'):
        huggingface.load(tmp_path / 'a')


def test_code_in_a_folder_is_not_run(tmp_path, capsys):
    _, params = saved(tmp_path / 'a', 'gpt2')
    (tmp_path / 'a' / 'modeling.py').write_text('raise SystemExit(3)')
    edit(tmp_path / 'a', auto_map={'AutoModel': 'modeling.GPT2LMHeadModel'})
    bits_equal(huggingface.load(tmp_path / 'a')[1], params)
    assert 'not run' in capsys.readouterr().err


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_rounded_weights_are_the_nearest(dtype, tmp_path):
    import ml_dtypes

    arch = small.arch('gpt2')
    params = jax.tree.map(lambda x: np.nan_to_num(x, posinf=9.0), small.params(arch))
    huggingface.save(arch, params, tmp_path / 'a', dtype=dtype, shard_bytes=5000)
    _, again = huggingface.load(tmp_path / 'a')
    kind = {'float16': np.float16, 'bfloat16': ml_dtypes.bfloat16}[dtype]
    bits_equal(again, jax.tree.map(lambda x: x.astype(kind).astype(np.float32), params))
    settings = json.loads((tmp_path / 'a' / 'config.json').read_text())
    assert settings['dtype'] == dtype


def test_numbers_beyond_float16_are_refused(tmp_path):
    arch = small.arch('gpt2')
    params = jax.tree.map(lambda x: np.full(x.shape, 7e4, 'f4'), small.params(arch))
    with pytest.raises(command.UserError, match='70000, which is beyond float16'):
        huggingface.save(arch, params, tmp_path / 'a', dtype='float16')
    assert not list(tmp_path.iterdir())


def test_dropouts_that_differ_are_noted(tmp_path, capsys):
    saved(tmp_path / 'a', 'gpt2')
    edit(tmp_path / 'a', resid_pdrop=0.2, attn_pdrop=0.3)
    assert huggingface.open_folder(tmp_path / 'a').arch.dropout == 0.2
    said = capsys.readouterr().err
    assert 'attn_pdrop 0.3' in said
    assert 'is 0.2 unless' in said


def test_ids_and_labels_stand_in_the_settings(tmp_path):
    """The classes' own defaults may lie beyond the vocabulary: 58,100 in Marian's."""
    saved(tmp_path / 'a', 'marian')
    settings = huggingface.read_json(tmp_path / 'a' / 'config.json')
    assert (settings['pad_token_id'], settings['decoder_start_token_id']) == (0, 0)
    arch = small.arch('roberta', {'kind': 'classes', 'classes': 2, 'pooler': True})
    named = family_lib.names_of_labels(['no', 'yes'])
    huggingface.save(
        arch, small.params(arch), tmp_path / 'b', settings=named | {'pad_token_id': 7}
    )
    settings = huggingface.read_json(tmp_path / 'b' / 'config.json')
    assert settings['id2label'] == {'0': 'no', '1': 'yes'}
    assert settings['pad_token_id'] == 1  # positions begin after it


def test_the_window_pattern_is_the_shortest():
    assert family_lib.period([0, 7, 0, 7]) == (0, 7)
    assert family_lib.period([0, 0, 7]) == (0, 0, 7)
    assert family_lib.period([5, 5]) == (5,)
