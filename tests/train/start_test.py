"""Starting from a workdir with another head, vocabulary or mask."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import tiny
import tiny_family

from gptjax import command, trees
from gptjax.model import config, transformer
from gptjax.objectives import next_token
from gptjax.train import checkpoint, start, state
from gptjax.train import host as host_lib

CLASSES = dict(kind='classes', classes=2, pooler=True)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    """A checkpoint of a tiny BERT with both of its pretraining heads."""
    folder = tmp_path_factory.mktemp('bert')
    head = config.Head('pretraining', bias=True, pooler=True)
    model = tiny_family.model('bert', head=head)
    optimizer, place = optax.sgd(1.0), tiny.sharding()
    _, places = state.shardings_of(transformer.abstract(model), optimizer, place)
    begin = state.create(tiny_family.params(model), optimizer, 0, places)
    checkpoints = checkpoint.Checkpoints(folder, keep=1)
    host = host_lib.Host(config.plain(model.arch))
    checkpoints.save(0, begin, dataclasses.asdict(host))
    checkpoints.close()
    return folder, dict(trees.paths(jax.device_get(begin.params)))


def begin(workdir, place=None, seed=0, **options):
    made = start.from_workdir(
        str(workdir),
        0.0,
        **options,
        seed=seed,
        sharding=place or tiny.sharding(),
        compute=tiny.COMPUTE,
    )
    params = made.params()
    shapes = transformer.abstract(
        transformer.make(made.arch, tiny.COMPUTE, place or tiny.sharding())
    )
    assert jax.tree.structure(params) == jax.tree.structure(
        jax.tree.map(lambda leaf: 0, shapes, is_leaf=lambda x: hasattr(x, 'unbox'))
    )
    return made.arch, dict(trees.paths(jax.device_get(params)))


def test_another_head_keeps_the_trunk_and_is_drawn_from_the_seed(workdir, capsys):
    folder, old = workdir
    arch, new = begin(folder, head=CLASSES)
    assert arch.head == config.Head(**CLASSES)
    fresh = {'head/classes', 'head/classes_bias'}
    for path in set(new) - fresh:  # the pooler of the old head too
        np.testing.assert_array_equal(new[path], old[path], path)
    # "Is B the next sentence?" has two classes as well, which mean something else.
    assert new['head/classes'].shape == old['head/classes'].shape
    assert not np.isin(new['head/classes'], old['head/classes']).any()
    assert not any(path.startswith('head/transform') for path in new)
    said = capsys.readouterr().err
    assert 'new: head/classes, head/classes_bias; left: head/bias, head/classes' in said
    _, again = begin(folder, head=CLASSES)
    _, other = begin(folder, head=CLASSES, seed=1)
    np.testing.assert_array_equal(new['head/classes'], again['head/classes'])
    assert (new['head/classes'] != other['head/classes']).all()
    place = tiny.sharding(1, 2, 2, 'fsdp_tensor')
    _, placed = begin(folder, place=place, head=CLASSES)
    for path, leaf in new.items():
        np.testing.assert_array_equal(leaf, placed[path], path)


def test_a_longer_vocabulary_begins_with_the_old_one(workdir):
    folder, old = workdir
    V = old['tokens'].shape[0]
    arch, new = begin(folder, V=V + 4)
    assert arch.V == V + 4
    for path in ('tokens', 'head/bias'):
        np.testing.assert_array_equal(new[path][:V], old[path])
        mean = np.broadcast_to(old[path].mean(0), new[path][V:].shape)
        np.testing.assert_allclose(new[path][V:], mean, rtol=1e-5)
    np.testing.assert_array_equal(new['head/classes'], old['head/classes'])


def test_an_encoder_begins_a_causal_model(workdir, capsys):
    folder, old = workdir
    arch, new = begin(folder, causal=True, head=dict(kind='tokens', bias=True))
    assert arch.causal
    for path in new:
        np.testing.assert_array_equal(new[path], old[path], path)
    assert 'new: none; left: head/classes' in capsys.readouterr().err
    next_token.make(transformer.make(arch, tiny.COMPUTE, tiny.sharding()))


def test_the_same_head_is_the_same_model(workdir, capsys):
    folder, old = workdir
    _, new = begin(folder)
    assert new.keys() == old.keys()
    for path in new:
        np.testing.assert_array_equal(new[path], old[path], path)
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(D=32), r'model has D beside init_from, .* only dropout, V, head'),
        (dict(V=10), r'model\.V is 10, and .* has 48 tokens'),
        (dict(head=dict(kind='classes', classes=1)), r'model\.head\.classes is 1'),
        (dict(head=dict(kind='klasses')), 'unknown model.head.kind'),
        (dict(head=dict(knd='classes')), r'unknown option model\.head\.knd'),
    ],
    ids=str,
)
def test_what_does_not_fit_the_trunk_is_refused(workdir, options, message):
    with pytest.raises(command.UserError, match=message):
        begin(workdir[0], **options)


def test_a_head_that_was_tied_begins_as_the_embedding(tmp_path):
    model, optimizer = tiny_family.model('gpt2'), optax.sgd(1.0)
    _, places = state.shardings_of(
        transformer.abstract(model), optimizer, tiny.sharding()
    )
    before = state.create(tiny_family.params(model), optimizer, 0, places)
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
    host = host_lib.Host(config.plain(model.arch))
    checkpoints.save(0, before, dataclasses.asdict(host))
    checkpoints.close()
    arch, params = begin(tmp_path, head=dict(tied=False))
    assert not arch.head.tied
    np.testing.assert_array_equal(params['head/unembed'], params['tokens'])
