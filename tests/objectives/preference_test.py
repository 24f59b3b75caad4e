"""The preference objective against formulas in NumPy, and at its start."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gptjax import command, sharding
from gptjax.model import transformer
from gptjax.objectives import preference, preferences, table
from gptjax.train import step


def made(name, beta, reference='live', **options):
    loss = dict(name=name, beta=beta, **options)
    return preference.make(tiny.model(), loss, reference)


@pytest.fixture(scope='module')
def pairs():
    two = [tiny.packed_batch(3, seed=seed) for seed in (1, 2)]
    return {name: jnp.stack([b[name] for b in two], 1) for name in two[0]}


@pytest.fixture(scope='module')
def models():
    return [transformer.init(tiny.model(), jax.random.key(seed)) for seed in (0, 1)]


def test_the_first_loss_is_ln_2(pairs, models):
    loss_fn = made('sigmoid', 0.1)
    loss = step.means(loss_fn(models[0], {'reference': models[0]}, pairs, None))
    assert float(loss['loss']) == pytest.approx(np.log(2), abs=1e-6)
    assert float(loss['reward_accuracy']) == 0  # a tie is not a right answer


def test_the_loss_is_the_formula(pairs, models):
    beta = 0.3
    model = tiny.model()

    def log_p(params):
        sums = np.zeros((3, 2))
        for row in range(3):
            for choice in range(2):
                one = {n: x[row, choice][None] for n, x in pairs.items()}
                logits = np.asarray(
                    transformer.forward(model, params, one), np.float64
                )[0]
                shifted = logits - logits.max(-1, keepdims=True)
                normal = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
                picked = normal[np.arange(tiny.ARCH.T), one['targets'][0]]
                sums[row, choice] = (picked * np.asarray(one['weights'])[0]).sum()
        return sums

    policy, reference = (log_p(params) for params in models)
    margin = beta * ((policy - reference) @ np.array([1, -1]))
    loss_fn = jax.jit(made('sigmoid', beta))
    found = step.means(loss_fn(models[0], {'reference': models[1]}, pairs, None))
    assert float(found['loss']) == pytest.approx(np.log1p(np.exp(-margin)).mean(), 1e-4)
    assert float(found['reward_margin']) == pytest.approx(margin.mean(), 1e-3)
    assert float(found['reward_accuracy']) == pytest.approx((margin > 0).mean())
    assert float(found['accuracy']) == pytest.approx(
        (policy[:, 0] > policy[:, 1]).mean()
    )


def test_pairs_without_weight_do_not_count(pairs, models):
    loss_fn = jax.jit(made('sigmoid', 0.3))
    padded = dict(pairs, weights=pairs['weights'].at[2].set(0))
    two = {name: x[:2] for name, x in pairs.items()}
    full, short = (
        loss_fn(models[0], {'reference': models[1]}, batch, None)
        for batch in (padded, two)
    )
    for a, b in zip(jax.tree.leaves(full), jax.tree.leaves(short), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert float(full.terms['loss'][1]) == 2


def test_a_step_down_the_gradient_prefers_the_chosen(pairs, models):
    loss_fn = made('sigmoid', 0.5)

    @jax.jit
    def found(params):
        means = step.means(loss_fn(params, {'reference': models[0]}, pairs, None))
        return means['loss'], means['reward_margin']

    gradient = jax.jit(jax.grad(lambda params: found(params)[0]))(models[0])
    loss, margin = found(jax.tree.map(lambda p, g: p - 0.01 * g, models[0], gradient))
    assert float(loss) < np.log(2)
    assert float(margin) > 0


def test_orpo_adds_the_cross_entropy_of_the_chosen_answers(pairs, models):
    """A mean over tokens, and a mean over pairs: both are sums over rows."""
    loss_fn = jax.jit(made('orpo', 0.2, 'none'))
    whole = loss_fn(models[0], {}, pairs, None)
    policy, _ = preference.answers(tiny.model(), models[0], pairs, None)
    tokens = np.asarray(pairs['weights']).sum(-1)
    mean = np.asarray(policy) / tokens
    log_odds = mean - np.log1p(-np.exp(mean))
    odds = 0.2 * np.log1p(np.exp(log_odds[:, 1] - log_odds[:, 0]))
    for name, wanted in {
        'loss': (odds.sum(), 3),
        'sft': (-np.asarray(policy)[:, 0].sum(), tokens[:, 0].sum()),
    }.items():
        np.testing.assert_allclose(whole.terms[name], wanted, rtol=1e-4)
    found = step.means(whole)
    reward = 0.2 * mean.mean(0)
    assert float(found['reward_chosen']) == pytest.approx(reward[0], rel=1e-4)
    sums = np.asarray(policy).mean(0)
    assert float(found['log_p_rejected']) == pytest.approx(sums[1], rel=1e-5)
    assert float(found['loss']) == pytest.approx(
        odds.mean() + -np.asarray(policy)[:, 0].sum() / tokens[:, 0].sum(), rel=1e-4
    )


@pytest.fixture(scope='module')
def judged(pairs):
    """Answers with labels, each beside a mismatched one; the last is padding."""
    weights = pairs['weights'].at[2].set(0)
    stored = jnp.array([[-30.0, -45.0], [-50.0, -38.0], [0.0, 0.0]])
    labels = jnp.array([1, 0, 1])
    return dict(pairs, weights=weights, labels=labels, reference_log_p=stored)


def test_kto_is_its_formula(judged, models):
    loss = dict(name='kto', beta=0.1, desirable=1.0, undesirable=0.6)
    loss_fn = jax.jit(preference.make_kto(tiny.model(), loss, 'stored'))
    found = loss_fn(models[0], {'running': {'kl': 1.5}}, judged, None)
    policy, _ = preference.answers(tiny.model(), models[0], judged, None)
    ratio = np.asarray(policy - judged['reference_log_p'])[:2]
    above = 0.1 * (ratio[:, 0] - 1.5)
    losses = [1 / (1 + np.exp(above[0])), 0.6 / (1 + np.exp(-above[1]))]
    np.testing.assert_allclose(found.terms['loss'], (sum(losses), 2), rtol=1e-4)
    for name, wanted in {
        'kl': (ratio[:, 1].sum(), 2),
        'reward_chosen': (0.1 * ratio[0, 0], 1),
        'reward_rejected': (0.1 * ratio[1, 0], 1),
        'reward_accuracy': ((ratio[0, 0] > 0) + (ratio[1, 0] <= 0), 2),
    }.items():
        np.testing.assert_allclose(found.metrics[name], wanted, rtol=1e-4)


def test_what_an_objective_reads_follows_from_its_options():
    plain = dict(name='sigmoid', beta=0.1)
    given = table.OBJECTIVES['preference'].given
    assert given(dict(loss=plain, reference='live')).frozen == ('reference',)
    assert given(dict(loss=plain, reference='none')).frozen == ()
    assert given(dict(loss=plain, reference='stored')).running is None
    running = given(dict(loss=dict(plain, name='bco'), reference='live')).running
    assert dict(running.start) == {'delta': 0.0, 'steps': 0.0}
    kto = table.OBJECTIVES['kto'].given(dict(loss={'name': 'kto'}, reference='stored'))
    assert kto.frozen == ('reference_log_p',)
    assert dict(kto.running.start) == {'kl': 0.0}
    for kl, kept in ((-2.0, 0), (3.0, 3)):  # of the step before, where it is one
        assert kto.running.update({'kl': 0.0}, {'kl': kl}) == {'kl': kept}


@pytest.mark.parametrize('name', [*preferences.LOSSES, *preferences.UNPAIRED])
def test_the_recipe_has_every_loss(name):
    path = Path(__file__).parents[2] / 'configs' / 'preference.py'
    options = command.load_config(f'{path}:{name}').objective.to_dict()
    assert options['loss']['name'] == name
    make = table.OBJECTIVES[options.pop('name')].make
    command.splat(make, 'objective', options, model=tiny.model())


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('simpo', dict(gamma=1.0), r"reference is 'live', and the loss simpo needs 'n"),
        ('orpo', {}, r"reference is 'live', and the loss orpo needs 'none'"),
        (
            'aot',
            dict(label_smoothing=0.0),
            r'compute\.accumulate is 2, mesh\.stage 1 .* sorts .* set the first',
        ),
    ],
)
def test_what_a_loss_cannot_have_is_refused(name, options, message):
    compute = dataclasses.replace(tiny.COMPUTE, accumulate=2)
    loss = dict(name=name, beta=1.0, **options)
    with pytest.raises(command.UserError, match=message):
        preference.make(tiny.model(compute=compute), loss, 'live')


def test_aot_sorts_the_batch_of_a_pipeline_and_not_that_of_copies():
    """Mutations: refused with stages alone; taken with copies."""
    loss = dict(name='aot', beta=1.0, label_smoothing=0.0)
    alone = sharding.make(1, 2, 1, 'stage_fsdp', stage=2)
    preference.make(tiny.model(place=alone), loss, 'live')
    copies = sharding.make(2, 1, 1, 'stage', stage=2)
    with pytest.raises(command.UserError, match=r'mesh\.data x mesh\.slice 2'):
        preference.make(tiny.model(place=copies), loss, 'live')


def test_kto_needs_a_reference():
    loss = dict(name='kto', beta=0.1, desirable=1.0, undesirable=1.0)
    with pytest.raises(command.UserError, match="needs 'stored' or 'live'"):
        preference.make_kto(tiny.model(), loss, 'none')
