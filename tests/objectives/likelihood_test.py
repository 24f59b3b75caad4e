"""The likelihood of targets: no wide logits, a padded vocabulary, and in parts."""

import dataclasses

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import sharding as sharding_lib
from gptjax.model import config, layers, leaves, table, transformer
from gptjax.objectives import next_token

B, T, V = 2, 12, 1030  # 1030 is padded to 1152


def made(dtype='float32', V=V, **changes):
    arch = config.architecture(
        **table.preset('gpt2-nano', T=T, V=V, D=32, F=64, N=2, K=2, H=16)
    )
    compute = config.Compute(dtype, remat='none', scan_unroll=1, accumulate=1)
    compute = dataclasses.replace(compute, **changes)
    model = transformer.make(arch, compute, sharding_lib.single())
    keys = jax.random.split(jax.random.key(0), 3)
    x_BTD = jax.random.normal(keys[0], (B, T, 32), dtype)
    targets_BT = jax.random.randint(keys[1], (B, T), 0, V)
    params = jax.tree.map(lambda w: 20 * w, transformer.init(model, keys[2]))
    return model, params, x_BTD, targets_BT


def likelihood(model, params, x_BTD, targets_BT):
    weights_BT = jnp.linspace(0.5, 1.5, B * T).reshape(B, T)
    nats_BT = next_token.of_targets(model, params, x_BTD, targets_BT)
    return jnp.sum(nats_BT * weights_BT)


def by_hand(params, x_BTD, targets_BT):
    """(likelihood, its gradients by x and by the tied weights), in float64."""
    w, x = (np.asarray(a, np.float64) for a in (params['tokens'], x_BTD))
    logits = x @ w.T
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    p = exp / exp.sum(-1, keepdims=True)
    weights = np.linspace(0.5, 1.5, B * T).reshape(B, T)
    own = np.eye(len(w))[np.asarray(targets_BT)]
    d = (own - p) * weights[..., None]
    value = (np.log((p * own).sum(-1)) * weights).sum()
    return value, d @ w, np.einsum('btv,btd->vd', d, x)


@pytest.mark.parametrize('rows', [0, 6, 8])
def test_it_and_its_gradients_are_those_of_the_formula(rows):
    """Fails if padding has probability, if a part is left out or weighs twice."""
    model, *given = made(loss_rows=rows)
    expected = by_hand(*given)
    params, x_BTD, targets_BT = given
    value, (of_params, of_x) = jax.value_and_grad(
        lambda p, x: likelihood(model, p, x, targets_BT), argnums=(0, 1)
    )(params, x_BTD)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(of_x, expected[1], atol=2e-5)
    np.testing.assert_allclose(of_params['tokens'], expected[2], atol=2e-5)


def test_logits_are_padded_inside_alone():
    model, params, x_BTD, _ = made()
    assert transformer.scores(model, params, x_BTD).shape == (B, T, 1152)
    assert transformer.logits(model, params, x_BTD).shape == (B, T, V)
    model, params, x_BTD, _ = made(V=65)  # where a half more would be padding
    assert transformer.scores(model, params, x_BTD).shape == (B, T, 65)


def test_no_float32_array_of_logits_waits_for_backward():
    """Fails if logits are widened before the loss, or probabilities are kept."""
    model, *given = made('bfloat16')
    _, backward = jax.vjp(lambda p, x: likelihood(model, p, x, given[2]), *given[:2])
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.shape[-1:] >= (V,)]
    assert [leaf.dtype for leaf in kept] == [jnp.bfloat16]


def test_in_parts_logits_are_not_kept_at_all():
    model, *given = made('bfloat16', loss_rows=4)
    _, backward = jax.vjp(lambda p, x: likelihood(model, p, x, given[2]), *given[:2])
    assert not [leaf for leaf in jax.tree.leaves(backward) if leaf.shape[-1:] >= (V,)]


def converted(jaxpr, shape):
    """How often an array of a shape becomes bfloat16 in a program, loops counted."""
    found = 0
    for eqn in jaxpr.eqns:
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            times = {'length': 1, **eqn.params}['length']
            found += times * converted(inner, shape)
        if eqn.primitive.name == 'convert_element_type':
            cast = eqn.params['new_dtype'] == jnp.bfloat16
            found += cast and eqn.invars[0].aval.shape == shape
    return found


def test_weights_are_cast_once_for_forward_and_backward():
    """Fails if a layer casts its own in the scan: four casts of `up`, and not one."""
    model, params, _, targets_BT = made('bfloat16')
    up = params['blocks']['mlp']['up']
    ones = jnp.ones_like(targets_BT)
    batch = dict(tokens=targets_BT, targets=targets_BT, segments=ones, positions=ones)
    loss_fn = next_token.make(model)

    def loss(params):
        return loss_fn(params, {}, {**batch, 'weights': 1.0 * ones}, None).terms['loss']

    jaxpr = jax.make_jaxpr(jax.grad(lambda p: loss(p)[0]))(params).jaxpr
    assert converted(jaxpr, up.shape) == 1
    assert converted(jaxpr, up.shape[1:]) == 0
    gradients = jax.eval_shape(jax.grad(lambda p: loss(p)[0]), params)
    assert gradients['blocks']['mlp']['up'].dtype == jnp.float32


def test_a_cast_weight_has_the_gradient_of_the_weight():
    weight = leaves.Cast(jnp.ones((3, 4)), jnp.full((3, 4), 2, jnp.bfloat16))
    x = jnp.ones((2, 3), jnp.bfloat16)
    y, back = jax.vjp(lambda x, w: layers.einsum('bd,df->bf', x, w), x, weight)
    np.testing.assert_array_equal(y, 6)
    of_x, of_weight = back(jnp.ones_like(y))
    np.testing.assert_array_equal(of_x, 8)
    np.testing.assert_array_equal(of_weight.weight, 2)
    np.testing.assert_array_equal(of_weight.cast, 0)


def test_an_adapted_head_has_no_padding():
    """Fails if a weight that is more than one array is padded as one."""
    arch = config.architecture(
        **table.preset(
            'gpt2-nano', T=T, V=V, D=32, F=64, N=2, K=2, H=16, head=dict(tied=False)
        )
    )
    compute = config.Compute('float32', remat='none', scan_unroll=1, accumulate=1)
    model = transformer.make(arch, compute, sharding_lib.single())
    params = transformer.init(model, jax.random.key(0))
    down, up = jnp.ones((32, 2)), jnp.ones((2, V))
    adapted = leaves.Adapted(params['head']['unembed'], down, up, 1.0)
    params['head']['unembed'] = adapted
    x_BTD = jax.random.normal(jax.random.key(1), (B, T, 32))
    scores_BTV = transformer.scores(model, params, x_BTD)
    np.testing.assert_array_equal(scores_BTV, transformer.logits(model, params, x_BTD))
