"""What every entry of the table of optimizers must do, and the formulas of some."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
import tiny

from gptjax import command, trees
from gptjax.exchange import tables
from gptjax.model import transformer
from gptjax.train import roles, schedules, state, table

COMMON = dict(weight_decay=0.0, clip_norm=1.0)
ADAM = dict(b1=0.9, b2=0.95, eps=1e-8, **COMMON)
MUON = dict(momentum=0.9, nesterov=True, adam_ratio=0.2, **ADAM)
OPTIONS = {
    'adamw': ADAM,
    'adam_tf': ADAM,
    'adafactor': dict(decay_rate=0.8, threshold=1.0, parameter_scale=False, **COMMON),
    'lion': dict(b1=0.9, b2=0.99, **COMMON),
    'sgd': dict(momentum=0.9, nesterov=True, **COMMON),
    'muon': MUON,
    'normuon': dict(neuron_b2=0.95, **MUON),
}
# The update of a matrix of Muon is 0.2 of the rate in each weight.
RATES = {'muon': 0.5, 'normuon': 0.5}
PLACE = (2, 2, 2, 'fsdp_tensor')


def made(name, rate=None, **changes):
    schedule = schedules.cosine(rate or RATES.get(name, 0.1), 1, 0.0, steps=200)
    return table.OPTIMIZERS[name](schedule, **OPTIONS[name] | changes)


def weights(seed=0):
    """A tree of every role but the router's, with heads and a stack of two layers."""
    rng = np.random.default_rng(seed)
    shapes = {
        'tokens': (5, 4),
        'blocks': {
            'attention': {'query': (2, 4, 2, 3), 'out': (2, 2, 3, 4)},
            'experts': {'up': (2, 3, 4, 6)},
            'mlp': {'up': (2, 4, 8), 'up_bias': (2, 8)},
            'norm': {'scale': (2, 4)},
        },
        'head': {'unembed': (5, 4)},
    }
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(0, 1, shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


LONG = ('lion', 'sgd', 'normuon')  # less of their own in the state, or as Muon
NAMES = [
    pytest.param(name, marks=pytest.mark.long) if name in LONG else name
    for name in table.OPTIMIZERS
]


@pytest.mark.parametrize('name', NAMES)
def test_every_optimizer_finds_the_bottom_of_a_parabola(name):
    """And goes on exactly from a copy of its state, in the types of its arrays."""
    optimizer, target = made(name), weights()
    params = jax.tree.map(jnp.zeros_like, target)

    @jax.jit
    def update(params, opt_state):
        gradients = jax.tree.map(lambda p, t: p - t, params, target)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, updates

    opt_state = optimizer.init(params)
    types = jax.tree.map(lambda x: x.dtype, (opt_state, params))
    for step in range(200):
        if step == 100:
            saved = jax.device_get((params, opt_state))
        params, opt_state, updates = update(params, opt_state)
    jax.tree.map(
        lambda p, t: np.testing.assert_allclose(p, t, atol=2e-2), params, target
    )
    assert types == jax.tree.map(lambda x: x.dtype, (opt_state, params))
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype('float32')}
    for _ in range(100):
        saved = update(*jax.device_put(saved))[:2]
    assert trees.digest(saved) == trees.digest((params, opt_state))


@pytest.mark.parametrize('name', table.OPTIMIZERS)
def test_every_optimizer_shards_like_its_parameters(name):
    """Arrays of a parameter's shape lie as it does, smaller ones everywhere."""
    place = tiny.sharding(*PLACE)
    model = tiny.model(place=place)
    shapes, places = state.shardings_of(transformer.abstract(model), made(name), place)
    laid = dict(trees.paths(places.params))
    found = dict(trees.paths(places.opt_state))
    alike = 0
    for path, leaf in trees.paths(shapes.opt_state):
        owners = [p for p in laid if f'/{p}' in path]
        if not owners:
            assert leaf.ndim == 0
            continue
        owner = max(owners, key=len)
        same = leaf.shape == dict(trees.paths(shapes.params))[owner].shape
        alike += same
        assert found[path] == (laid[owner] if same else place.replicated), path
        assert same or leaf.size <= 2 * tiny.ARCH.L * tiny.ARCH.V
        assert leaf.dtype == jnp.float32
    vectors = [p for p in laid if roles.of(p) in ('norms', 'biases')]
    assert alike >= (len(vectors) if name == 'adafactor' else len(laid))


