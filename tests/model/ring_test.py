"""Rows over several devices equal rows on one, evenly, with the messages of a ring."""

from collections import Counter
import dataclasses
import functools
import itertools
import math
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import messages
import numpy as np
import optax
import pytest
import tiny
import tiny_family

from gptjax import command
from gptjax import sharding as sharding_lib
from gptjax.model import blocked, gpt, kernels, pieces, ring, transformer
from gptjax.objectives import next_token
from gptjax.train import state, step

STEPS = 20
CAUSAL = blocked.Sight(causal=True, window=0)


def place(rules, **sizes):
    return sharding_lib.make(**(dict(data=1, fsdp=1, tensor=1) | sizes), rules=rules)


@pytest.mark.parametrize('C', [1, 2, 4, 8])
def test_devices_have_as_much_to_see_as_each_other(C):
    """Fails for the natural order, in which the last device sees most."""
    T = 6 * C
    order = pieces.order(T, C)
    np.testing.assert_array_equal(np.sort(order), np.arange(T))
    seen = (order[:, None] >= np.arange(T)).reshape(C, -1).sum(1)
    assert len(set(seen)) == 1
    numbers = np.array([pieces.on_device(True, i, C) for i in range(C)])
    np.testing.assert_array_equal(order.reshape(C, 2, -1)[..., 0], numbers * 3)


@pytest.mark.parametrize(
    ('window', 'causal', 'expected'),
    [
        (0, True, [0, 1, 2, 3, 4, 5, 6, 7]),
        (3, True, [0, 1, 7]),  # a token sees this piece of 4 and that before it
        (6, True, [0, 1, 2, 6, 7]),
        (3, False, [0, 1, 7]),
    ],
)
def test_rounds_in_which_nothing_is_seen_are_left_out(window, causal, expected):
    assert pieces.shifts(blocked.Sight(causal, window), 4, 8) == expected


def inputs(B, T, N, K):
    """q, k, v and dy, and documents of which some end within a piece."""
    keys = jax.random.split(jax.random.key(0), 4)
    arrays = [
        jax.random.normal(key, (B, T, n, 4))
        for key, n in zip(keys, (N, K, K, N), strict=True)
    ]
    segments_BT = np.sort(np.random.default_rng(0).integers(1, 4, (B, T)), 1)
    segments_BT[:, -3:] = 0
    return arrays, jnp.asarray(segments_BT)


def both(run, segments_BT, q, k, v, dy):
    def of(q, k, v):
        return run(blocked.Inputs(q, k, v, segments_BT))

    y, backward = jax.vjp(of, q, k, v)
    return y, *backward(dy)


