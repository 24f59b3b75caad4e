"""Kernels of attention equal the reference, are chosen aloud, and work in models."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gptjax import command
from gptjax.model import blocked, config, flash, kernels, transformer

CAUSAL = blocked.Sight(causal=True, window=0)
# Sums in float32 over other orders: a few units in the last place of 2^-24.
EXACT = 1e-5


def error(run, sight, shape, dtype='float32'):
    return kernels._error(kernels.Kernel(run, plain=False), sight, shape, dtype)


@pytest.mark.parametrize(
    ('causal', 'window', 'shape'),
    [
        (True, 0, (100, 4, 2, 8)),  # blocks of 32, the last one short; grouped heads
        (True, 20, (300, 2, 2, 8)),
        (False, 20, (100, 4, 2, 8)),
    ],
)
def test_blocks_equal_the_reference(causal, window, shape):
    """Fails for keys that begin or end a block early, and for a lost gradient."""
    sight = blocked.Sight(causal, window)
    assert error(blocked.attend, sight, shape) < EXACT


def test_blocks_in_bfloat16_are_as_near_as_its_8_bits():
    sight, shape = CAUSAL, (128, 2, 2, 8)
    assert EXACT < error(blocked.attend, sight, shape, 'bfloat16') < 2**-6


@pytest.mark.parametrize(
    ('causal', 'window', 'query', 'seen'),
    [
        (True, 0, 3, slice(2, 4)),
        (True, 2, 4, slice(3, 5)),
        (False, 0, 2, slice(2, 5)),
        (False, 2, 2, slice(2, 4)),
    ],
)
def test_the_reference_is_the_formula(causal, window, query, seen):
    """A query by hand; fails for a window one token wider, or across documents."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (1, 6, 1, 4)) for key in keys)
    inputs = blocked.Inputs(q, k, v, jnp.array([[1, 1, 2, 2, 2, 0]]))
    y = kernels.reference(inputs, blocked.Sight(causal, window))
    scores = np.exp(np.array(k[0, seen, 0] @ q[0, query, 0]) / 2)
    expected = scores @ np.array(v[0, seen, 0]) / scores.sum()
    np.testing.assert_allclose(y[0, query, 0], expected, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    ('kernel', 'window'), [(flash.splash, 0), (flash.splash, 20), (flash.triton, 0)]
)
@pytest.mark.parametrize('causal', [True, False])
def test_library_kernels_equal_the_reference_when_interpreted(kernel, causal, window):
    run = functools.partial(kernel, interpret=True)
    assert error(run, blocked.Sight(causal, window), (128, 4, 2, 16)) < EXACT


def test_documents_of_cudnn_are_lengths_and_starts():
    segments = jnp.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    lengths, starts = flash.documents(segments, 4)
    np.testing.assert_array_equal(lengths, [[2, 3, 1, -1], [6, -1, -1, -1]])
    np.testing.assert_array_equal(starts, [[0, 2, 5, -1, -1], [0, -1, -1, -1, -1]])


def test_cudnn_lowers_forward_and_backward(monkeypatch):
    """What XLA is given for a GPU; whether it is right there, the probe finds out."""
    from jax._src.cudnn import fused_attention_stablehlo as library

    monkeypatch.setattr(library, 'check_cudnn_version', lambda: 91_000)
    monkeypatch.setattr(library, 'check_compute_capability', lambda _: True)
    monkeypatch.setattr(library, 'is_cuda_compute_capability_equal', lambda _: False)
    both = kernels._both(kernels.KERNELS['cudnn'], CAUSAL)
    q, k = (jax.ShapeDtypeStruct((2, 128, n, 64), jnp.bfloat16) for n in (4, 2))
    rows = jax.ShapeDtypeStruct((2, 128), jnp.int32)
    lowered = jax.jit(both).trace(rows, q, k, k, q).lower(lowering_platforms=('cuda',))
    text = lowered.as_text()
    # One document a row, and several: a call of each.
    assert text.count('@__cudnn$fmhaSoftmax(') == 2
    assert text.count('@__cudnn$fmhaSoftmaxBackward(') == 2


def with_attention(name):
    return dataclasses.replace(tiny.COMPUTE, attention=name)


@pytest.fixture
def broken(monkeypatch):
    """A kernel that sees the future, and one that fails, before 'blocked'."""

    def future(x, sight):
        return kernels.reference(x, sight._replace(causal=False))

    def fails(x, sight):
        raise NotImplementedError('heads are too wide')

    monkeypatch.setitem(kernels.KERNELS, 'splash', kernels.Kernel(future, plain=False))
    monkeypatch.setitem(kernels.KERNELS, 'triton', kernels.Kernel(fails, plain=False))
    monkeypatch.setitem(kernels.CANDIDATES, 'cpu', ('splash', 'triton', 'blocked'))
    kernels.choose.cache_clear()
    yield
    kernels.choose.cache_clear()


