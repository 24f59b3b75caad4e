"""A step whose loss or gradient is bad changes nothing: the judgement inside jit.

Everything is arithmetic on scalars and one small array of the state, so a good run pays
no host sync, and what is skipped does not depend on when the host looks.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import command

_WHOLE: dict[str, command.Range] = {
    'window': ('a whole number of at least 2', lambda x: x >= 2 and x % 1 == 0)
} | dict.fromkeys(
    ('patience', 'rollbacks', 'replicas'),
    ('a whole number of at least 0', lambda x: x >= 0 and x % 1 == 0),
)

# The least standard deviation, as a share of the mean loss (of 1 below that): a token's
# loss deviates by about its mean, so the mean of a million tokens by a thousandth of
# it. Losses equal but for rounding differ by 1e-7, and six times that is no spike.
_FLOOR = 1e-3


@dataclasses.dataclass(frozen=True)
class Options:
    """What a bad step is, and how many of them end a run."""

    sigma: float = 0.0  # deviations above the mean; 0: only what is not finite is bad
    window: int = 128  # accepted losses that the mean and deviation are of
    patience: int = 5  # bad steps in a row before it halts; 0 is never
    rollbacks: int = 3  # before the run gives up
    replicas: int = 0  # steps between comparisons of replicas; 0 is off

    def __post_init__(self) -> None:
        ranges = {'sigma': command.LEAST_0, **_WHOLE}
        command.check_ranges('guard', vars(self), ranges)


def start(options: Options) -> dict[str, jax.Array]:
    """What is known before the first step; it lives in State.extra['guard'].

    losses_W: the last `window` accepted losses, of which `seen` were ever written.
    skipped: bad steps in all. in_a_row: those at the end. halted: whether `patience` of
    them came together; then every step is bad, and in_a_row goes on: the first of them
    was `in_a_row` steps ago, whenever the host looks.
    """
    return {
        'losses_W': jnp.zeros(options.window, jnp.float32),
        'seen': jnp.zeros((), jnp.int32),
        'skipped': jnp.zeros((), jnp.int32),
        'in_a_row': jnp.zeros((), jnp.int32),
        'halted': jnp.zeros((), jnp.bool_),
    }


def judge(
    found: Mapping[str, jax.Array],
    loss: jax.Array,
    gradient_norm: jax.Array,
    options: Options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(whether the step counts, `found` after it); pure.

    Bad is a loss or gradient norm that is not finite, and, with sigma and once the
    window is full, a loss above its mean + sigma x its standard deviation.
    """
    loss = loss.astype(jnp.float32)
    ok = jnp.isfinite(loss) & jnp.isfinite(gradient_norm) & ~found['halted']
    if options.sigma:
        full = found['seen'] >= options.window
        ok &= ~full | (loss <= _limit(found['losses_W'], options.sigma))
    at_W = jnp.arange(options.window) == found['seen'] % options.window
    in_a_row = jnp.where(ok, 0, found['in_a_row'] + 1)
    halted = found['halted']
    if options.patience:
        halted |= in_a_row >= options.patience
    return ok, {
        'losses_W': jnp.where(at_W & ok, loss, found['losses_W']),
        'seen': found['seen'] + ok,
        'skipped': found['skipped'] + ~ok,
        'in_a_row': in_a_row,
        'halted': halted,
    }


def _limit(losses_W: jax.Array, sigma: float) -> jax.Array:
    """The highest loss that is no spike; differences first, or float32 cancels."""
    mean = losses_W[0] + jnp.mean(losses_W - losses_W[0])
    deviation = jnp.sqrt(jnp.mean(jnp.square(losses_W - mean)))
    floor = _FLOOR * jnp.maximum(jnp.abs(mean), 1)
    return mean + sigma * jnp.maximum(deviation, floor)


def keep(ok: jax.Array, new: Any, old: Any) -> Any:
    """`new` where the step counts, else `old`, bit for bit; trees of one structure."""
    return jax.tree.map(lambda n, o: jax.lax.select(ok, n, o), new, old)


def told(found: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Metrics: bad steps in all, and how many of them at the end."""
    return {
        'skipped': found['skipped'].astype(jnp.float32),
        'skipped_in_a_row': found['in_a_row'].astype(jnp.float32),
    }
