"""Newton-Schulz against an SVD, Muon against optax's, NorMuon against its formula."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from gptjax.train import muon, schedules

OPTIONS = dict(
    momentum=0.9, nesterov=True, adam_ratio=0.5, b1=0.8, b2=0.95, eps=1e-8,
    weight_decay=0.1, clip_norm=1e9,
)  # fmt: skip


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(0, 1, shape)


@pytest.mark.parametrize(('M', 'N'), [(8, 32), (32, 8), (16, 16)])
def test_newton_schulz_keeps_the_directions_of_an_svd(M, N):
    """And brings singular values near 1. Mutation: other coefficients, 4 iterations."""
    u, _, v = np.linalg.svd(normal(0, 3, M, N), full_matrices=False)
    s = np.geomspace(1, 0.005, min(M, N)) * np.array([1, 1e-6, 1e3])[:, None]
    found = muon.orthogonal(jnp.asarray(u * s[:, None] @ v, jnp.float32))
    core = np.swapaxes(u, -1, -2) @ np.asarray(found, np.float64) @ v.swapaxes(-1, -2)
    new = np.diagonal(core, axis1=-2, axis2=-1)
    assert new.min() > 0.68
    assert new.max() < 1.21
    np.testing.assert_allclose(core - new[..., None] * np.eye(min(M, N)), 0, atol=1e-4)


def polynomial(x):
    """The iteration in float64, on singular values."""
    u, s, v = np.linalg.svd(x, full_matrices=False)
    s = s / np.linalg.norm(s, axis=-1, keepdims=True)
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return (u * s[..., None, :]) @ v


def test_newton_schulz_is_shared_by_the_devices_of_a_mesh():
    """Each multiplies its own rows, and none gets a whole matrix.

    Mutation: an array that is laid whole on each device first.
    """
    place = tiny.sharding(1, 4, 2, 'fsdp_tensor').named(('layers', 'embed', 'mlp'))
    made = jax.jit(muon.orthogonal, in_shardings=place, out_shardings=place)
    like = jax.ShapeDtypeStruct((3, 64, 256), jnp.float32)
    text = made.lower(like).compile().as_text()
    dots = re.findall(r'= f32\[3,(\d+),\d+\]\S* (?:dot|custom-call)\(', text)
    assert dots == ['16'] * 15
    found = re.findall(r'= f32\[(\S+)\]\S* (?:all-gather|all-reduce)\(', text)
    sizes = [math.prod(map(int, shape.split(','))) for shape in found]
    assert max(sizes) <= 3 * 64 * 256 / 2


def test_muon_is_that_of_optax_on_a_matrix():
    """Without nesterov, where optax corrects a bias that Newton-Schulz does not see."""
    schedule = schedules.constant(0.1, 0, steps=10)
    ours = muon.muon(schedule, **OPTIONS | dict(nesterov=False))
    peer = optax.contrib.muon(
        0.1, beta=0.9, nesterov=False, weight_decay=0.1, consistent_rms=0.2
    )
    up = jnp.asarray(normal(0, 6, 10), jnp.float32)
    params = {'mlp': {'up': up}}
    mine, theirs = ours.init(params), peer.init(up)
    for seed in range(1, 4):
        grad = jnp.asarray(normal(seed, 6, 10), jnp.float32)
        updates, mine = jax.jit(ours.update)({'mlp': {'up': grad}}, mine, params)
        wanted, theirs = jax.jit(peer.update)(grad, theirs, up)
        np.testing.assert_allclose(updates['mlp']['up'], wanted, rtol=1e-3, atol=1e-5)


# Of a stack of 2 layers: the shape, and (inputs, outputs) of each matrix.
WEIGHTS = {
    ('attention', 'query'): ((2, 6, 2, 3), (6, 6)),
    ('attention', 'out'): ((2, 2, 2, 7), (4, 7)),
    ('experts', 'down'): ((2, 3, 9, 4), (9, 4)),
}


@pytest.mark.parametrize(
    'nesterov', [True, pytest.param(False, marks=pytest.mark.long)]
)
def test_normuon_is_its_formula(nesterov):
    """Each layer's and expert's matrix by itself, in float64; others by AdamW.

    Mutations: heads apart; the mean over outputs; adam_ratio left out.
    """
    schedule, rate = schedules.cosine(0.1, 2, 0.0, steps=10), 0.0
    optimizer = muon.muon(schedule, **OPTIONS | dict(nesterov=nesterov), neuron_b2=0.7)
    given = {
        name: normal(i, *shape) for i, (name, (shape, _)) in enumerate(WEIGHTS.items())
    }
    given['tokens',] = normal(9, 5, 4)

    def tree(flat):
        made = {}
        for name, x in flat.items():
            place = made if len(name) == 1 else made.setdefault('blocks', {})
            if len(name) == 2:
                place = place.setdefault(name[0], {})
            place[name[-1]] = jnp.asarray(x, jnp.float32)
        return made

    params, update = tree(given), jax.jit(optimizer.update)
    opt_state, mu, nu = optimizer.init(params), {}, {}
    for t in range(1, 5):
        rate = float(schedule(t - 1))
        grads = {
            n: normal(10 * t + i, *x.shape) for i, (n, x) in enumerate(given.items())
        }
        updates, opt_state = update(tree(grads), opt_state, params)
        params = optax.apply_updates(params, updates)
        for name, g in grads.items():
            if name == ('tokens',):
                mu[name] = 0.8 * mu.get(name, 0) + 0.2 * g
                nu[name] = 0.95 * nu.get(name, 0) + 0.05 * g**2
                hat = np.sqrt(nu[name] / (1 - 0.95**t)) + 1e-8
                step = 0.5 * mu[name] / (1 - 0.8**t) / hat
            else:
                m, n = WEIGHTS[name][1]
                g = g.reshape(-1, m, n)
                mu[name] = 0.9 * mu.get(name, 0) + g
                o = polynomial(g + 0.9 * mu[name] if nesterov else mu[name])
                nu[name] = 0.7 * nu.get(name, 0) + 0.3 * np.mean(o**2, 1)
                o = o / np.sqrt(nu[name])[:, None]
                norm = np.linalg.norm(o, axis=(1, 2), keepdims=True)
                step = (0.2 * np.sqrt(m * n) / norm * o).reshape(given[name].shape)
            given[name] = given[name] - rate * (step + 0.1 * given[name])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=3e-5),
        params,
        tree(given),
    )


def test_the_update_of_muon_is_as_large_as_adams_in_every_shape():
    """0.2 of the rate in each weight, whatever sides. Mutation: min for max."""
    optimizer = muon.muon(schedules.constant(1.0, 0, steps=10), **OPTIONS)
    shapes = {'up': (2, 8, 32), 'down': (2, 32, 8), 'gate': (2, 16, 16)}
    grads = {
        'blocks': {
            'mlp': {
                name: jnp.asarray(normal(0, *shape), jnp.float32)
                for name, shape in shapes.items()
            }
        }
    }
    zeros = jax.tree.map(jnp.zeros_like, grads)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(zeros), zeros)
    for leaf in jax.tree.leaves(updates):
        size = np.sqrt(np.mean(np.square(leaf)))
        assert size == pytest.approx(0.2, rel=0.2)
