"""Masked language modelling (Devlin et al., 2019, section 3.1)."""

import jax.numpy as jnp
from jaxtyping import Array

from gptjax import core
from gptjax.model import transformer
from gptjax.objectives import heads, next_token


def make(model: transformer.Model) -> core.LossFn:
    """Cross-entropy of the tokens that `data.masking` hid, per hidden token.

    The batch has tokens, targets, segments, positions (int32 B T) and weights (float32
    B T, 1 where a token is to be guessed). Metric: `accuracy`, the share of them that
    are guessed. Raises UserError for a causal model, or one without a masked head.
    """
    heads.require(model, 'masked_lm', 'masked', 'pretraining', causal=False)
    V = model.arch.V

    def loss_fn(
        params: core.Params, frozen: core.Params, batch: core.Batch, key: Array | None
    ) -> core.Loss:
        x_BTD, router = transformer.hidden(model, params, batch, key)
        logits_BTW = transformer.scores(model, params, x_BTD)
        weights_BT, targets_BT = batch['weights'], batch['targets']
        nats_BT = -next_token.log_likelihood(logits_BTW, targets_BT, V)
        right_BT = jnp.argmax(logits_BTW[..., :V], axis=-1) == targets_BT
        weight = jnp.sum(weights_BT)
        return core.Loss(
            terms={'loss': (jnp.sum(nats_BT * weights_BT), weight), **router},
            metrics={'accuracy': (jnp.sum(right_BT * weights_BT), weight)},
        )

    return loss_fn
