"""Policies on their way to the exact optimum; `make benchmark` goes all of it."""

import pytest

from experiments.benchmarks import _closed_form as closed_form
from gptjax.objectives import group, ppo

SHORT = closed_form.Size(rollouts=80, answers=256, updates=2, learning_rate=5e-3)


@pytest.mark.parametrize(
    'options',
    [
        ppo.Options(**closed_form.PPO),
        group.Options(**closed_form.GROUP, method='grpo'),
    ],
    ids=['ppo', 'grpo'],
)
def test_a_short_run_is_most_of_the_way_there(options):
    """Measured: 98.5 % and 100.1 % of the reward, 0.088 and 0.092 of the mass apart.

    A KL of the wrong sign or size, a reward at the wrong token or an advantage of the
    wrong answer ends elsewhere: the start is 0.69 apart.
    """
    found = closed_form.run(options, 0, SHORT)
    assert found.share == pytest.approx(1, abs=0.05)
    assert found.kl == pytest.approx(found.best_kl, rel=0.15)
    assert found.apart < 0.13