def check(name, C, sight, K, T):
    """Compares outputs and gradients with the reference; the compiled text."""
    mesh = place('data_context', data=8 // C, context=C).mesh
    arrays, segments_BT = inputs(8 // C, T, 4, K)
    reference = functools.partial(kernels.reference, sight=sight)
    wanted = jax.jit(functools.partial(both, reference))(segments_BT, *arrays)
    order = pieces.order(T, C) if sight.causal else np.arange(T)
    split = P('data', 'context')
    sharded = jax.shard_map(
        functools.partial(kernels.KERNELS[name].run, sight=sight),
        mesh=mesh,
        in_specs=(blocked.Inputs(split, split, split, P('data')),),
        out_specs=split,
        check_vma=False,
    )
    put = functools.partial(jax.device_put, device=jax.NamedSharding(mesh, split))
    rows = segments_BT[:, order], *(put(x[:, order]) for x in arrays)
    run = jax.jit(functools.partial(both, sharded)).lower(*rows).compile()
    for got, want in zip(run(*rows), wanted, strict=True):
        np.testing.assert_allclose(got, want[:, order], atol=1e-5)
    return run.as_text()


def test_the_ring_equals_the_reference_and_sends_what_it_must(monkeypatch):
    """Of documents, with two query heads a key head, in blocks of two queries.

    The last block of a piece has one. Fails for pieces without it, without the
    rescaling of earlier sums, for keys of the wrong neighbour, for gradients that do
    not come home, and where XLA gathers keys.
    """
    monkeypatch.setattr(ring, '_BLOCK', 2)
    C = 4
    sent = messages.of(check('ring', C, CAUSAL, 2, 40))
    # Keys and values C - 1 times, their gradients C; XLA merges what backward is sent
    # with what forward was, where no loop over layers lies between the two.
    assert Counter(m.kind for m in sent if m.type == 'f32') == {
        'collective-permute': 2 * (C - 1) + 2 * C
    }


def test_keys_that_are_gathered_are_so_once():
    sent = messages.of(check('gather', 2, CAUSAL, 2, 16))
    kinds = Counter(m.kind for m in sent if m.type == 'f32')
    assert kinds['all-gather'] == 2
    assert kinds['collective-permute'] == 0
    assert kinds['reduce-scatter'] + kinds['all-reduce'] == 2


@pytest.mark.long
@pytest.mark.parametrize('name', ['ring', 'gather'])
@pytest.mark.parametrize(
    ('C', 'causal', 'window'),
    [
        (2, True, 0),
        (8, True, 0),
        (4, False, 0),
        (4, True, 5),
        (8, True, 9),
        (4, False, 5),
    ],
)
def test_both_equal_the_reference_over_all_sizes(name, C, causal, window, monkeypatch):
    """In blocks of at most three queries, which do not divide a piece."""
    monkeypatch.setattr(ring, '_BLOCK', 3)
    check(name, C, blocked.Sight(causal, window), 4, 80)


def test_rows_come_back_in_their_natural_order_without_a_gather():
    """By two messages of half a device's row; fails for homes of another order."""
    over = place('fsdp_context', fsdp=2, context=4)
    x_BTD = jnp.arange(2 * 16 * 3.0).reshape(2, 16, 3)
    lies = jax.NamedSharding(over.mesh, P('fsdp', 'context'))
    shuffled = jax.device_put(x_BTD[:, pieces.order(16, 4)], lies)
    run = jax.jit(functools.partial(pieces.natural, over)).lower(shuffled).compile()
    np.testing.assert_array_equal(run(shuffled), x_BTD)
    half = messages.Message('collective-permute', 'f32', (1, 2, 3))
    assert messages.of(run.as_text()) == [half] * 2


def compute(name):
    return dataclasses.replace(tiny.COMPUTE, attention=name)


def test_rows_over_devices_have_their_kernels_and_others_are_refused():
    over = place('data_context', data=2, context=4)
    assert kernels.choose(tiny.ARCH, compute('auto'), over, 16).name == 'ring'
    choose = functools.partial(kernels.choose, tiny.ARCH)
    with pytest.raises(command.UserError, match='whole rows, and mesh'):
        choose(compute('splash'), over, 128)
    with pytest.raises(command.UserError, match='gather: rows are whole'):
        choose(compute('gather'), tiny.sharding(), 16)
    with pytest.raises(command.UserError, match='rows of 12 tokens, not of'):
        choose(compute('ring'), over, 12)
    assert str(choose(compute('auto'), over, 12)).startswith('blocked (ring: rows of')
    dropped = dataclasses.replace(tiny.ARCH, dropout=0.1)
    assert kernels.choose(dropped, compute('auto'), over, 16).name == 'reference'


@functools.cache
def trained(arch, over, name):
    """(20 losses, the gradients of the first batch) of Adam from seed 0."""
    model, optimizer = tiny.model(arch, compute(name), over), optax.adam(3e-3)
    _, places = state.shardings_of(transformer.abstract(model), optimizer, over)
    params = transformer.init(model, jax.random.key(0))
    loss_fn = next_token.make(model)
    run = jax.jit(
        functools.partial(
            step.train_step, loss_fn=loss_fn, optimizer=optimizer, accumulate=1
        ),
        out_shardings=(places, over.replicated),
    )
    batches = [tiny.packed_batch(8, arch, seed=seed) for seed in range(STEPS)]
    batches = jax.device_put(batches, over.named(('batch',)))

    def loss(params):
        return step.means(loss_fn(params, {}, batches[0], None))['loss']

    gradients = jax.device_get(jax.jit(jax.grad(loss))(params))
    current, losses = state.create(params, optimizer, 0, places), []
    for batch in batches:
        current, metrics = run(current, {}, batch)
        losses.append(float(metrics['loss']))
    return np.array(losses), gradients


def test_what_is_seen_is_there_for_one_block_at_once(monkeypatch):
    """The largest mask of a gradient is of 8 queries and a piece of 16 keys.

    Mutation: without the barrier, those of all blocks and heads are made before the
    first layer, and kept: their memory grows with the square of T.
    """
    monkeypatch.setattr(ring, '_BLOCK', 8)
    over = place('context', context=2)
    arch = dataclasses.replace(tiny.ARCH, T=64)
    how = dataclasses.replace(compute('ring'), remat='full')
    model = tiny.model(arch, how, over)
    loss_fn = next_token.make(model)
    batch = tiny.packed_batch(1, arch)

    def loss(params):
        return step.means(loss_fn(params, {}, batch, None))['loss']

    text = (
        jax.jit(jax.grad(loss)).lower(nn.unbox(transformer.abstract(model))).as_text()
    )
    masks = re.findall(r'tensor<([\dx]+)x16xi1>', text)
    sizes = [math.prod(map(int, mask.split('x'))) * 16 for mask in masks]
    assert max(sizes) == arch.N * 8 * 16


@pytest.mark.long
@pytest.mark.parametrize(
    ('rules', 'sizes', 'name'),
    [
        ('context', dict(context=8), 'ring'),
        ('fsdp_context', dict(fsdp=4, context=2), 'ring'),
        ('fsdp_context', dict(fsdp=2, context=4), 'gather'),
        ('tensor_context', dict(tensor=2, context=4), 'ring'),
        ('fsdp_tensor_context', dict(fsdp=2, tensor=2, context=2), 'ring'),
        ('stage_context', dict(data=2, stage=2, context=2), 'ring'),
        ('data_context', dict(data=2, context=4), 'reference'),
        ('data_context', dict(data=2, context=4), 'blocked'),
        ('tensor_sequence', dict(data=4, tensor=2), 'blocked'),
        ('fsdp_tensor_sequence', dict(fsdp=2, tensor=4), 'reference'),
        (
            'fsdp_tensor_context_sequence',
            dict(fsdp=2, tensor=2, context=2),
            'ring',
        ),
    ],
    ids=str,
)
def test_training_is_the_same_over_devices(rules, sizes, name):
    """20 losses and the gradients, of packed rows, windows and grouped heads."""
    K = 4 if sizes.get('tensor') == 4 else 2
    arch = dataclasses.replace(tiny.ARCH, K=K, windows=(0, 5))
    losses, gradients = trained(arch, place(rules, **sizes), name)
    wanted, truth = trained(arch, tiny.sharding(), 'reference')
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    for got, want in zip(*map(jax.tree.leaves, (gradients, truth)), strict=True):
        # Those of biases of keys are nothing but rounding.
        np.testing.assert_allclose(got, want, 0, 1e-5 * np.abs(want).max() + 1e-7)


@pytest.mark.long
@pytest.mark.parametrize('family', ['bert', 'bart', 'mixtral', 'gpt3'])
def test_families_compute_the_same_in_a_ring(family):
    """Encoders, which keep their order, decoders beside them, experts, windows."""

    def hidden(over, name):
        model = tiny_family.model(family, compute(name), over)
        batch = tiny_family.batch(model.arch, rows=4)
        return tiny_family.hidden(model)(tiny_family.params(model), batch)

    found = hidden(place('fsdp_context', fsdp=2, context=4), 'ring')
    np.testing.assert_allclose(found, hidden(tiny.sharding(), 'reference'), atol=2e-5)


@pytest.mark.long
def test_decoding_works_on_a_mesh_that_splits_rows():
    """Rollouts decode on the mesh of training: a prefill, then token by token."""
    over = place('fsdp_tensor_context', fsdp=2, tensor=2, context=2)
    model = tiny.model(compute=compute('ring'), place=over)
    params = transformer.init(model, jax.random.key(0))
    tokens, positions, segments = tiny.whole_rows(4)
    batch = dict(tokens=tokens, positions=positions, segments=segments)
    full = jax.jit(functools.partial(transformer.forward, model))(params, batch)
    decode = jax.jit(functools.partial(transformer.decode, model))
    layers = transformer.unstack(model, params)
    cache = gpt.init_cache(model.arch, 4, 16, jnp.float32)
    for a, b in itertools.pairwise([0, 10, 11, 12, 13]):
        found, cache = decode(layers, tokens[:, a:b], positions[:, a:b], cache)
        np.testing.assert_allclose(found, full[:, a:b], atol=5e-5)
