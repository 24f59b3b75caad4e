"""Next-token prediction: pretraining, and fine-tuning where the data weigh answers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax import core
from gptjax.model import transformer
from gptjax.objectives import heads


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def log_likelihood(
    logits_BTW: Float[Array, 'B T W'], targets_BT: Int[Array, 'B T'], V: int = 0
) -> Float[Array, 'B T']:
    """The log-probability of each target, in nats, float32, from logits of any type.

    Of W logits the first V count; 0 is all. Sums are float32, and no array of logits
    is: forward reads them, backward reads them once more and writes their gradient.
    """
    return _forward(logits_BTW, targets_BT, V)[0]


def _forward(logits_BTW: Array, targets_BT: Array, V: int) -> tuple[Array, Any]:
    wide_BTW = _wide(logits_BTW, V)
    # A masked sum: a gather would collect a vocabulary that is split over devices.
    picked_BT = jnp.sum(jnp.where(_chosen(logits_BTW, targets_BT), wide_BTW, 0), -1)
    log_sum_BT = jax.nn.logsumexp(wide_BTW, axis=-1)
    return picked_BT - log_sum_BT, (logits_BTW, targets_BT, log_sum_BT)


def _backward(V: int, saved: Any, gradient_BT: Array) -> tuple[Array, None]:
    """1 - p for the target, -p for the others."""
    logits_BTW, targets_BT, log_sum_BT = saved
    p_BTW = jnp.exp(_wide(logits_BTW, V) - log_sum_BT[..., None])
    gradient_BTW = _chosen(logits_BTW, targets_BT) - p_BTW
    return (gradient_BTW * gradient_BT[..., None]).astype(logits_BTW.dtype), None


def _wide(logits_BTW: Array, V: int) -> Array:
    wide_BTW = logits_BTW.astype(jnp.float32)
    if V in (0, wide_BTW.shape[-1]):
        return wide_BTW
    return jnp.where(jnp.arange(wide_BTW.shape[-1]) < V, wide_BTW, -jnp.inf)


def _chosen(logits_BTW: Array, targets_BT: Array) -> Array:
    return jnp.arange(logits_BTW.shape[-1]) == targets_BT[..., None]


log_likelihood.defvjp(_forward, _backward)


def of_targets(
    model: transformer.Model,
    params: core.Params,
    x_BTD: Float[Array, 'B T D'],
    targets_BT: Int[Array, 'B T'],
) -> Float[Array, 'B T']:
    """`log_likelihood` of targets given hidden states.

    With `compute.loss_rows`, logits of at most so many tokens exist at once, of all
    copies of the weights together, and are computed again for backward.
    """

    def of(part: tuple[Array, Array]) -> Array:
        scores_BtW = transformer.scores(model, params, part[0])
        return log_likelihood(scores_BtW, part[1], model.arch.V)

    B, T = targets_BT.shape
    # Rounded up: fewer tokens than there are copies are one of each, and not all.
    rows = -(-model.compute.loss_rows // model.sharding.mapped) or B * T
    # The batch axis stays whole, as it lies over the devices.
    parts = next(
        n for n in range(1, T + 1) if T % n == 0 and B * T // n <= max(rows, B)
    )
    if parts == 1:
        return of((x_BTD, targets_BT))
    # A part has every parts-th token, so that it lies over the devices as rows do.
    split = (
        jnp.moveaxis(x_BTD.reshape(B, T // parts, parts, -1), 2, 0),
        jnp.moveaxis(targets_BT.reshape(B, T // parts, parts), 2, 0),
    )
    found = jax.lax.map(jax.checkpoint(of), split)
    return jnp.moveaxis(found, 0, 2).reshape(B, T)


def make(model: transformer.Model) -> core.LossFn:
    """Cross-entropy of `targets` weighted by `weights`, per weighted token.

    The batch has tokens, targets, segments, positions (int32 B T) and weights (float32
    B T). Fine-tuning on conversations is the same loss, with weight on the assistant's
    tokens alone. Raises UserError for a model without a causal head over tokens.
    """
    heads.require(model, 'next_token', 'tokens', 'masked', causal=True)

    def loss_fn(
        params: core.Params, frozen: core.Params, batch: core.Batch, key: Array | None
    ) -> core.Loss:
        x_BTD, router = transformer.hidden(model, params, batch, key)
        weights_BT = batch['weights']
        nats_BT = -of_targets(model, params, x_BTD, batch['targets'])
        loss = jnp.sum(nats_BT * weights_BT), jnp.sum(weights_BT)
        metrics = {'cross_entropy': loss} if router else {}  # else the same number
        return core.Loss({'loss': loss, **router}, metrics)

    return loss_fn
