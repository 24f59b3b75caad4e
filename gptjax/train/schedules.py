"""Learning rates by step: what `optimizer.schedule` may name.

Every one of them rises linearly in `warmup_steps`. The update of step n (from 0) uses
the value at n + 1, so that the first is not 0. They are pure in the step, so a run that
goes on needs no state of theirs; those that end fall until `steps`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import command

Schedule = Callable[[Any], Any]  # a step, of the device or the host, to its rate


def cosine(
    learning_rate: float, warmup_steps: int, final_learning_rate: float, *, steps: int
) -> Schedule:
    """Linear from 0 to `learning_rate`, then half a cosine to `final_learning_rate`."""
    return rewarm(learning_rate, warmup_steps, final_learning_rate, 0.0, steps=steps)


def rewarm(
    learning_rate: float,
    warmup_steps: int,
    final_learning_rate: float,
    first_learning_rate: float,
    *,
    steps: int,
) -> Schedule:
    """`cosine` that begins at `first_learning_rate`, where an earlier run has ended.

    For training on after model.init_from (Ibrahim et al., 2024).
    """

    def after(xp: Any, n: Any) -> Any:
        progress = xp.clip((n - warmup_steps) / max(steps - warmup_steps, 1), 0, 1)
        cosine = 0.5 * (1 + xp.cos(xp.pi * progress))
        return final_learning_rate + (learning_rate - final_learning_rate) * cosine

    return _made(learning_rate, warmup_steps, steps, after, first_learning_rate)


def linear(
    learning_rate: float, warmup_steps: int, final_learning_rate: float, *, steps: int
) -> Schedule:
    """Linear up, then linear to `final_learning_rate`."""

    def after(xp: Any, n: Any) -> Any:
        progress = xp.clip((n - warmup_steps) / max(steps - warmup_steps, 1), 0, 1)
        return learning_rate + (final_learning_rate - learning_rate) * progress

    return _made(learning_rate, warmup_steps, steps, after)


def wsd(
    learning_rate: float,
    warmup_steps: int,
    decay_steps: int,
    final_learning_rate: float,
    *,
    steps: int,
) -> Schedule:
    """Warm-up, stable, decay: the last `decay_steps` fall by 1 - sqrt(progress).

    The shape of the fall is that of Hägele et al. (2024, section 3.1). A checkpoint
    before it serves runs of any length.
    """
    if not 0 <= decay_steps <= steps - warmup_steps:
        raise command.UserError(
            f'optimizer.decay_steps is {decay_steps}, and {steps - warmup_steps} of '
            f'{steps} steps are left after the warm-up; set it to at most that.'
        )

    def after(xp: Any, n: Any) -> Any:
        progress = xp.clip((n - (steps - decay_steps)) / max(decay_steps, 1), 0, 1)
        fall = (learning_rate - final_learning_rate) * xp.sqrt(progress)
        return learning_rate - fall

    return _made(learning_rate, warmup_steps, steps, after)


def inverse_sqrt(learning_rate: float, warmup_steps: int, *, steps: int) -> Schedule:
    """Linear up, then learning_rate sqrt(warmup_steps / n) (Vaswani et al., 2017)."""
    if warmup_steps < 1:
        raise command.UserError(
            f'optimizer.warmup_steps is {warmup_steps}; inverse_sqrt falls from its '
            'end on, so set it to at least 1.'
        )

    def after(xp: Any, n: Any) -> Any:
        return learning_rate * xp.sqrt(warmup_steps / n)

    return _made(learning_rate, warmup_steps, steps, after)


def constant(learning_rate: float, warmup_steps: int, *, steps: int) -> Schedule:
    """Linear up, then `learning_rate`."""
    return _made(
        learning_rate, warmup_steps, steps, lambda xp, n: xp.full_like(n, learning_rate)
    )


def _made(
    learning_rate: float,
    warmup_steps: int,
    steps: int,
    after: Callable[[Any, Any], Any],
    first: float = 0.0,
) -> Schedule:
    """Warm-up from `first`, and then `after(numpy or its like, step from 1)`."""
    if warmup_steps < 0 or warmup_steps > steps:
        raise command.UserError(
            f'optimizer.warmup_steps is {warmup_steps} of {steps} steps; set it to at '
            f'most the number of steps ({max(steps // 10, 0)} is a tenth).'
        )

    def schedule(step: Any) -> Any:
        # For a record, the host's own numbers: a program would wait for the step.
        xp: Any = jnp if isinstance(step, jax.Array) else np
        n = xp.asarray(step, xp.float32) + 1
        warm = n / max(warmup_steps, 1)
        rising = first + warm * (learning_rate - first)
        return xp.where(n < warmup_steps, rising, after(xp, n))

    return schedule


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    'cosine': cosine,
    'wsd': wsd,
    'linear': linear,
    'inverse_sqrt': inverse_sqrt,
    'constant': constant,
    'rewarm': rewarm,
}
# What any of them takes from the section optimizer.
OPTIONS = (
    'learning_rate', 'warmup_steps', 'final_learning_rate', 'decay_steps',
    'first_learning_rate',
)  # fmt: skip
