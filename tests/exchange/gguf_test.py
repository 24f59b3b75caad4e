"""GGUF files read back by the library's reader, against tensors turned by hand."""

import json
import math
import sys

from flax import linen as nn
import numpy as np
import pytest
import sentencepiece
import tiny
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from gptjax import command, trees
from gptjax.exchange import gguf, vocabulary
from gptjax.model import config, table, transformer
from gptjax.text import bytes as byte_level
from gptjax.text import gpt2, huggingface, llama2c, template
from gptjax.text import sentencepiece as own

reader = pytest.importorskip('gguf')

SIZES = {'D': 24, 'F': 20, 'N': 4, 'K': 2, 'H': 6, 'L': 2, 'T': 32, 'V': 300}


def architecture(family, **changes):
    sizes = SIZES if family != 'gpt2' else SIZES | {'K': 4}
    return config.architecture(**table.preset(f'{family}-nano', **sizes | changes))


def parameters(arch):
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    tree = nn.unbox(transformer.abstract(model))
    rng = np.random.default_rng(0)
    return trees.map_with_path(
        lambda _, leaf: rng.standard_normal(leaf.shape).astype(np.float32), tree
    )


def words():
    """A tokenizer of llama2.c: the bytes, a space and a few pieces."""
    entries = [(0.0, b'<unk>'), (0.0, b'\n<s>\n'), (0.0, b'\n</s>\n')]
    entries += [(0.0, f'<0x{byte:02X}>'.encode()) for byte in range(256)]
    pieces = (b' ', b'a', b'b', b' a', 'é'.encode(), b' ab')
    entries += [(-float(i), piece) for i, piece in enumerate(pieces)]
    return llama2c.Llama2C(llama2c.written(entries))


def saved(arch, folder, params=None, tokens=None, **options):
    path = folder / 'model.gguf'
    params = parameters(arch) if params is None else params
    gguf.save(arch, params, tokens or words(), path, **options)
    assert [file.name for file in folder.iterdir()] == ['model.gguf']
    return reader.GGUFReader(path)


def tensors(file):
    return {t.name: np.array(t.data).reshape(t.shape[::-1]) for t in file.tensors}


def fields(file):
    return {
        name: field.contents()
        for name, field in file.fields.items()
        if not name.startswith('GGUF.')
    }


