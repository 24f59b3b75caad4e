"""Files of llama2.c, against a real one, what llama2.c prints for it, and damage."""

import json
from pathlib import Path
import struct

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments.benchmarks import _bins
from gptjax import command, trees
from gptjax.exchange import llama2c, workdir
from gptjax.generate import engine
from gptjax.model import config, gpt, transformer
from gptjax.model.families import llama
from gptjax.train import build

GOLDEN = json.loads(
    (Path(__file__).parents[1] / 'golden' / 'stories260k.json').read_text()
)


def architecture(**changes):
    fields = {
        'family': 'llama',
        'T': 9, 'V': 21, 'D': 12, 'F': 10, 'N': 2, 'K': 1, 'H': 6, 'L': 3,
        'dropout': 0.0, 'init_std': 0.02,
        'norms': {'kind': 'rms', 'eps': 1e-5},
        'positions': {'kind': 'rotary'}, 'head': {'tied': False},
        'activation': 'swiglu', 'attention_bias': 'none', 'mlp_bias': False,
    }  # fmt: skip
    return config.architecture(**fields | changes)


def make(arch):
    return transformer.make(arch, tiny.COMPUTE, tiny.sharding())


def parameters(arch):
    rng = np.random.default_rng(0)
    tree = nn.unbox(transformer.abstract(make(arch)))
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), tree
    )


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """A file of version 0 with its own classifier, and the parameters in it."""
    path = tmp_path_factory.mktemp('llama2c') / 'small.bin'
    params = parameters(architecture())
    llama2c.save(architecture(), params, path)
    return path, params


