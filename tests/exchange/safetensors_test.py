"""Safetensors against the library's own reader and writer, and damaged files."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as library
import small

from experiments.benchmarks import _mutations
from gptjax import command
from gptjax.exchange import huggingface, safetensors

TENSORS = {
    'a': np.arange(6, dtype='<f4').reshape(2, 3),
    'b': np.arange(4, dtype='<f2'),
    'empty': np.zeros((0, 5), '<f4'),
    'scalar': np.array(7, '<i8'),
}


def file_of(path, header, data=b'', length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(struct.pack('<Q', size) + text + data)
    return path


def entry(dtype='F32', shape=(2,), offsets=(0, 8)):
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}


def test_what_the_library_writes_is_read(tmp_path):
    path = tmp_path / 'x.safetensors'
    library.save_file(TENSORS, path, {'format': 'np'})
    file = safetensors.File(path)
    assert file.shapes.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        found = file.read(name)
        assert (found.shape, found.dtype) == file.shapes[name]
        np.testing.assert_array_equal(found, tensor)


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
def test_the_library_reads_what_is_written_in_shards(dtype, tmp_path):
    rng = np.random.default_rng(0)
    tensors = {f't{i}': rng.standard_normal((3, 5)).astype('f4') for i in range(7)}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    paths = safetensors.write(
        tmp_path, iter(tensors.items()), shapes, dtype, shard_bytes=2 * 15 * 4
    )
    assert len(paths) == (4 if dtype == 'float32' else 2)
    kind = {'bfloat16': ml_dtypes.bfloat16}.get(dtype, dtype)
    index = json.loads((tmp_path / safetensors.INDEX).read_text())
    assert index['metadata']['total_size'] == 7 * 15 * np.dtype(kind).itemsize
    found = {}
    for path in paths:
        loaded = library.load_file(path)
        assert {index['weight_map'][name] for name in loaded} == {path.name}
        found |= loaded
    folder = safetensors.Folder(tmp_path)
    for name, tensor in tensors.items():
        expected = tensor.astype(kind)
        np.testing.assert_array_equal(found[name].view('u2'), expected.view('u2'))
        np.testing.assert_array_equal(folder.read(name), expected)


def test_other_tensors_than_announced_are_an_error(tmp_path):
    for tensors in ([], [('b', np.zeros(2))], [('a', np.zeros(3))]):
        with pytest.raises(ValueError, match='in place of a'):
            safetensors.write(tmp_path, iter(tensors), {'a': (2,)})
    more = [('a', np.zeros(2, 'f4')), ('b', np.zeros(2, 'f4'))]
    with pytest.raises(ValueError, match='more tensors'):
        safetensors.write(tmp_path, iter(more), {'a': (2,)})


@pytest.mark.parametrize(
    ('header', 'data', 'message'),
    [
        ({'a': entry()}, bytes(4), 'has .* bytes and its tensors end at'),
        ({'a': entry()}, bytes(9), 'has .* bytes and its tensors end at'),
        ({'a': entry(offsets=(0, 4))}, bytes(4), r'\[2\] needs 8 bytes and has 4'),
        ({'a': entry(offsets=(8, 0))}, bytes(8), 'needs 8 bytes and has -8'),
        ({'a': entry(), 'b': entry(offsets=(4, 12))}, bytes(12), "'b' .* overlaps"),
        ({'a': entry(), 'b': entry()}, bytes(8), 'overlaps'),
        ({'a': entry(), 'b': entry(offsets=(9, 17))}, bytes(17), "'b' .* gap"),
        ({'a': entry(offsets=(1, 9))}, bytes(9), 'gap'),
        ({'a': entry('F3')}, bytes(8), "unknown type 'F3'"),
        ({'a': entry(['F32'])}, bytes(8), 'unknown type'),
        ({'a': entry(shape=(-2,))}, bytes(8), 'no shape and two offsets'),
        ({'a': entry(shape=(2.0,))}, bytes(8), 'no shape and two offsets'),
        ({'a': entry(shape=(True, 2))}, bytes(8), 'no shape and two offsets'),
        ({'a': entry(offsets=(0, 8, 8))}, bytes(8), 'no shape and two offsets'),
        ({'a': entry(shape=(1,) * 40 + (2,))}, bytes(8), r'has the shape \[1, 1'),
        ({'a': entry(shape=(2**62, 2**62, 0), offsets=(0, 0))}, b'', 'has the shape'),
        ({'a': entry() | {'more': 1}}, bytes(8), 'has not the keys'),
        ({'a': 1}, bytes(8), 'has not the keys'),
        ({'__metadata__': 1}, b'', '__metadata__'),
        (b'[]', b'', 'not a JSON object'),
        (b'{"a": ', b'', 'not JSON'),
        (b'\xff{}', b'', 'not JSON'),
        (b'{"a":' * 5000, b'', 'not JSON'),
        (b'{"a": 1, "a": 1}', b'', "'a' stands twice"),
    ],
)
def test_damaged_files_are_named(header, data, message, tmp_path):
    path = file_of(tmp_path / 'x', header, data)
    with pytest.raises(command.UserError, match=message):
        safetensors.File(path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'has 0 bytes'),
        (b'1234567', 'has 7 bytes'),
        (struct.pack('<Q', 100_000_001), 'claims 100000001 bytes'),
        (struct.pack('<Q', 50) + b'{}', 'ends at 10 bytes, inside its header'),
    ],
)
def test_headers_that_are_cut_or_too_long(content, message, tmp_path):
    (tmp_path / 'x').write_bytes(content)
    with pytest.raises(command.UserError, match=message):
        safetensors.File(tmp_path / 'x')


def shards(folder):
    """A model of two files and an index."""
    library.save_file({'a': TENSORS['a']}, folder / 'one.safetensors')
    library.save_file({'b': TENSORS['b']}, folder / 'two.safetensors')
    write_index(folder, {'a': 'one.safetensors', 'b': 'two.safetensors'})


def write_index(folder, where):
    (folder / safetensors.INDEX).write_text(json.dumps({'weight_map': where}))


@pytest.mark.parametrize(
    ('where', 'message'),
    [
        ({'a': 'one.safetensors', 'b': 'three.safetensors'}, 'lacks three.safetensors'),
        ({'a': 'one.safetensors', 'b': 'one.safetensors'}, 'disagree about b'),
        ({'a': 'one.safetensors'} | {'c': 'two.safetensors'}, 'disagree about b, c'),
        ({'a': '../one.safetensors'}, 'a shard is a file beside it'),
        ({'a': '/etc/passwd'}, 'a shard is a file beside it'),
        ({'a': '..'}, 'a shard is a file beside it'),
        ({'a': 5}, 'a shard is a file beside it'),
        ({}, 'no weight_map'),
        ([], 'no weight_map'),
    ],
)
def test_an_index_that_does_not_fit(where, message, tmp_path):
    shards(tmp_path)
    write_index(tmp_path, where)
    with pytest.raises(command.UserError, match=message):
        safetensors.Folder(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    shards(tmp_path)
    library.save_file(TENSORS, tmp_path / 'two.safetensors')
    with pytest.raises(command.UserError, match='disagree about a, empty, scalar'):
        safetensors.Folder(tmp_path)


def test_shards_may_be_links(tmp_path):
    (tmp_path / 'blobs').mkdir()
    (tmp_path / 'model').mkdir()
    shards(tmp_path / 'model')
    blob = tmp_path / 'blobs' / '5d41'
    (tmp_path / 'model' / 'one.safetensors').rename(blob)
    (tmp_path / 'model' / 'one.safetensors').symlink_to(blob)
    read = safetensors.Folder(tmp_path / 'model').read('a')
    np.testing.assert_array_equal(read, TENSORS['a'])


def test_pickled_weights_are_not_opened(tmp_path):
    (tmp_path / 'pytorch_model.bin').write_bytes(b'\x80\x02cos\nsystem\n')
    with pytest.raises(command.UserError, match=r'not opened.*save_pretrained'):
        safetensors.Folder(tmp_path)
    with pytest.raises(command.UserError, match=r'holds no model.safetensors'):
        safetensors.Folder(tmp_path / 'nowhere')


def test_mutated_folders_are_refused_or_loaded(tmp_path):
    arch = small.arch('llama', L=1)
    huggingface.save(
        arch,
        small.params(arch),
        tmp_path / 'a',
        generation={'eos_token_id': [1, 2]},
        shard_bytes=20_000,
    )
    came = _mutations.survived(tmp_path / 'a', count=100, seed=1)
    assert came['refused'] > 50
    huggingface.load(tmp_path / 'a')  # the folder itself is whole