def test_a_broken_kernel_is_passed_over_aloud(broken):
    """Fails where the probe compares nothing, or takes an exception for an answer."""
    choice = kernels.choose(tiny.ARCH, with_attention('auto'), tiny.sharding(), 16)
    assert choice.name == 'blocked'
    assert str(choice).startswith('blocked (splash: off by ')
    assert 'triton: NotImplementedError: heads are too wide' in str(choice)


def test_a_kernel_that_is_asked_for_and_fails_ends_the_command(broken):
    with pytest.raises(command.UserError, match="too wide; set it to 'auto'"):
        kernels.choose(tiny.ARCH, with_attention('triton'), tiny.sharding(), 16)


def test_of_an_encoder_and_a_decoder_a_kernel_is_right_for_both(broken, monkeypatch):
    """Fails where the probe is of rows that hide their future alone."""

    def past(x, sight):
        return kernels.reference(x, sight._replace(causal=True))

    monkeypatch.setitem(kernels.KERNELS, 'splash', kernels.Kernel(past, plain=False))
    given = with_attention('auto'), tiny.sharding(), 64
    assert kernels.choose(tiny.ARCH, *given).name == 'splash'
    both = dataclasses.replace(tiny.ARCH, encoder_L=1)
    assert kernels.choose(both, *given).name == 'blocked'


def test_what_a_kernel_cannot_do_is_refused():
    compute, place = with_attention('splash'), tiny.sharding()
    with pytest.raises(command.UserError, match='rows of 16 tokens, not of a multiple'):
        kernels.choose(tiny.ARCH, compute, place, 16)
    arch = dataclasses.replace(tiny.ARCH, dropout=0.1)
    choice = kernels.choose(arch, with_attention('auto'), place, 16)
    assert str(choice) == 'reference (no other has dropout inside)'
    model = tiny.model(arch, with_attention('auto'))
    named = [kernels.attending(model, 16, train)[1].name for train in (True, False)]
    assert named == ['reference', 'blocked']
    with pytest.raises(command.UserError, match='did you mean'):
        with_attention('splas')


def test_every_kernel_has_a_word_about_it():
    assert set(config.ATTENTION) == {'auto', *kernels.KERNELS}


def _loss_and_gradients(arch, name, place, batch):
    model = tiny.model(arch, with_attention(name), place)
    params = transformer.init(tiny.model(arch), jax.random.key(0))
    params = jax.device_put(params, place.replicated)

    def loss(params):
        logits_BTV = transformer.forward(model, params, batch)
        log_p = jax.nn.log_softmax(logits_BTV)
        picked = jnp.take_along_axis(log_p, batch['targets'][..., None], -1)[..., 0]
        return -jnp.sum(picked * batch['weights'])

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.long
def test_models_have_the_same_gradients_over_eight_devices():
    """Layers with and without a window, in a scan."""
    arch = dataclasses.replace(tiny.ARCH, windows=(0, 5), K=2, T=40)
    place = tiny.sharding(data=2, fsdp=2, tensor=2, rules='fsdp_tensor')
    batch = tiny.packed_batch(4, arch)
    expected = _loss_and_gradients(arch, 'reference', tiny.sharding(), batch)
    found = _loss_and_gradients(arch, 'blocked', place, batch)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(compare, found, expected)


@pytest.mark.long
def test_a_kernel_that_is_not_xla_runs_on_each_shard(monkeypatch):
    """Of eight devices each has its rows and heads alone; fails without shard_map."""
    seen = []

    def local(x, sight):
        seen.append((x.q_BTNH.shape, x.k_BTKH.shape))
        return blocked.attend(x, sight)

    monkeypatch.setitem(kernels.KERNELS, 'splash', kernels.Kernel(local, plain=False))
    arch = dataclasses.replace(tiny.ARCH, K=2, L=1)
    place = tiny.sharding(data=2, fsdp=2, tensor=2, rules='fsdp_tensor')
    batch = tiny.packed_batch(4, arch)
    found = _loss_and_gradients(arch, 'splash', place, batch)
    expected = _loss_and_gradients(arch, 'reference', tiny.sharding(), batch)
    assert set(seen) == {((1, 16, 2, 4), (1, 16, 1, 4))}
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(compare, found, expected)