def pairs(weight_DNH):
    """Rows of heads in interleaved pairs: row 2 i + p is channel i + p H / 2."""
    _, N, H = weight_DNH.shape
    rows = [
        weight_DNH[:, n, i + p * H // 2]
        for n in range(N)
        for i in range(H // 2)
        for p in range(2)
    ]
    return np.stack(rows)


def halves(weight_DNH):
    return weight_DNH.reshape(len(weight_DNH), -1).T


def expected(arch, params):
    """The tensors of a decoder, written out one by one."""
    blocks = params['blocks']
    wanted = {
        'token_embd.weight': params['tokens'],
        'output_norm.weight': params['norm']['scale'],
    }
    if not arch.head.tied:
        wanted['output.weight'] = params['head']['unembed']
    if arch.family == 'gpt2':
        wanted['position_embd.weight'] = params['positions']
        wanted['output_norm.bias'] = params['norm']['bias']
    turned = pairs if arch.family in ('llama', 'mistral', 'mixtral') else halves
    for layer in range(arch.L):
        for name, array in block(arch, blocks, layer, turned).items():
            wanted[f'blk.{layer}.{name}'] = array
    return wanted


def block(arch, blocks, l, turned):  # noqa: E741
    attention = {name: leaf[l] for name, leaf in blocks['attention'].items()}
    made = {
        'attn_norm.weight': blocks['attention_norm']['scale'][l],
        'ffn_norm.weight': blocks['mlp_norm']['scale'][l],
        'attn_output.weight': attention['out'].reshape(-1, arch.D).T,
    }
    qkv = [
        turned(attention['query']),
        turned(attention['key']),
        halves(attention['value']),
    ]
    if arch.family == 'gpt2':
        made['attn_qkv.weight'] = np.concatenate(qkv)
        biases = [
            attention[f'{name}_bias'].ravel() for name in ('query', 'key', 'value')
        ]
        made['attn_qkv.bias'] = np.concatenate(biases)
        made['attn_output.bias'] = attention['out_bias']
        made['attn_norm.bias'] = blocks['attention_norm']['bias'][l]
        made['ffn_norm.bias'] = blocks['mlp_norm']['bias'][l]
        made['ffn_up.bias'] = blocks['mlp']['up_bias'][l]
        made['ffn_down.bias'] = blocks['mlp']['down_bias'][l]
    else:
        made |= zip_named('attn_{}.weight', 'qkv', qkv)
    if arch.family == 'qwen2':
        biases = [
            attention[f'{name}_bias'].ravel() for name in ('query', 'key', 'value')
        ]
        made |= zip_named('attn_{}.bias', 'qkv', biases)
    if arch.family == 'qwen3':
        norms = [attention['query_norm'], attention['key_norm']]
        made |= zip_named('attn_{}_norm.weight', 'qk', norms)
    if arch.experts:
        experts = {name: leaf[l] for name, leaf in blocks['experts'].items()}
        made['ffn_gate_inp.weight'] = experts['router'].T
        for name in ('gate', 'up', 'down'):
            stacked = np.stack([expert.T for expert in experts[name]])
            made[f'ffn_{name}_exps.weight'] = stacked
    else:
        for name in ('gate', 'up', 'down'):
            if name in blocks['mlp']:
                made[f'ffn_{name}.weight'] = blocks['mlp'][name][l].T
    return made


def zip_named(pattern, names, arrays):
    return {pattern.format(n): a for n, a in zip(names, arrays, strict=True)}


FAMILIES = ('llama', 'mistral', 'mixtral', 'qwen2', 'qwen3', 'gpt2')


@pytest.mark.parametrize('family', FAMILIES)
def test_tensors_are_exact(family, tmp_path):
    arch = architecture(family)
    params = parameters(arch)
    found, wanted = tensors(saved(arch, tmp_path, params)), expected(arch, params)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_sizes_and_settings(tmp_path):
    experts = {'E': 5, 'k': 3, 'balance': 0.0, 'z': 0.0}
    arch = architecture(
        'mixtral', windows=(0, 12), positions={'base': 5e5}, experts=experts
    )
    found = fields(saved(arch, tmp_path, name='Tales', license='MIT'))
    assert {key: found[key] for key in found if not key.startswith('tokenizer.')} == {
        'general.architecture': 'llama',
        'general.file_type': 0,
        'general.name': 'Tales',
        'general.license': 'MIT',
        'llama.context_length': 12,  # from there on a window would hide tokens
        'llama.embedding_length': 24,
        'llama.block_count': 2,
        'llama.feed_forward_length': 20,
        'llama.attention.head_count': 4,
        'llama.attention.head_count_kv': 2,
        'llama.attention.layer_norm_rms_epsilon': pytest.approx(1e-5, rel=1e-7),
        'llama.attention.key_length': 6,
        'llama.attention.value_length': 6,
        'llama.attention.sliding_window': 12,
        'llama.vocab_size': 300,
        'llama.rope.dimension_count': 6,
        'llama.rope.freq_base': 5e5,
        'llama.expert_count': 5,
        'llama.expert_used_count': 3,
    }


def test_settings_of_gpt2(tmp_path):
    found = fields(saved(architecture('gpt2'), tmp_path))
    assert found['general.architecture'] == 'gpt2'
    assert found['gpt2.context_length'] == 32
    assert found['gpt2.attention.layer_norm_epsilon'] == pytest.approx(1e-5, rel=1e-7)
    assert not [key for key in found if 'rope' in key or 'rms' in key]


def test_llama3_scaling_is_a_tensor_of_factors(tmp_path):
    scaling = {
        'base': 1e4, 'scaling': 'llama3', 'factor': 8.0, 'low': 1.0, 'high': 4.0,
        'original': 64,
    }  # fmt: skip
    arch = architecture('llama', H=12, positions=scaling)
    factors = tensors(saved(arch, tmp_path))['rope_freqs.weight']
    for i, factor in enumerate(factors):
        wavelength = 2 * math.pi * 1e4 ** (2 * i / 12)
        if wavelength < 64 / 4:
            wanted = 1
        elif wavelength > 64:
            wanted = 8
        else:
            smooth = (64 / wavelength - 1) / (4 - 1)
            wanted = 1 / ((1 - smooth) / 8 + smooth)
        assert factor == pytest.approx(wanted, rel=1e-6)
    assert factors[0] == 1
    assert 1 < factors[1] < 8
    assert factors[-1] == 8


def test_linear_scaling_is_a_setting(tmp_path):
    arch = architecture('qwen2', positions={'scaling': 'linear', 'factor': 4.0})
    found = fields(saved(arch, tmp_path))
    assert found['qwen2.rope.scaling.type'] == 'linear'
    assert found['qwen2.rope.scaling.factor'] == 4


def test_float16_rounds_matrices_alone(tmp_path):
    arch = architecture('mixtral')
    params = parameters(arch)
    file = saved(arch, tmp_path, params, dtype='float16')
    assert fields(file)['general.file_type'] == 1
    found = tensors(file)
    for name, array in expected(arch, params).items():
        full = array.ndim == 1 or 'gate_inp' in name
        assert found[name].dtype == (np.float32 if full else np.float16)
        np.testing.assert_array_equal(found[name], array.astype(found[name].dtype))


def test_too_large_for_float16_is_named(tmp_path):
    arch = architecture('llama')
    params = parameters(arch)
    params['blocks']['mlp']['up'][1, 2, 3] = 7e4
    with pytest.raises(command.UserError, match=r'blk.1.ffn_up.weight .* 7e\+04'):
        gguf.save(arch, params, words(), tmp_path / 'x.gguf', dtype='float16')
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('family', sorted(gguf.REFUSED))
def test_families_without_an_equal_are_refused(family, tmp_path):
    arch = config.architecture(**table.preset(f'{family}-nano'))
    with pytest.raises(command.UserError, match=f'no equal of the {family} family'):
        gguf.save(arch, {}, words(), tmp_path / 'x.gguf')


def test_every_family_is_written_or_refused():
    assert {*gguf.KINDS, *gguf.REFUSED} == {*table.FAMILIES}


@pytest.mark.parametrize(
    ('family', 'changes', 'message'),
    [
        ('llama', {'norms': {'query_key': True}}, 'model.norms.query_key is True'),
        ('llama', {'activation': 'gelu'}, 'model.activation is gelu'),
        ('qwen3', {'norms': {'query_key': False}}, 'model.norms.query_key is False'),
        ('qwen2', {'positions': {'scaling': 'llama3'}}, 'scaling is llama3, not none'),
        ('qwen2', {'mlp_bias': True}, 'model.mlp_bias is True'),
        ('gpt2', {'windows': (4, 0)}, r'model.windows is \(4, 0\)'),
        ('gpt2', {'H': 8}, 'model.H is 8, not 6'),
        ('gpt2', {'head': {'kind': 'reward'}}, 'model.head.kind is reward'),
    ],
)
def test_settings_without_an_equal_are_named(family, changes, message, tmp_path):
    with pytest.raises(command.UserError, match=message):
        gguf.save(architecture(family, **changes), {}, words(), tmp_path / 'x.gguf')


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gguf', None)
    with pytest.raises(command.UserError, match=r"pip install 'gptjax\[gguf\]'"):
        gguf.save(architecture('llama'), {}, words(), tmp_path / 'x.gguf')


def test_words_of_a_real_model_are_those_of_sentencepiece(real_data, tmp_path):
    """tok512.bin and tok512.model are one tokenizer in two formats."""
    tokens = llama2c.Llama2C(real_data('stories260K/tok512.bin').read_bytes())
    library = sentencepiece.SentencePieceProcessor(
        model_file=str(real_data('stories260K/tok512.model'))
    )
    found = fields(saved(architecture('llama', V=520), tmp_path, tokens=tokens))
    ids = range(512)
    pieces = [library.id_to_piece(token) for token in ids]
    assert found['tokenizer.ggml.tokens'] == [
        *pieces,
        *(f'[PAD{i}]' for i in range(512, 520)),
    ]
    assert found['tokenizer.ggml.scores'][:512] == [library.get_score(i) for i in ids]
    kinds = [
        2 if library.is_unknown(i) else 3 if library.is_control(i)
        else 6 if library.is_byte(i) else 1
        for i in ids
    ]  # fmt: skip
    assert found['tokenizer.ggml.token_type'] == kinds + [5] * 8
    rest = {
        'tokenizer.ggml.model': 'llama',
        'tokenizer.ggml.pre': 'default',
        'tokenizer.ggml.bos_token_id': 1,
        'tokenizer.ggml.eos_token_id': 2,
        'tokenizer.ggml.unknown_token_id': 0,
        'tokenizer.ggml.add_bos_token': True,
        'tokenizer.ggml.add_eos_token': False,
        'tokenizer.ggml.add_space_prefix': True,
    }
    assert {key: found.get(key) for key in rest} == rest


def trained(kind):
    texts = ['the cat sat on the mat, and the hat\n'] * 60
    return own.SentencePiece.make(lambda: texts, model_type=kind, vocab_size=290)


def test_words_of_our_sentencepiece(tmp_path):
    tokens = trained('bpe')
    made = vocabulary.of(tokens, 300)
    assert made.model == 'llama'
    assert made.pieces.index('<|end|>') < made.pieces.index('<0x00>')
    assert made.kinds[made.pieces.index('<|end|>')] == vocabulary.CONTROL
    assert made.kinds[made.pieces.index('<0x00>')] == vocabulary.BYTE
    assert made.kinds[made.pieces.index('\u2581the')] == vocabulary.NORMAL
    found = fields(saved(architecture('llama'), tmp_path, tokens=tokens))
    assert found['tokenizer.chat_template'] == template.OURS
    assert found['tokenizer.ggml.bos_token_id'] == tokens.control['<|endoftext|>']
    assert found['tokenizer.ggml.eos_token_id'] == tokens.control['<|endoftext|>']
    assert found['tokenizer.ggml.eot_token_id'] == tokens.control['<|end|>']
    assert found['tokenizer.ggml.add_bos_token'] is True
    assert found['tokenizer.ggml.add_space_prefix'] is False
    with pytest.raises(command.UserError, match='unigram kind'):
        vocabulary.of(trained('unigram'), 300)


def byte_bpe(stage, **options):
    """A pipeline of the tokenizers library, with five merges."""
    merges = [('t', 'h'), ('th', 'e'), ('Ġ', 'the'), ('a', 'n'), ('Ġ', 'an')]
    written = sorted(gpt2.printable())
    vocab = {piece: i for i, piece in enumerate([*written, *map(''.join, merges)])}
    made = tokenizers.Tokenizer(models.BPE(vocab, merges, **options))
    made.pre_tokenizer = stage
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(['<|end|>'])
    made.add_tokens(['<tool>'])
    settings = {'eos_token': '<|end|>', 'chat_template': '{{ messages }}'}
    return huggingface.HuggingFace(
        {
            'tokenizer.json': made.to_str().encode(),
            'tokenizer_config.json': json.dumps(settings).encode(),
        }
    )


def split(pattern):
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cut = pre_tokenizers.Split(tokenizers.Regex(pattern), 'isolated')
    return pre_tokenizers.Sequence([cut, level])


# As tokenizer.json of Llama 3 and Qwen 2 have them.
CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
OTHERS = r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
NAMED = {
    'gpt-2': (pre_tokenizers.ByteLevel(add_prefix_space=False), {}),
    'qwen2': (split(CONTRACTED + r'\p{N}' + OTHERS), {}),
    'llama-bpe': (
        split(CONTRACTED + r'\p{N}{1,3}' + OTHERS),
        {'ignore_merges': True},
    ),
}


@pytest.mark.parametrize('pre', NAMED)
def test_words_of_byte_level_bpe(pre, tmp_path):
    stage, options = NAMED[pre]
    tokens = byte_bpe(stage, **options)
    found = fields(saved(architecture('qwen2', V=270), tmp_path, tokens=tokens))
    found = {key.removeprefix('tokenizer.'): value for key, value in found.items()}
    assert (found['ggml.model'], found['ggml.pre']) == ('gpt2', pre)
    assert found['ggml.merges'] == ['t h', 'th e', 'Ġ the', 'a n', 'Ġ an']
    assert found['ggml.tokens'][256:264] == [
        'th', 'the', 'Ġthe', 'an', 'Ġan', '<|end|>', '<tool>', '[PAD263]',
    ]  # fmt: skip
    assert found['ggml.token_type'] == [1] * 261 + [3, 4] + [5] * 7
    assert found['ggml.eos_token_id'] == 261
    assert found['ggml.add_bos_token'] is False
    assert found['chat_template'] == '{{ messages }}'
    assert 'ggml.scores' not in found


@pytest.mark.parametrize(
    ('stage', 'options'),
    [
        (split(r'\w+|\W+'), {}),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), {}),
        (NAMED['llama-bpe'][0], {}),
    ],
)
def test_a_pattern_without_a_name_is_refused(stage, options):
    with pytest.raises(command.UserError, match='no tokenizer like this'):
        vocabulary.of(byte_bpe(stage, **options), 300)


