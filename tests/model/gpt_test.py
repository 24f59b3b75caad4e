"""The model against identities: causality, packing, caching, scan, remat, meshes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gptjax import command, trees
from gptjax.model import config, cost, gpt, layers, table, transformer
from gptjax.objectives import next_token


def forward(model, params, *rows, rngs=None):
    x, _ = model.apply({'params': params}, *rows, method='hidden', rngs=rngs)
    return model.apply({'params': params}, x, method='logits')


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model, params, *rows):
    return forward(model, params, *rows)


@pytest.fixture(scope='module')
def params():
    return transformer.init(tiny.model(), jax.random.key(1))


def test_a_logit_depends_on_its_past_alone_and_on_all_of_it(params):
    """The gradient of logit t by the embedding of position s is 0 just where s > t."""
    model = tiny.model()
    tokens, positions, segments = tiny.whole_rows(1)

    def logits(table_TD):
        changed = {**params, 'positions': table_TD}
        return forward(model, changed, tokens, positions, segments)[0].sum(-1)

    jacobian_TTD = jax.jacobian(logits)(params['positions'])
    reaches = np.abs(jacobian_TTD).max(-1) > 0
    np.testing.assert_array_equal(reaches, np.tril(np.ones_like(reaches)))


def test_packed_documents_equal_documents_alone(params):
    """Per token to 1e-5, and another document in the row changes nothing at all."""
    model, batch = tiny.model(), tiny.packed_batch(4)
    rows = [batch[name] for name in ('tokens', 'positions', 'segments')]
    packed = logits_of(model, params, *rows)
    for row in range(4):
        for number in (1, 2, 3):
            where = np.flatnonzero(batch['segments'][row] == number)
            alone = np.zeros((1, tiny.ARCH.T), np.int32)
            alone[0, : len(where)] = batch['tokens'][row, where]
            steps = np.arange(tiny.ARCH.T, dtype=np.int32)[None]
            real = (steps < len(where)).astype(np.int32)
            expected = logits_of(model, params, alone, steps, real)
            np.testing.assert_allclose(
                packed[row, where], expected[0, : len(where)], atol=1e-5
            )
    first = np.asarray(batch['segments']) == 1
    other = jnp.where(first, batch['tokens'], (batch['tokens'] + 7) % tiny.ARCH.V)
    again = logits_of(model, params, other, *rows[1:])
    np.testing.assert_array_equal(again[first], packed[first])
    assert not np.array_equal(again[~first], packed[~first])


def test_cached_decoding_equals_the_full_forward(params):
    """A ragged prefill, then token by token: the logits of teacher forcing."""
    model = tiny.model()
    tokens, positions, segments = tiny.whole_rows(3)
    full = logits_of(model, params, tokens, positions, segments)
    lengths = np.array([5, 9, 1])
    layer_list = gpt.unstack(params)
    cache = gpt.init_cache(tiny.ARCH, 3, tiny.ARCH.T, jnp.float32)
    decode = jax.jit(lambda t, p, c, n: gpt.decode(model, layer_list, t, p, c, n))
    last, cache = decode(
        tokens[:, :10], positions[:, :10], cache, jnp.array(lengths - 1)
    )
    rows = np.arange(3)
    np.testing.assert_allclose(last, full[rows, lengths - 1], atol=2e-5)
    for _ in range(tiny.ARCH.T - 9):
        step = jnp.array(lengths)[:, None]
        logits, cache = decode(tokens[rows, lengths][:, None], step, cache, rows * 0)
        np.testing.assert_allclose(logits, full[rows, lengths], atol=2e-5)
        lengths = lengths + 1


@pytest.mark.parametrize(
    'changes', [{'scan_unroll': 2}, {'remat': 'full'}, {'remat': 'dots'}], ids=str
)
def test_compute_settings_change_nothing_that_is_computed(params, changes):
    batch = tiny.packed_batch(2)

    def loss_and_gradients(compute):
        model = tiny.model(compute=compute)

        def loss(params):
            rows = [batch[name] for name in ('tokens', 'positions', 'segments')]
            return jnp.mean(jnp.square(forward(model, params, *rows)))

        return jax.jit(jax.value_and_grad(loss))(params)

    plain = loss_and_gradients(tiny.COMPUTE)
    changed = loss_and_gradients(dataclasses.replace(tiny.COMPUTE, **changes))
    # Another order of sums in float32.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5),
        plain,
        changed,
    )


def test_bfloat16_compute_keeps_float32_weights_and_gradients(params):
    compute = dataclasses.replace(tiny.COMPUTE, dtype='bfloat16')
    rows = tiny.whole_rows(2)
    exact = logits_of(tiny.model(), params, *rows)
    model = tiny.model(compute=compute)
    near = logits_of(model, params, *rows)
    assert near.dtype == jnp.float32
    # bfloat16 has 8 bits of precision: close, and not equal.
    assert 1e-4 < np.abs(near - exact).max() / np.abs(exact).max() < 0.05
    gradients = jax.grad(lambda p: logits_of(model, p, *rows).mean())(params)
    assert {g.dtype for g in jax.tree.leaves(gradients)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('mesh', [(8, 1, 1), (1, 8, 1), (2, 2, 2)], ids=str)
def test_a_mesh_changes_neither_the_start_nor_the_logits(params, mesh):
    place = tiny.sharding(*mesh, rules='fsdp_tensor')
    model = tiny.model(place=place)
    born = transformer.init(model, jax.random.key(1))
    assert trees.digest(born) == trees.digest(params)
    query = born['blocks']['attention']['query']  # (L, D, N, H)
    parts = [tiny.ARCH.L, tiny.ARCH.D // mesh[1], tiny.ARCH.N // mesh[2], tiny.ARCH.H]
    assert query.sharding.shard_shape(query.shape) == tuple(parts)
    rows = tiny.whole_rows(8)
    np.testing.assert_allclose(
        logits_of(model, born, *rows),
        logits_of(tiny.model(), params, *rows),
        atol=1e-5,
    )


def test_dropout_falls_in_training_only_and_follows_its_key(params):
    model = tiny.model(dropout=0.5)
    rows = tiny.whole_rows(1)

    def apply(model, seed):
        key = {'dropout': jax.random.key(seed)}
        return forward(model, params, *rows, rngs=key)

    np.testing.assert_array_equal(apply(model, 0), apply(tiny.model(), 1))
    train = model.clone(train=True)
    np.testing.assert_array_equal(apply(train, 0), apply(train, 0))
    assert not np.allclose(apply(train, 0), apply(train, 1))


@pytest.mark.parametrize(
    ('spec', 'left', 'right'),
    [
        ('BTD,DNH->BTNH', (2, 3, 4), (4, 5, 6)),
        ('BTNH,NHD->BTD', (2, 3, 4, 5), (4, 5, 6)),
        ('BTD,VD->BTV', (2, 3, 4), (7, 4)),
    ],
)
def test_the_product_and_its_gradients_are_those_of_jnp(spec, left, right):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], left)
    w = jax.random.normal(keys[1], right)
    ours, ours_vjp = jax.vjp(lambda x, w: layers.einsum(spec, x, w), x, w)
    theirs, theirs_vjp = jax.vjp(lambda x, w: jnp.einsum(spec, x, w), x, w)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    dy = jax.random.normal(keys[2], ours.shape)
    for a, b in zip(ours_vjp(dy), theirs_vjp(dy), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('name', 'published'),
    [
        ('gpt2-small', 124_439_808),
        ('gpt2-medium', 354_823_168),
        ('gpt2-large', 774_030_080),
        ('gpt2-xl', 1_557_611_200),
    ],
)
def test_presets_have_the_published_numbers_of_parameters(name, published):
    arch = config.architecture(**table.preset(name))
    boxed = transformer.abstract(transformer.make(arch, tiny.COMPUTE, tiny.sharding()))
    assert trees.count(boxed) == published


def test_flops_of_gpt2_small_are_those_of_the_field():
    """0.855 GFLOP a token at T = 1024: 6 N + 12 L D T, N without positions."""
    arch = config.architecture(**table.preset('gpt2-small'))
    assert cost.flops_per_token(arch) == pytest.approx(0.855e9, rel=2e-3)


def test_bad_sizes_are_refused_by_name():
    with pytest.raises(command.UserError, match=r'model\.N is 0'):
        tiny.model(N=0)
    with pytest.raises(command.UserError, match="did you mean 'gpt2-small'"):
        table.preset('gpt2-smal')
    with pytest.raises(command.UserError, match='float32'):
        config.Compute('float33', 'none', 1, 1)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_grouped_product_and_its_gradients_are_those_of_each_group(dtype):
    """The weights' gradient in float32 from the rounded operands, not rounded again."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (10, 5)).astype(dtype)
    w = jax.random.normal(keys[1], (4, 5, 6))
    sizes = jnp.array([3, 0, 6, 1])
    ours, back = jax.vjp(lambda x, w: layers.grouped(x, w, sizes), x, w)
    dy = jax.random.normal(keys[2], ours.shape).astype(dtype)
    dx, dw = back(dy)
    assert (ours.dtype, dx.dtype, dw.dtype) == (dtype, dtype, jnp.float32)
    wide = (np.asarray(a.astype(dtype), np.float64) for a in (x, w, dy))
    x64, w64, dy64 = wide
    near = {'float32': 1e-5, 'bfloat16': 0.03}[dtype]  # of what is returned in dtype
    for group, (a, b) in enumerate([(0, 3), (3, 3), (3, 9), (9, 10)]):
        np.testing.assert_allclose(ours[a:b], x64[a:b] @ w64[group], near, near)
        np.testing.assert_allclose(dx[a:b], dy64[a:b] @ w64[group].T, near, near)
        np.testing.assert_allclose(dw[group], x64[a:b].T @ dy64[a:b], 1e-5, 1e-5)


