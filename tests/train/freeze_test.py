"""Freezing: which leaves a pattern names, and that what is frozen costs nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_config
import tiny_family

from gptjax import command, trees
from gptjax.model import transformer
from gptjax.objectives import next_token
from gptjax.train import build, freeze, optim, schedules, state, step

SHAPES = jax.eval_shape(
    lambda: {
        'tokens': jnp.zeros((8, 4)),
        'blocks': {
            'attention': {'query': jnp.zeros((4, 4)), 'query_bias': jnp.zeros((4, 2))},
            'mlp': {'up': jnp.zeros((4, 6))},
        },
        'encoder': {'blocks': {'mlp': {'up': jnp.zeros((2, 6))}}},
        'head': {'bias': jnp.zeros((8,))},
    }
)
QUERY, UP = 'blocks/attention/query', 'blocks/mlp/up'
BIAS = f'{QUERY}_bias'
ENCODER = 'encoder/blocks/mlp/up'


@pytest.mark.parametrize(
    ('patterns', 'layers'),
    [
        ((), {}),
        (('tokens',), {'tokens': ()}),
        (('tok*',), {'tokens': ()}),
        (('blocks',), {QUERY: (), BIAS: (), UP: ()}),
        (('blocks/*',), {QUERY: (), BIAS: (), UP: ()}),
        (('blocks[:2]/*',), {QUERY: (2, 3), BIAS: (2, 3), UP: (2, 3)}),
        (('blocks[1:3]/mlp',), {UP: (0, 3)}),
        (('blocks[-1]',), {QUERY: (0, 1, 2), BIAS: (0, 1, 2), UP: (0, 1, 2)}),
        (('blocks[0]/mlp', 'blocks[2]/mlp'), {UP: (1, 3)}),
        (('blocks[:2]/mlp', 'blocks[2:]/mlp'), {UP: ()}),
        (('*bias',), {BIAS: (), 'head/bias': ()}),
        (('encoder/blocks[0]', 'head'), {ENCODER: (1,), 'head/bias': ()}),
        (('*/attention', 'encoder'), {QUERY: (), BIAS: (), ENCODER: ()}),
    ],
    ids=str,
)
def test_patterns_name_leaves_and_layers(patterns, layers):
    assert freeze.select(SHAPES, patterns).layers == layers


@pytest.mark.parametrize(
    ('patterns', 'message'),
    [
        (('token',), r"'token', which names no parameter; did you mean 'tokens'"),
        (('blocks/attention/key',), "did you mean 'blocks/attention/query'"),
        (('blocks[:5]',), r'there are 4 layers; name some of 0 to 3'),
        (('blocks[4]',), r'there are 4 layers'),
        (('blocks[2:2]',), r'there are 4 layers'),
        (('tokens[0]',), r"brackets pick layers behind 'blocks'"),
        (('blocks[a]',), r"brackets pick layers behind 'blocks'"),
        (('*',), 'leaves nothing to train'),
        ('tokens', r"is 'tokens'; it is a list of patterns"),
        ((1,), 'it is a list of patterns'),
    ],
    ids=str,
)
def test_a_pattern_that_cannot_be_is_refused(patterns, message):
    with pytest.raises(command.UserError, match=message):
        freeze.select(SHAPES, patterns)


def test_layers_left_to_train_split_over_stages(tmp_path):
    """Their moments lie so. Mutation: no check (a ValueError, later)."""
    config = tiny_config.get_config()
    config.mesh = dict(data=1, fsdp=1, tensor=1, stage=2, rules='stage')
    config.optimizer.freeze = ('blocks[:1]',)
    message = 'leaves 1 layers of blocks.* mesh.stage of 2 does not'
    with pytest.raises(command.UserError, match=message):
        build.build(config, tmp_path)


@pytest.mark.parametrize('patterns', [('tokens',), ('blocks[1:3]', 'head'), ('*up',)])
def test_put_is_the_inverse_of_take(patterns):
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), SHAPES)
    trained = freeze.select(SHAPES, patterns)
    part = trained.take(params)
    for (path, leaf), (_, same) in zip(
        trees.paths(trained.put(params, part)), trees.paths(params), strict=True
    ):
        np.testing.assert_array_equal(leaf, same, path)
    doubled = trained.put(params, jax.tree.map(lambda x: 2 * x, part))
    change = sum(
        (np.asarray(leaf) != old).sum()
        for leaf, old in zip(
            jax.tree.leaves(doubled), jax.tree.leaves(params), strict=True
        )
    )
    assert change == trees.count(part) < trees.count(params)


@functools.cache
def compiled(patterns):
    """(the compiled step, the state before) with these patterns frozen."""
    model = tiny_family.model('gpt2')
    params = tiny_family.params(model)
    trained = freeze.select(params, patterns)
    schedule = schedules.constant(1e-2, 0, steps=10)
    optimizer = optim.adamw(
        schedule, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1, clip_norm=1e9
    )
    _, places = state.shardings_of(
        transformer.abstract(model), optimizer, tiny.sharding(), trained
    )
    start = state.create(params, optimizer, 0, places, trained)
    run = jax.jit(
        functools.partial(
            step.train_step,
            loss_fn=next_token.make(model),
            optimizer=optimizer,
            accumulate=1,
            trained=trained,
        )
    )
    batch = tiny.packed_batch(4, arch=model.arch)
    return run.lower(start, {}, batch).compile(), start, batch


PATTERNS = ('tokens', 'blocks[:2]', 'blocks/mlp/up')


def test_what_is_frozen_keeps_its_bits_and_the_rest_learns():
    """With weight decay, which alone would move every weight."""
    run, start, batch = compiled(PATTERNS)
    after = start
    for _ in range(2):
        after, _ = run(after, {}, batch)
    changed = {
        path: (np.asarray(leaf) != np.asarray(old))
        for (path, leaf), (_, old) in zip(
            trees.paths(after.params), trees.paths(start.params), strict=True
        )
    }
    assert not changed['tokens'].any()
    assert not changed['blocks/mlp/up'].any()
    for path, moved in changed.items():
        if path.startswith('blocks/'):
            assert not moved[:2].any(), path
            if path not in ('blocks/mlp/up', 'blocks/attention/key_bias'):
                assert moved[2].mean() > 0.9, path
    assert changed['positions'][: start.params['positions'].shape[0]].mean() > 0.9


def test_what_is_frozen_has_no_moments_and_counts_in_no_norm():
    run, start, batch = compiled(PATTERNS)
    whole, begin, _ = compiled(())
    moments = [leaf for path, leaf in trees.paths(start.opt_state) if '/mu/' in path]
    trained = freeze.select(start.params, PATTERNS)
    assert sum(leaf.size for leaf in moments) == trees.count(trained.take(start.params))
    # After one step from zero, AdamW's first moment is (1 - b1) x gradient.
    after, _ = whole(begin, {}, batch)
    gradient = {
        path.split('/mu/')[1]: np.asarray(leaf) / 0.1
        for path, leaf in trees.paths(after.opt_state)
        if '/mu/' in path
    }
    squares = sum(
        np.square(g[2:] if path.startswith('blocks/') else g).sum()
        for path, g in gradient.items()
        if path not in ('tokens', 'blocks/mlp/up')
    )
    _, metrics = run(start, {}, batch)
    assert float(metrics['gradient_norm']) == pytest.approx(np.sqrt(squares), rel=1e-4)


def test_the_products_of_frozen_gradients_are_not_computed():
    """In each layer of the scan, as XLA counts: up and down, of B T tokens."""
    arch = tiny_family.arch('gpt2')
    some, everything = (
        compiled(patterns)[0].cost_analysis()['flops']
        for patterns in (('blocks/mlp',), ())
    )
    products = 2 * 2 * 4 * arch.T * arch.D * arch.F
    assert everything - some > products
