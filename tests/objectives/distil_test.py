"""Distillation: zero at the teacher, and teachers that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_family

from gptjax import command
from gptjax.objectives import distil
from gptjax.train import step


@pytest.mark.parametrize('beta', [0.0, 0.5, 1.0])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(beta):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, 3, (2, 3, 7)), jnp.float32)
    apart = distil.divergence(logits, logits + 1.5, beta, 0.7)
    np.testing.assert_allclose(apart, 0, atol=2e-6)
    gradient = jax.grad(lambda x: distil.divergence(x, logits, beta, 0.7).sum())(logits)
    np.testing.assert_allclose(gradient, 0, atol=2e-6)


@pytest.mark.parametrize(('beta', 'turned'), [(0.0, False), (1.0, True)])
def test_the_ends_are_the_kl_in_either_direction(beta, turned):
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(0, 1, (2, 1, 1, 5))
    p, q = (np.exp(x / 0.7) / np.exp(x / 0.7).sum() for x in (teacher, student))
    p, q = (q, p) if turned else (p, q)
    given = (jnp.asarray(x, jnp.float32) for x in (student, teacher))
    found = distil.divergence(*given, beta, 0.7)
    assert float(found[0, 0]) == pytest.approx((p * np.log(p / q)).sum(), abs=1e-6)


def test_the_loss_is_a_mean_over_weights_from_a_teacher_of_its_own():
    """A teacher of another depth, of which nothing is trained."""
    student, teacher = (tiny_family.model('gpt2', T=8, L=layers) for layers in (1, 2))
    batch = tiny_family.batch(student.arch)
    weights = jnp.zeros((2, 8)).at[0, 3].set(1).at[1, 5].set(1)
    batch |= {'targets': batch['tokens'], 'weights': weights}
    loss_fn = jax.jit(distil.make(student, teacher=teacher, beta=0.3, temperature=1.0))
    params = tiny_family.params(student)
    frozen = {'teacher': tiny_family.params(teacher)}
    found = step.means(loss_fn(params, frozen, batch, None))
    parts = [
        float(
            step.means(loss_fn(params, frozen, batch | {'weights': one}, None))['loss']
        )
        for one in (weights.at[1].set(0), weights.at[0].set(0))
    ]
    assert float(found['loss']) == pytest.approx(np.mean(parts), rel=1e-5)
    assert min(parts) > 0
    assert set(found) == {'loss', 'cross_entropy', 'agreement'}


@pytest.mark.parametrize(
    ('V', 'options', 'message'),
    [
        (40, {}, r'model\.V is 48, and the teacher has 40 tokens'),
        (48, dict(beta=1.5), r'objective\.beta is 1\.5'),
        (48, dict(temperature=0.0), r'objective\.temperature is 0\.0'),
    ],
)
def test_what_cannot_be_distilled_is_refused(V, options, message):
    teacher = tiny_family.model('gpt2', V=V)
    options = dict(teacher=teacher, beta=0.5, temperature=1.0) | options
    with pytest.raises(command.UserError, match=message):
        distil.make(tiny_family.model('gpt2'), **options)