@pytest.mark.parametrize('F', [5, 16, 40])
def test_gradients_of_a_bfloat16_product_run_compiled(F):
    """The weight's, exact from the rounded operands, whichever of them is larger.

    Without the barrier before its transpose, XLA on CPU ends with F = 5, as it does in
    the step of V = 384 and width 128 below.
    """
    keys = jax.random.split(jax.random.key(0), 3)
    x, dy = (
        jax.random.normal(key, (2, 4, n), jnp.bfloat16)
        for key, n in zip(keys, (16, F), strict=False)
    )
    w = jax.random.normal(keys[2], (16, F))

    @jax.jit
    def gradients(x, w, dy):
        return jax.vjp(lambda *a: layers.einsum('BTD,DF->BTF', *a), x, w)[1](dy)

    dx, dw = gradients(x, w, dy)
    x64, w64, dy64 = (np.float64(a.astype(jnp.bfloat16)) for a in (x, w, dy))
    np.testing.assert_allclose(dw, np.einsum('btd,btf->df', x64, dy64), 1e-5, 1e-5)
    np.testing.assert_allclose(np.float64(dx), dy64 @ w64.T, 0.01, 0.05)


def test_a_bfloat16_step_of_shakespeare_runs():
    model = tiny.model(
        config.architecture(**table.preset('gpt2-micro', T=64, V=384, L=1, D=128)),
        dataclasses.replace(tiny.COMPUTE, dtype='bfloat16', scan_unroll=1),
    )
    loss_fn = next_token.make(model)
    batch = tiny.packed_batch(12, model.arch)

    @jax.jit
    def step(params):
        def loss(p):
            return loss_fn(p, {}, batch, None).terms['loss'][0]

        return jax.value_and_grad(loss)(params)

    loss, gradients = step(transformer.init(model, jax.random.key(0)))
    weight = batch['weights'].sum()
    assert loss / weight == pytest.approx(np.log(384), abs=0.3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