def equal(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for (name, left), (_, right) in zip(
        trees.paths(tree), trees.paths(other), strict=True
    ):
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes(), name


def test_a_real_file_is_read_as_its_layout_says(real_data):
    path = real_data('stories260K/stories260K.bin')
    arch, params = llama2c.load(path)
    assert arch == llama.SIZES['260k']
    numbers = np.fromfile(path, '<f4', offset=28)
    offset = 512 * 64 + 5 * 64  # the embedding, and the norms of attention
    wq_LND = numbers[offset : offset + 5 * 64 * 64].reshape(5, 64, 64)
    # Row 8 n + 2 i + p is channel i + 4 p of head n.
    rows = [8 * n + 2 * i + p for n in range(8) for p in range(2) for i in range(4)]
    ours = np.asarray(params['blocks']['attention']['query'])
    np.testing.assert_array_equal(
        ours.transpose(0, 2, 3, 1).reshape(5, 64, 64), wq_LND[:, rows]
    )
    np.testing.assert_array_equal(
        params['tokens'], numbers[: 512 * 64].reshape(512, 64)
    )


def greedy(arch, params, prompts, steps):
    """What run.c does: one token at a time, those of the prompt forced; [B, steps]."""
    model = make(arch)
    forced_tB = np.full((steps, len(prompts)), -1, np.int32)
    for b, prompt in enumerate(prompts):
        forced_tB[: len(prompt) - 1, b] = prompt[1:]

    def step(state, inputs):
        token_B, cache, params = state
        position, forced_B = inputs
        positions_B1 = jnp.full((len(prompts), 1), position)
        logits_B1V, cache = gpt.decode(
            model, params, token_B[:, None], positions_B1, cache
        )
        best_B = jnp.argmax(logits_B1V[:, 0], -1).astype(jnp.int32)
        next_B = jnp.where(forced_B >= 0, forced_B, best_B)
        return (next_B, cache, params), next_B

    first_B = jnp.array([prompt[0] for prompt in prompts], jnp.int32)
    cache = gpt.init_cache(arch, len(prompts), steps, jnp.float32)
    state = first_B, cache, gpt.unstack(params)
    _, next_tB = jax.jit(jax.lax.scan, static_argnums=0)(
        step, state, (jnp.arange(steps), jnp.asarray(forced_tB))
    )
    return np.asarray(next_tB).T.tolist()


@pytest.mark.parametrize('longest', [False, True])
def test_greedy_text_is_what_llama2c_prints(longest, real_data):
    """Seven prompts, one of them empty, and that one to the end of the context too."""
    path = real_data('stories260K/stories260K.bin')
    arch, params = llama2c.load(path)
    tokens = llama2c.tokenizer(path, arch.V)
    cases = [case for case in GOLDEN['printed'] if longest == (case['steps'] > 256)]
    assert len(cases) == (1 if longest else 7)
    prompts = [[*tokens.prefix, *tokens.encode(case['prompt'])] for case in cases]
    assert min(map(len, prompts)) == 1  # BOS alone
    rows = greedy(arch, params, prompts, max(case['steps'] for case in cases))
    for case, row in zip(cases, rows, strict=True):
        ids = row[: case['steps']]
        ids = ids[: ids.index(1)] if 1 in ids else ids
        assert tokens.decode(ids) == case['text'], case['prompt']


def test_an_imported_workdir_prints_the_same(real_data, tmp_path):
    """Through the workdir and the engine; and what is exported again is the same."""
    source = real_data('stories260K/stories260K.bin')
    workdir.import_model(source, tmp_path / 'workdir')
    trained = build.load(tmp_path / 'workdir')
    made = engine.Engine(trained.model, trained.params, trained.tokenizer)
    cases = [case for case in GOLDEN['printed'] if case['steps'] != 511][:4]
    prompts = [made.document(case['prompt']) for case in cases]
    requests = [engine.Request(p, 40, 0.0, stop_tokens=(1,)) for p in prompts]
    for case, answer in zip(cases, made.generate(requests), strict=True):
        assert case['text'].startswith(case['prompt'] + answer.text)
        assert len(answer.tokens) == 40

    workdir.export_model(tmp_path / 'workdir', tmp_path / 'bin', 'llama2c')
    _, params = llama2c.load(tmp_path / 'bin' / 'model.bin')
    equal(params, llama2c.load(source)[1])
    written = (tmp_path / 'bin' / 'tokenizer.bin').read_bytes()
    assert written == real_data('stories260K/tok512.bin').read_bytes()
    workdir.export_model(tmp_path / 'workdir', tmp_path / 'gguf', 'gguf')
    assert (tmp_path / 'gguf' / 'model.gguf').read_bytes()[:4] == b'GGUF'


def test_the_documented_sample_is_among_what_it_prints(real_data):
    page = real_data('stories260K/stories260K.md').read_text()
    assert GOLDEN['printed'][0]['text'] in page


def test_a_real_file_is_written_again_but_for_roundings(real_data, tmp_path):
    """The tables of rotary positions alone, which nothing reads, may differ."""
    path, again = real_data('stories260K/stories260K.bin'), tmp_path / 'again.bin'
    arch, params = llama2c.load(path)
    llama2c.save(arch, params, again)
    old = np.fromfile(path, '<i4')
    new = np.fromfile(again, '<i4')
    assert old.size == new.size
    differ = np.flatnonzero(old != new)
    assert differ.size == 199
    assert differ.min() >= old.size - 2 * 512 * 4  # the tables are the end of the file
    assert np.abs(old[differ] - new[differ]).max() == 1  # unit in the last place


@pytest.mark.parametrize('version', [0, 1])
@pytest.mark.parametrize('tied', [False, True])
def test_round_trip(version, tied, tmp_path):
    arch = architecture(head={'tied': tied})
    params, path = parameters(arch), tmp_path / 'model.bin'
    llama2c.save(arch, params, path, version)
    assert [file.name for file in tmp_path.iterdir()] == ['model.bin']
    arch_again, params_again = llama2c.load(path)
    assert arch_again == arch
    equal(params_again, params)
    begin = struct.unpack_from('<9i', path.read_bytes())
    if version == 0:
        assert begin[5] == (21 if tied else -21)
    else:
        assert (begin[0], begin[1], begin[7]) == (0x616B3432, 1, 21)
    llama2c.save(arch_again, params_again, tmp_path / 'again.bin', version)
    assert (tmp_path / 'again.bin').read_bytes() == path.read_bytes()


def test_version_1_has_the_arrays_in_its_order(tmp_path):
    arch = architecture()
    params, path = parameters(arch), tmp_path / 'model.bin'
    llama2c.save(arch, params, path, version=1)
    numbers = np.fromfile(path, '<f4', offset=256)
    blocks = params['blocks']
    expected = [
        blocks['attention_norm']['scale'].ravel(),
        blocks['mlp_norm']['scale'].ravel(),
        params['norm']['scale'],
        params['tokens'].ravel(),
    ]
    start = np.concatenate(expected)
    np.testing.assert_array_equal(numbers[: start.size], start)
    np.testing.assert_array_equal(
        numbers[-21 * 12 :], params['head']['unembed'].ravel()
    )
    gate_LFD = blocks['mlp']['gate'].transpose(0, 2, 1)
    begin = start.size + 3 * (12 * 12 + 2 * 6 * 12 + 12 * 12)
    np.testing.assert_array_equal(
        numbers[begin : begin + gate_LFD.size], gate_LFD.ravel()
    )


@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        ('model.attention_bias is qkv', {'attention_bias': 'qkv'}),
        (
            'model.norms.query_key',
            {'norms': {'kind': 'rms', 'eps': 1e-5, 'query_key': True}},
        ),
        ('model.norms.eps is 1e-06', {'norms': {'kind': 'rms', 'eps': 1e-6}}),
        ('model.windows is (4,)', {'windows': [4]}),
        ('model.experts', {'experts': {'E': 2, 'k': 1, 'balance': 0.0, 'z': 0.0}}),
        ('model.positions.base', {'positions': {'kind': 'rotary', 'base': 5e5}}),
        (
            'model.positions.scaling',
            {'positions': {'kind': 'rotary', 'scaling': 'linear', 'factor': 2.0}},
        ),
        ('model.H is 8, not 6', {'H': 8}),
        ('model.activation is gelu', {'activation': 'gelu'}),
        ('model.head.soft_cap', {'head': {'tied': True, 'soft_cap': 9.0}}),
    ],
)
def test_what_has_no_place_is_named(name, changes, tmp_path):
    with pytest.raises(command.UserError) as raised:
        llama2c.save(architecture(**changes), {}, tmp_path / 'x.bin')
    assert name in str(raised.value)
    assert not any(tmp_path.iterdir())