@functools.cache
def gradients(count=3):
    """Trees of a model's shape, the first of them its parameters."""
    params = transformer.init(tiny.model(), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.device_get(params), [
        jax.tree.map(lambda x: rng.normal(0, 1, x.shape).astype(np.float32), params)
        for _ in range(count)
    ]


def updated(name, place):
    optimizer, boxed = made(name), transformer.abstract(tiny.model(place=place))
    _, places = state.shardings_of(boxed, optimizer, place)
    params, grads = gradients()
    params = jax.device_put(params, places.params)
    opt_state = state.create(params, optimizer, 0, places).opt_state
    update = jax.jit(optimizer.update, out_shardings=(places.params, places.opt_state))
    for one in grads:
        given = jax.device_put(one, places.params)
        updates, opt_state = update(given, opt_state, params)
    return jax.device_get(updates)


@pytest.mark.long
@pytest.mark.parametrize('name', table.OPTIMIZERS)
def test_every_optimizer_agrees_on_a_mesh(name):
    """Mutation: a Newton-Schulz of each device's own part of a matrix."""
    apart, alone = updated(name, tiny.sharding(*PLACE)), updated(name, tiny.sharding())
    # Lion's sign may turn where rounding decides; sums have another order.
    atol = 1e-5 if name != 'lion' else 0.0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol),
        apart,
        alone,
    )


@pytest.mark.long
def test_roles_of_all_families():
    """Mutation: `name.endswith('norm')` alone takes scales for embeddings."""
    found = {}
    for family, heads in small.HEADS.items():
        for head in heads:
            for path in tables.leaves(small.arch(family, head)):
                found.setdefault(roles.of(path), set()).add(path.split('/')[-1])
    assert found == {
        'products': {'query', 'key', 'value', 'out', 'up', 'gate', 'down'},
        'experts': {'up', 'gate', 'down'},
        'router': {'router'},
        'embeddings': {'tokens', 'positions', 'types'},
        'head': {'unembed', 'classes', 'reward', 'transform', 'pooler'},
        'norms': {'scale', 'bias', 'query_norm', 'key_norm'},
        'biases': {
            *('query_bias', 'key_bias', 'value_bias', 'out_bias', 'up_bias'),
            *('down_bias', 'bias', 'classes_bias', 'transform_bias', 'pooler_bias'),
        },
    }
    assert roles.of('blocks/attention/query/down') == 'adapters'


@pytest.mark.parametrize(
    ('decay', 'falls'),
    [
        (None, {'products', 'experts', 'embeddings', 'head'}),
        (('products', 'norms'), {'products', 'norms'}),
        ((), set()),
    ],
)
def test_decay_falls_on_the_roles_that_are_named(decay, falls):
    params = weights()
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = made('sgd', weight_decay=0.5, decay=decay)
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    for (path, update), (_, p) in zip(
        trees.paths(updates), trees.paths(params), strict=True
    ):
        wanted = -0.05 * (roles.of(path) in falls) * p
        np.testing.assert_allclose(update, wanted, rtol=1e-5, err_msg=path)


def test_every_optimizer_takes_the_roles_of_decay():
    """Mutation: one that does not pass them on."""
    for name in table.OPTIMIZERS:
        with pytest.raises(command.UserError, match=r"role in optimizer\.decay 'norm'"):
            made(name, decay=('norm',))


def test_moments_in_bfloat16_take_half_the_bytes_and_move_alike():
    """Mutation: nu rounded before it is used moves the first updates by 0.4 %."""
    params, half = weights(), dict(mu_dtype='bfloat16', nu_dtype='bfloat16')
    plain, small_ = made('adamw'), made('adamw', **half)
    states = plain.init(params), small_.init(params)
    moments = [sum(x.nbytes for x in jax.tree.leaves(one) if x.ndim) for one in states]
    assert moments[0] == 8 * trees.count(params) == 2 * moments[1]
    states = list(states)
    for seed in range(1, 6):
        pair = []
        for i, optimizer in enumerate((plain, small_)):
            update = jax.jit(optimizer.update)
            updates, states[i] = update(weights(seed), states[i], params)
            pair.append(updates)
        # Eight bits of a moment; of mu, sums may cancel.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2, atol=1e-3), *pair
        )
    dtypes = {x.dtype for x in jax.tree.leaves(states[1]) if x.ndim}
    assert dtypes == {jnp.dtype('bfloat16')}


