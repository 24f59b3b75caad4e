"""Optimizers and learning-rate schedules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gptjax import command, core, trees

Schedule = Callable[[Any], Any]  # a step, of the device or the host, to its rate


def warmup_cosine(
    learning_rate: float, warmup_steps: int, steps: int, final_learning_rate: float
) -> Schedule:
    """Linear from 0 to `learning_rate`, then half a cosine to `final_learning_rate`.

    The update of step n (from 0) uses the value at n + 1, so that the first is not 0.
    """
    if warmup_steps < 0 or warmup_steps > steps:
        raise command.UserError(
            f'optimizer.warmup_steps is {warmup_steps} of {steps} steps; set it to at '
            f'most the number of steps ({max(steps // 10, 0)} is a tenth).'
        )
    cosine_steps = max(steps - warmup_steps, 1)

    def schedule(step: Any) -> Any:
        # For a record, the host's own numbers: a program would wait for the step.
        xp: Any = jnp if isinstance(step, jax.Array) else np
        n = xp.asarray(step, xp.float32) + 1
        warm = n / max(warmup_steps, 1)
        progress = xp.clip((n - warmup_steps) / cosine_steps, 0, 1)
        cosine = 0.5 * (1 + xp.cos(xp.pi * progress))
        decayed = final_learning_rate + (learning_rate - final_learning_rate) * cosine
        return xp.where(n < warmup_steps, warm * learning_rate, decayed)

    return schedule


def adamw(
    schedule: Schedule,
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, 2019) after clipping by the global norm.

    Decay falls on weights of products and embeddings, not on biases and norm scales.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(
            schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=_decayed
        ),
    )


def adam_tf(
    schedule: Schedule,
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """`adamw` with eps where TensorFlow 1 has it, as the first RLHF did.

    -rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps) (Kingma and Ba, 2015, end of
    section 2): beside a v that is not yet corrected, eps weighs more in early steps.
    """

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = state.count + 1
        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        nu = optax.tree.update_moment(grads, state.nu, b2, 2)
        rate = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: rate * m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.GradientTransformation(optax.scale_by_adam().init, update),
        optax.add_decayed_weights(weight_decay, mask=_decayed),
        optax.scale_by_learning_rate(schedule),
    )


def _decayed(params: core.Params) -> core.Params:
    return trees.map_with_path(
        lambda path, _: not path.endswith(('bias', 'scale')), params
    )
