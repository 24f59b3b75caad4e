"""The rewards by name, and several of them as one."""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

import numpy as np

from gptjax import command
from gptjax.train.rewards import judge, models, rules, sample

Sample = sample.Sample

REWARDS: dict[str, Callable[..., sample.Reward]] = {
    'length': rules.length,
    'format': rules.format,
    'ended': rules.ended,
    'repetition': rules.repetition,
    'contains': rules.contains,
    'overlap': rules.overlap,
    'answer': rules.answer,
    'classifier': models.classifier,
    'reward_model': models.reward_model,
    'judge': judge.judge,
}

Combined = Callable[[Sequence[Sample]], tuple[np.ndarray, dict[str, np.ndarray]]]


def combine(sections: Any) -> Combined:
    """(the total of each sample, each reward by name), float32 [n], of the samples.

    sections: {'name': entry of REWARDS, 'weight': a number, and its options}; the
    second of one name is NAME-2. The total is the sum of weight x reward; a weight of
    0 only tells the reward. What is not finite is NaN, which makes the total NaN.
    Raises UserError for wrong options.
    """
    several = isinstance(sections, Sequence) and len(sections) > 0
    if not several or not all(isinstance(one, Mapping) for one in sections):
        raise command.UserError(
            f'rewards is {sections!r}; it needs one or more sections, each '
            'dict(name=..., weight=..., and its options).'
        )
    made: dict[str, tuple[float, sample.Reward]] = {}
    names = [str(section.get('name')) for section in sections]
    for label, section in zip(command.numbered(names), sections, strict=True):
        options = dict(section)
        make = command.lookup(REWARDS, str(options.pop('name', None)), 'reward')
        weight = options.pop('weight', None)
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight):
            raise command.UserError(
                f'rewards.{label}.weight is {weight!r}; set it to a number.'
            )
        made[label] = float(weight), command.splat(make, f'rewards.{label}', options)

    def combined(
        samples: Sequence[Sample],
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        found: dict[str, np.ndarray] = {}
        total = np.zeros(len(samples))
        for label, (weight, reward) in made.items():
            values = reward(samples)
            if values.shape != total.shape:
                raise ValueError(
                    f'the reward {label} gives {values.shape} for {len(samples)} '
                    'samples; it gives one number for each.'
                )
            found[label] = _finite(values)
            if weight:  # else it is only told
                total += weight * np.float64(found[label])
        return _finite(total), found

    return combined


def _finite(values: np.ndarray) -> np.ndarray:
    """As float32, with NaN for what is no number there."""
    fine = np.abs(values) <= np.finfo(np.float32).max
    return np.where(fine, values, math.nan).astype(np.float32)