@pytest.mark.long
def test_adafactor_is_that_of_optax_on_each_matrix():
    """Alone, each layer's and expert's matrix. Mutation: the mean of all layers."""
    params, scaled = weights(), dict(parameter_scale=True, clip_norm=1e9)
    ours = made('adafactor', **scaled)
    peer = optax.adafactor(0.1, min_dim_size_to_factor=1, clipping_threshold=1.0)
    opt_state, theirs = ours.init(params), {}
    schedule = schedules.cosine(0.1, 1, 0.0, steps=200)
    update, its = jax.jit(ours.update), jax.jit(peer.update)
    for step in range(3):
        grads = weights(step + 1)
        updates, opt_state = update(grads, opt_state, params)
        found = dict(trees.paths(updates))
        for path, grad in trees.paths(grads):
            if roles.of(path) in ('norms', 'biases'):
                continue
            many, sizes, moved = (
                roles.matrices(path, x).reshape(-1, *roles.matrices(path, x).shape[-2:])
                for x in (grad, dict(trees.paths(params))[path], found[path])
            )
            for i in range(len(many)):
                before = theirs.get((path, i)) or peer.init(sizes[i])
                wanted, theirs[path, i] = its(many[i], before, sizes[i])
                rate = float(schedule(step)) / 0.1
                np.testing.assert_allclose(moved[i], wanted * rate, rtol=1e-4)


def test_adafactor_leaves_rows_and_columns_of_zeros():
    """Mutation: the product of both factors, which underflows to 0 / 0."""
    grad = jnp.full((4, 4), 1e-2).at[0].set(0).at[:, 0].set(0)
    for one, wanted in ((grad, np.sign(grad)), (0 * grad, np.zeros((4, 4)))):
        optimizer, params = made('adafactor'), {'tokens': jnp.ones((4, 4))}
        update, opt_state = jax.jit(optimizer.update), optimizer.init(params)
        for _ in range(2):
            updates, opt_state = update({'tokens': one}, opt_state, params)
        np.testing.assert_array_equal(np.sign(updates['tokens']), -wanted)


@pytest.mark.parametrize('name', ['lion', 'sgd'])
def test_lion_and_sgd_are_their_formulas(name):
    """Lion: Chen et al. (2023), algorithm 2. SGD: as torch.optim.SGD has Nesterov."""
    optimizer = made(name, weight_decay=0.1, clip_norm=1e9)
    given, update = weights(), jax.jit(optimizer.update)
    opt_state, p = optimizer.init(given), np.array(given['tokens'], np.float64)
    schedule, m = schedules.cosine(0.1, 1, 0.0, steps=200), 0.0
    for step in range(4):
        grads = weights(step + 1)
        g = np.array(grads['tokens'], np.float64)
        if name == 'lion':
            move, m = np.sign(0.9 * m + 0.1 * g), 0.99 * m + 0.01 * g
        else:
            m = 0.9 * m + g
            move = g + 0.9 * m
        p = p - float(schedule(step)) * (move + 0.1 * p)
        updates, opt_state = update(grads, opt_state, given)
        given = optax.apply_updates(given, updates)
    np.testing.assert_allclose(given['tokens'], p, rtol=1e-4, atol=1e-6)


def test_adam_of_tensorflow_is_its_formula():
    """eps as large as the gradients, so that its place matters from the first step."""
    b1, b2, eps, decay = 0.9, 0.999, 1e-2, 0.1
    rng = np.random.default_rng(0)
    given = {'w': rng.normal(0, 1, (3, 2)), 'bias': rng.normal(0, 1, 4)}
    schedule = schedules.cosine(0.1, 2, 0.01, steps=10)
    options = dict(b1=b1, b2=b2, eps=eps, weight_decay=decay, clip_norm=1e9)
    optimizer = table.OPTIMIZERS['adam_tf'](schedule, **options)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given)
    opt_state = optimizer.init(params)
    m, v = (dict.fromkeys(given, 0.0) for _ in range(2))
    for t in range(1, 6):
        grads = {name: rng.normal(0, 0.01, x.shape) for name, x in given.items()}
        rate = float(schedule(t - 1))
        for name, grad in grads.items():
            m[name] = b1 * m[name] + (1 - b1) * grad
            v[name] = b2 * v[name] + (1 - b2) * grad**2
            step = np.sqrt(1 - b2**t) / (1 - b1**t) * m[name] / (np.sqrt(v[name]) + eps)
            step += decay * given[name] if name == 'w' else 0
            given[name] = given[name] - rate * step
        exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), grads)
        updates, opt_state = optimizer.update(exact, opt_state, params)
        params = optax.apply_updates(params, updates)
    for name, wanted in given.items():
        np.testing.assert_allclose(params[name], wanted, rtol=0, atol=1e-6)
