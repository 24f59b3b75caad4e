"""Next-token prediction: pretraining, and fine-tuning where the data weigh answers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax import core
from gptjax.model import transformer
from gptjax.objectives import heads


def log_likelihood(
    logits_BTV: Float[Array, 'B T V'], targets_BT: Int[Array, 'B T']
) -> Float[Array, 'B T']:
    """The log-probability of each target, in nats, float32."""
    # A masked sum, where a gather would have a scatter for its gradient, and would
    # collect a vocabulary that is split over devices.
    chosen_BTV = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    picked_BT = jnp.sum(jnp.where(chosen_BTV, logits_BTV, 0), axis=-1)
    return picked_BT - jax.nn.logsumexp(logits_BTV, axis=-1)


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
        logits_BTV = transformer.logits(model, params, x_BTD)
        weights_BT = batch['weights']
        nats_BT = -log_likelihood(logits_BTV, batch['targets'])
        loss = jnp.sum(nats_BT * weights_BT), jnp.sum(weights_BT)
        metrics = {'cross_entropy': loss} if router else {}  # else the same number
        return core.Loss({'loss': loss, **router}, metrics)

    return loss_fn
