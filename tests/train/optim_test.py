"""Schedules, and what every entry of the table of optimizers must do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from gptjax import command
from gptjax.model import transformer
from gptjax.train import optim, state, table

ADAM = dict(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0, clip_norm=1.0)
OPTIONS = {'adamw': ADAM, 'adam_tf': ADAM}


def test_warmup_and_cosine_at_known_points():
    schedule = optim.warmup_cosine(1.0, 10, 110, 0.1)
    at = {n: float(schedule(n - 1)) for n in (1, 5, 10, 60, 110, 500)}
    expected = {1: 0.1, 5: 0.5, 10: 1.0, 60: 0.55, 110: 0.1, 500: 0.1}
    assert at == pytest.approx(expected)


def test_a_rate_for_a_record_waits_for_no_device():
    """The host's numbers are the device's. Mutation: jnp for both queues a program."""
    schedule = optim.warmup_cosine(1e-3, 10, 110, 1e-4)
    steps = [0, 5, 9, 60, 200]
    inside = jax.jit(schedule)
    assert not any(isinstance(schedule(step), jax.Array) for step in steps)
    np.testing.assert_allclose(
        [schedule(step) for step in steps],
        [inside(jnp.int32(step)) for step in steps],
        rtol=1e-6,
    )


def test_a_warmup_longer_than_training_is_refused():
    with pytest.raises(command.UserError, match='warmup_steps is 200 of 100 steps'):
        optim.warmup_cosine(1.0, 200, 100, 0.1)


@pytest.mark.parametrize('name', table.OPTIMIZERS)
def test_every_optimizer_finds_the_bottom_of_a_parabola(name):
    schedule = optim.warmup_cosine(0.1, 1, 200, 0.0)
    optimizer = table.OPTIMIZERS[name](schedule, **OPTIONS[name])
    target = {'w': jnp.array([[1.0, -2.0], [0.5, 3.0]]), 'bias': jnp.array([1.0])}
    params = jax.tree.map(jnp.zeros_like, target)

    @jax.jit
    def update(params, opt_state):
        gradients = jax.tree.map(lambda p, t: p - t, params, target)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return jax.tree.map(jnp.add, params, updates), opt_state

    opt_state = optimizer.init(params)
    for _ in range(200):
        params, opt_state = update(params, opt_state)
    jax.tree.map(
        lambda p, t: np.testing.assert_allclose(p, t, atol=1e-2), params, target
    )


@pytest.mark.parametrize('name', table.OPTIMIZERS)
def test_every_optimizer_shards_like_its_parameters(name):
    place = tiny.sharding(2, 2, 2, 'fsdp_tensor')
    model = tiny.model(place=place)
    schedule = optim.warmup_cosine(0.1, 1, 10, 0.0)
    optimizer = table.OPTIMIZERS[name](schedule, **OPTIONS[name])
    shapes, places = state.shardings_of(transformer.abstract(model), optimizer, place)
    params = {leaf.shape: s for leaf, s in zip(
        jax.tree.leaves(shapes.params), jax.tree.leaves(places.params), strict=True
    )}  # fmt: skip
    moments = [
        (leaf, s)
        for leaf, s in zip(
            jax.tree.leaves(shapes.opt_state),
            jax.tree.leaves(places.opt_state),
            strict=True,
        )
        if leaf.ndim
    ]
    assert len(moments) >= len(jax.tree.leaves(shapes.params))
    assert all(s == params[leaf.shape] for leaf, s in moments)
    assert {leaf.dtype for leaf, _ in moments} == {jnp.dtype('float32')}


def test_adam_of_tensorflow_is_its_formula():
    """eps as large as the gradients, so that its place matters from the first step."""
    b1, b2, eps, decay = 0.9, 0.999, 1e-2, 0.1
    rng = np.random.default_rng(0)
    given = {'w': rng.normal(0, 1, (3, 2)), 'bias': rng.normal(0, 1, 4)}
    schedule = optim.warmup_cosine(0.1, 2, 10, 0.01)
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