def character_bpe(space, before):
    """A pipeline over characters with bytes, as Llama 2 has; three merges."""
    merges = [(space, 'a'), ('b', 'c'), (f'{space}a', 'bc')]
    vocab = {'<unk>': 0, '<s>': 1, '</s>': 2}
    vocab |= {f'<0x{byte:02X}>': 3 + byte for byte in range(256)}
    for piece in (space, 'a', 'b', 'c', *map(''.join, merges)):
        vocab[piece] = len(vocab)
    made = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token='<unk>', byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence(before)
    made.add_special_tokens(['<unk>', '<s>', '</s>'])
    return huggingface.HuggingFace({'tokenizer.json': made.to_str().encode()})


@pytest.mark.parametrize('space', ['\u2581', ' '])
def test_words_of_character_bpe_merge_in_order(space):
    before = [normalizers.Prepend(space), normalizers.Replace(' ', '\u2581')]
    found = vocabulary.of(character_bpe(space, before), 266)
    assert found.model == 'llama'
    assert found.kinds == (2, 3, 3) + (6,) * 256 + (1,) * 7
    assert found.pieces[-3:] == ('\u2581a', 'bc', '\u2581abc')
    assert found.scores[-3:] == (0, -1, -2)
    assert set(found.scores[:-3]) == {-3.0}


def test_a_normalizer_that_changes_text_is_refused():
    for before in (normalizers.Lowercase(), normalizers.Replace('a', '\u2581')):
        with pytest.raises(command.UserError, match='changes text'):
            vocabulary.of(character_bpe('\u2581', [before]), 266)


def test_tokenizers_without_an_equal_are_refused():
    with pytest.raises(command.UserError, match='no merges'):
        vocabulary.of(byte_level.Bytes(), 300)
    with pytest.raises(command.UserError, match='has 265 ids, and the model 264'):
        vocabulary.of(words(), 264)
