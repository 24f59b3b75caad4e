"""The interpreter of layout tables, against reshapes written out by hand."""

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import ml_dtypes
import numpy as np
import pytest

from gptjax import command, sharding
from gptjax.exchange import tables
from gptjax.model import config

ARCH = config.architecture(
    family='gpt2',
    T=7, V=24, D=8, F=12, N=3, K=3, H=4, L=2,
    dropout=0.0, init_std=0.02,
    norms={'kind': 'layer', 'eps': 1e-5},
    positions={'kind': 'learned', 'offset': 2},
    head={}, activation='gelu_tanh', attention_bias='all', mlp_bias=True,
    experts={'E': 5, 'k': 2, 'balance': 0.0, 'z': 0.0},
)  # fmt: skip
TABLE = (
    tables.Entry('wte', ('tokens',), 'V D', 'V D'),
    tables.Entry('wpe', ('positions',), 'P D', 'P D'),
    tables.Entry(
        'h.{l}.qkv', ('blocks/q', 'blocks/k', 'blocks/v'), 'D (3 N H)', 'D N H'
    ),
    tables.Entry('h.{l}.turned', ('blocks/turned',), '(N h 2) D', 'D N (2 h)'),
    tables.Entry('h.{l}.e.{e}.up', ('blocks/up',), 'F D', 'D F'),
    tables.Entry('square', ('square',), 'd D', 'D d'),
    tables.Entry('stacked', ('blocks/stacked',), 'L F', 'L F'),
)
SHAPES = {
    'tokens': (24, 8), 'positions': (9, 8), 'square': (8, 8), 'blocks/stacked': (2, 12),
    'blocks/q': (2, 8, 3, 4), 'blocks/k': (2, 8, 3, 4), 'blocks/v': (2, 8, 3, 4),
    'blocks/turned': (2, 8, 3, 4), 'blocks/up': (2, 5, 8, 12),
}  # fmt: skip


def leaves(place=None):
    return {
        path: jax.ShapeDtypeStruct(shape, np.float32, sharding=place)
        for path, shape in SHAPES.items()
    }


def tensors(dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = tables.expected(ARCH, TABLE)
    return {name: rng.standard_normal(s).astype(dtype) for name, s in shapes.items()}


def load(arrays, place=None):
    return tables.load(ARCH, TABLE, tables.Arrays(arrays), leaves(place))


def test_layouts_are_as_written():
    theirs = tensors()
    params = load(theirs)
    blocks = params['blocks']
    np.testing.assert_array_equal(params['tokens'], theirs['wte'])
    np.testing.assert_array_equal(params['square'], theirs['square'].T)
    np.testing.assert_array_equal(blocks['stacked'], theirs['stacked'])
    for layer in range(2):
        query, key, value = np.split(theirs[f'h.{layer}.qkv'], 3, axis=1)
        for name, kernel in (('q', query), ('k', key), ('v', value)):
            np.testing.assert_array_equal(blocks[name][layer], kernel.reshape(8, 3, 4))
        turned = theirs[f'h.{layer}.turned']
        for head in range(3):
            rows = turned[4 * head : 4 * head + 4]
            halves = np.concatenate([rows[0::2], rows[1::2]]).T
            np.testing.assert_array_equal(blocks['turned'][layer, :, head], halves)
        for expert in range(5):
            np.testing.assert_array_equal(
                blocks['up'][layer, expert], theirs[f'h.{layer}.e.{expert}.up'].T
            )


def test_dump_is_the_inverse_of_load():
    theirs = tensors()
    back = dict(tables.dump(ARCH, TABLE, load(theirs)))
    assert back.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert back[name].flags.c_contiguous
        np.testing.assert_array_equal(back[name], tensor)


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_narrow_types_are_widened_exactly(dtype):
    theirs = tensors(dtype)
    tokens = load(theirs)['tokens']
    assert tokens.dtype == np.float32
    np.testing.assert_array_equal(tokens, theirs['wte'].astype(np.float32))


def test_each_device_reads_its_part_alone():
    place = sharding.make(2, 2, 2, 'fsdp_tensor')
    theirs = tensors()
    specs = {
        'tokens': P('tensor', 'fsdp'),
        'blocks/q': P(None, 'fsdp'),
        'blocks/up': P('data', None, 'fsdp', 'tensor'),
    }
    split = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(place.mesh, specs[path])
        )
        if path in specs
        else leaf
        for path, leaf in leaves(NamedSharding(place.mesh, P())).items()
    }
    params = tables.load(ARCH, TABLE, tables.Arrays(theirs), split)
    assert params['blocks']['up'].addressable_data(0).shape == (1, 5, 4, 6)
    jax.tree.map(np.testing.assert_array_equal, params, load(theirs))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda t: t.pop('wpe'), r'missing: wpe \(9, 8\)'),
        (lambda t: t.update(more=t['wte']), r'not of this model: more \(24, 8\)'),
        (lambda t: t.update(wte=t['wte'].T), r'wte has \(8, 24\), not \(24, 8\)'),
        (lambda t: t.update(wte=t['wte'].astype(np.int8)), 'type other.* wte int8'),
        (
            lambda t: [t.pop(name) for name in list(t) if '.e.' in name],
            'h.0.e.0.up.* and 2 more',
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message):
    theirs = tensors()
    change(theirs)
    with pytest.raises(command.UserError, match=message):
        load(theirs)


@pytest.mark.parametrize('table', [TABLE[1:], (*TABLE, TABLE[0]), ()])
def test_a_table_holds_every_parameter_once(table):
    with pytest.raises(ValueError, match='table'):
        tables.load(ARCH, table, tables.Arrays(tensors()), leaves())
