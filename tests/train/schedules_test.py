"""Learning rates by step, at points known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import command
from gptjax.train import build, schedules

PEAK = dict(learning_rate=1.0, warmup_steps=10)
OPTIONS = {
    'cosine': dict(final_learning_rate=0.1),
    'wsd': dict(final_learning_rate=0.1, decay_steps=40),
    'linear': dict(final_learning_rate=0.1),
    'inverse_sqrt': {},
    'constant': {},
    'rewarm': dict(final_learning_rate=0.1, first_learning_rate=0.4),
}
# At updates counted from 1.
EXPECTED = {
    'cosine': {1: 0.1, 5: 0.5, 10: 1.0, 60: 0.55, 110: 0.1, 500: 0.1},
    'wsd': {1: 0.1, 10: 1.0, 70: 1.0, 80: 0.55, 110: 0.1, 500: 0.1},
    'linear': {1: 0.1, 10: 1.0, 60: 0.55, 85: 0.325, 110: 0.1, 500: 0.1},
    'inverse_sqrt': {5: 0.5, 10: 1.0, 40: 0.5, 90: 1 / 3, 1000: 0.1},
    'constant': {5: 0.5, 10: 1.0, 11: 1.0, 500: 1.0},
    'rewarm': {1: 0.46, 5: 0.7, 10: 1.0, 60: 0.55, 110: 0.1, 500: 0.1},
}


def made(name):
    return schedules.SCHEDULES[name](**PEAK, **OPTIONS[name], steps=110)


@pytest.mark.parametrize('name', schedules.SCHEDULES)
def test_every_schedule_at_known_points(name):
    """Mutation: n without the 1 makes the first rate 0."""
    schedule = made(name)
    at = {n: float(schedule(n - 1)) for n in EXPECTED[name]}
    assert at == pytest.approx(EXPECTED[name])


@pytest.mark.parametrize('name', schedules.SCHEDULES)
def test_a_rate_for_a_record_waits_for_no_device(name):
    """The host's numbers are the device's. Mutation: jnp for both queues a program."""
    schedule = made(name)
    steps = [0, 5, 9, 60, 75, 200]
    inside = jax.jit(schedule)
    assert not any(isinstance(schedule(step), jax.Array) for step in steps)
    np.testing.assert_allclose(
        [schedule(step) for step in steps],
        [inside(jnp.int32(step)) for step in steps],
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ('name', 'changes', 'message'),
    [
        ('cosine', dict(warmup_steps=200), 'warmup_steps is 200 of 110 steps'),
        ('wsd', dict(decay_steps=101), 'decay_steps is 101, and 100 of 110'),
        ('inverse_sqrt', dict(warmup_steps=0), 'set it to at least 1'),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(name, changes, message):
    with pytest.raises(command.UserError, match=message):
        schedules.SCHEDULES[name](**PEAK | OPTIONS[name] | changes, steps=110)


def section(**changes):
    adam = dict(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, clip_norm=1.0)
    base = dict(name='adamw', freeze=(), **PEAK, final_learning_rate=0.1, **adam)
    return {'optimizer': base | changes}


def test_a_config_names_its_schedule_and_an_older_one_has_a_cosine():
    schedule, _ = build.optimizer_of(section(), 110)
    assert float(schedule(59)) == pytest.approx(EXPECTED['cosine'][60])
    schedule, _ = build.optimizer_of(section(schedule='wsd', decay_steps=40), 110)
    assert float(schedule(79)) == pytest.approx(EXPECTED['wsd'][80])


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(schedule='cosin'), "unknown optimizer.schedule 'cosin'; did you mean"),
        (dict(schedule='wsd'), 'optimizer lacks decay_steps'),
        (dict(decay_steps=4), 'unknown option optimizer.decay_steps'),
        (dict(decay=('product',)), "unknown role in optimizer.decay 'product'; did"),
        (dict(decay='products'), "optimizer.decay is 'products'; it is a list of"),
        (dict(mu_dtype='bf16'), "unknown type for optimizer.mu_dtype 'bf16'"),
        (dict(nu_dtype='bfloat16', b2=0.999), 'set b2 to at most 0.99'),
    ],
    ids=str,
)
def test_a_section_that_cannot_be_is_refused(changes, message):
    with pytest.raises(command.UserError, match=message):
        build.optimizer_of(section(**changes), 110)
