"""Each preference loss against TRL's, published values, and a known optimum."""

import functools
import json
from pathlib import Path

from golden import preference_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import _post_preferences as figures
from gptjax import command
from gptjax.objectives import preferences

GOLDEN = Path(__file__).parents[1] / 'golden' / 'preferences.json'


@functools.cache
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(autouse=True)
def in_float64():
    """So that what differs is a formula, and no rounding."""
    with jax.enable_x64(True):
        yield


def paired(flat):
    """Chosen before rejected, as TRL has them -> pairs."""
    return jnp.asarray(np.reshape(flat, (2, -1)).T)


def loss_of(name, **options):
    return preferences.of(LOSSES, dict(name=name, **options))[1]


LOSSES, UNPAIRED = preferences.LOSSES, preferences.UNPAIRED


@functools.cache
def ours():
    return figures.ours(golden())


@pytest.mark.parametrize('name', [*LOSSES, *UNPAIRED])
def test_a_loss_and_its_gradient_are_trls(name):
    wanted, (loss, gradient) = golden()['losses'][name], ours()[name]
    # TRL rounds these two to float32.
    near = dict(rtol=0, atol=1e-6 if name in ('orpo', 'exo') else 1e-9)
    np.testing.assert_allclose(loss, wanted['loss'], **near)
    np.testing.assert_allclose(gradient, wanted['gradient'], **near)


PUBLISHED = {  # name: (options, tunix's value or NumPy's of its inputs)
    'sigmoid': (dict(beta=0.1), 0.7530593502919607),
    'cdpo': (dict(beta=0.1, label_smoothing=0.3), 0.9254464725571975),
    'robust': (dict(beta=0.1, label_smoothing=0.3), 0.3220915446288687),
    'hinge': (dict(beta=0.1), 0.9489532391870438),
    'ipo_sum': (dict(beta=0.1), 299.47159032792),
    'ipo_norm': (dict(beta=0.1), 31.38027925391771),
    'simpo': (dict(beta=2.0, gamma=1.0), 1.4522913555579422),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_values(name):
    options, value = PUBLISHED[name]
    rng = np.random.RandomState(0)
    policy, reference = (rng.normal(0, 5, (8, 4)).sum(-1) for _ in range(2))
    against = np.zeros(8) if name == 'simpo' else reference
    pairs = preferences.Pairs(*map(paired, (policy, against, np.full(8, 4.0))))
    found = float(jnp.mean(loss_of(name, **options)(pairs)))
    assert found == pytest.approx(value, abs=1e-6)


def test_bco_measures_rewards_from_their_mean():
    """Equations of Jung et al. (2024), written out; TRL had a running mean, too."""
    rng = np.random.default_rng(1)
    ratio, delta = rng.normal(0, 9, (5, 2)), 0.3
    pairs = preferences.Pairs(jnp.asarray(ratio), jnp.zeros((5, 2)), jnp.ones((5, 2)))
    right, wrong = 0.1 * ratio[:, 0] - delta, 0.1 * ratio[:, 1] - delta
    wanted = np.log1p(np.exp(-right)) + np.log1p(np.exp(wrong))
    found = loss_of('bco', beta=0.1)(pairs, delta=delta)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    running = dict(preferences.RUNNING['bco'])
    means = rng.normal(0, 1, (4, 2))
    for chosen, rejected in means:
        metrics = {'reward_chosen': chosen, 'reward_rejected': rejected}
        running = preferences.RENEWED['bco'](running, metrics)
    assert running['delta'] == pytest.approx(means.mean())


def test_the_mean_of_robust_losses_over_swapped_labels_is_dpos():
    rng = np.random.default_rng(2)
    ratio = jnp.asarray(rng.normal(0, 9, (6, 2)))
    right, swapped = (
        preferences.Pairs(x, 0 * x, 1 + 0 * x) for x in (ratio, ratio[:, ::-1])
    )
    loss = loss_of('robust', beta=0.1, label_smoothing=0.2)
    np.testing.assert_allclose(
        0.8 * loss(right) + 0.2 * loss(swapped),
        loss_of('sigmoid', beta=0.1)(right),
        rtol=1e-12,
    )


def test_padding_is_finite_and_moves_nothing():
    """Rows of zeros, wherever they stand, and certain answers have no NaN."""
    rng = np.random.default_rng(3)
    full = -rng.gamma(9, 1, (2, 3, 2))
    spread = np.zeros((2, 5, 2))
    spread[:, [0, 2, 4]] = full

    @jax.jit
    def of_all(policy, reference, tokens):
        pairs = preferences.Pairs(policy, reference, tokens)
        return {
            name: loss_of(name, **preference_cases.OPTIONS[name])(
                pairs, **({'delta': 0.1} if name == 'bco' else {})
            )
            for name in LOSSES
        }

    whole = of_all(*full, np.full((3, 2), 4.0))
    for name, padded in of_all(*spread, (spread[0] < 0) * 4.0).items():
        np.testing.assert_allclose(padded[::2], whole[name], err_msg=name)
        assert np.isfinite(padded).all(), name

    def certain(policy):
        pairs = preferences.Pairs(policy, 0 * policy, 1 + 0 * policy)
        return jnp.sum(loss_of('orpo', beta=0.1)(pairs))

    assert np.isfinite(jax.jit(jax.grad(certain))(spread[0])).all()


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ('sigmoid', r"objective\.loss is 'sigmoid'; it needs a name"),
        ({'beta': 0.1}, r'objective\.loss is .* it needs a name'),
        ({'name': 'ipo', 'beta': 0.1}, "unknown loss 'ipo'; did you mean '"),
        ({'name': 'hinge'}, r'objective\.loss lacks beta'),
        ({'name': 'sigmoid', 'beta': 0.0}, r'loss\.beta is 0\.0; .* above 0'),
        ({'name': 'ipo_sum', 'beta': -1}, r'loss\.beta is -1; .* above 0'),
        ({'name': 'nca', 'beta': float('nan')}, r'loss\.beta is nan'),
        ({'name': 'sppo', 'beta': '1'}, r"loss\.beta is '1', of type str"),
        ({'name': 'bco', 'beta': 1.0, 'delta': 0.0}, r'option objective\.loss\.delta'),
        (
            {'name': 'robust', 'beta': 0.1, 'label_smoothing': 0.5},
            r'label_smoothing is 0\.5; .* at least 0 and below 0\.5',
        ),
        (
            {'name': 'exo', 'beta': 0.1, 'label_smoothing': 0.0},
            r'label_smoothing is 0, and exo takes its logarithm',
        ),
        ({'name': 'simpo', 'beta': 0.1, 'gamma': -1.0}, r'gamma is -1\.0; .* least 0'),
        (
            {'name': 'sigmoid', 'beta': 0.1, 'label_smoothing': 0.1},
            r'unknown option objective\.loss\.label_smoothing',
        ),
    ],
)
def test_a_wrong_option_is_named(section, message):
    with pytest.raises(command.UserError, match=message):
        preferences.of(LOSSES, section)


def test_dpo_on_all_pairs_finds_the_optimum():
    """p_reference exp(reward / beta), of 64 answers."""
    assert figures.distance(*figures.all_pairs(), steps=400) <= 0.01


def test_dpo_on_sampled_pairs_comes_near_it():
    """To within the noise of 20,000 judgements: 0.046 to 0.061 over ten draws."""
    assert figures.distance(*figures.sampled_pairs(0), steps=200) <= 0.07