def test_a_write_that_fails_leaves_nothing(tmp_path):
    params = parameters(architecture())
    del params['head']
    with pytest.raises(ValueError, match='differ'):
        llama2c.save(architecture(), params, tmp_path / 'x.bin')
    assert not any(tmp_path.iterdir())


def header(*integers):
    return struct.pack(f'<{len(integers)}i', *integers)


BIG = 2**31 - 1
DAMAGE = {
    'empty': (lambda data: b'', 'has 0 bytes'),
    'cut in the header': (lambda data: data[:20], 'has 20 bytes'),
    'cut by a byte': (lambda data: data[:-1], '1 bytes fewer'),
    'too long': (lambda data: data + bytes(4), '4 bytes more'),
    'version 2': (lambda data: header(0x616B3432, 2) + data, 'version 2'),
    'version 9': (lambda data: header(0x616B3432, 9) + data, 'version 9'),
    'version 1, cut': (lambda data: header(0x616B3432, 1) + data[:50], 'header'),
    'zeros': (lambda data: bytes(len(data)), 'at least 1'),
    'negative': (lambda data: header(-12, 10, 3, 2, 1, 21, 9) + data[28:], 'at least'),
    'odd heads': (lambda data: header(12, 10, 3, 4, 1, 21, 9) + data[28:], 'even'),
    'N, K': (lambda data: header(12, 10, 3, 2, 3, 21, 9) + data[28:], 'divisor'),
    'huge': (
        lambda data: header(BIG - 1, BIG, BIG, 1, 1, BIG, BIG) + data[28:],
        'fewer',
    ),
    'layers': (lambda data: header(12, 10, BIG, 2, 1, 21, 9) + data[28:], 'fewer'),
    'text': (lambda data: b'{"model_type": "llama"}' * 40, 'no llama2.c file'),
}


@pytest.mark.parametrize('case', DAMAGE)
def test_damage_is_named(case, small, tmp_path):
    damage, message = DAMAGE[case]
    path = tmp_path / 'x.bin'
    path.write_bytes(damage(small[0].read_bytes()))
    with pytest.raises(command.UserError, match=message):
        llama2c.read(path)


def test_no_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path, tmp_path / 'none.bin'):
        with pytest.raises(command.UserError, match='cannot be read'):
            llama2c.read(path)


def test_another_base_of_positions_is_refused(small, tmp_path, monkeypatch):
    path = tmp_path / 'x.bin'
    monkeypatch.setattr(llama2c, 'BASE', 12_000.0)
    monkeypatch.setitem(llama2c.FIXED, 'positions.base', (12_000.0,))
    other = architecture(positions={'kind': 'rotary', 'base': 12_000.0})
    llama2c.save(other, small[1], path)
    monkeypatch.undo()
    with pytest.raises(command.UserError, match='not those of base 10000'):
        llama2c.read(path)


def test_a_table_of_positions_that_is_no_number_is_refused(small, tmp_path):
    path = tmp_path / 'x.bin'
    data = bytearray(small[0].read_bytes())
    cosines = len(data) - 4 * (21 * 12 + 2 * 9 * 3)  # T = 9, H / 2 = 3
    data[cosines + 16 : cosines + 20] = struct.pack('<f', np.nan)
    path.write_bytes(data)
    with pytest.raises(command.UserError, match=r'freqs_cos\[1, 1\] is nan'):
        llama2c.read(path)


def test_the_tokenizer_beside_a_file(small, tmp_path, real_data):
    path = tmp_path / 'x.bin'
    with pytest.raises(command.UserError, match='has none of tok512'):
        llama2c.tokenizer(path, 512)
    model = real_data('stories260K/tok512.model').read_bytes()
    (tmp_path / 'tokenizer.model').write_bytes(model)
    assert llama2c.tokenizer(path, 512).name == 'spm'
    (tmp_path / 'tokenizer.bin').write_bytes(
        real_data('stories260K/tok512.bin').read_bytes()
    )
    assert llama2c.tokenizer(path, 512).name == 'llama2c'
    with pytest.raises(command.UserError, match=r'has 512 ids, and .*x.bin 21'):
        llama2c.tokenizer(path, 21)


@pytest.mark.parametrize('version', [0, 1])
def test_mutated_files_are_read_or_refused(version, small, tmp_path):
    path = tmp_path / 'x.bin'
    llama2c.save(architecture(), small[1], path, version)
    came = _bins.survived(path, 100, seed=version)
    assert came['refused'] + came['loaded'] == 100
    assert min(came.values()) >= 5
