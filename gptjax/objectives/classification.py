"""Classes of texts, or of pairs of texts: fine-tuning as in BERT (section 4.1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gptjax import core
from gptjax.model import transformer
from gptjax.objectives import heads


def make(model: transformer.Model) -> core.LossFn:
    """Cross-entropy of `labels` weighted by `weights`, per weighted row.

    The batch has tokens, segments, positions, types (int32 B T), labels (int32 B) and
    weights (float32 B). Metric: `accuracy`. Raises UserError for another head than
    'classes'.
    """
    heads.require(model, 'classification', 'classes')

    def loss_fn(
        params: core.Params, frozen: core.Params, batch: core.Batch, key: Array | None
    ) -> core.Loss:
        x_BTD, router = transformer.hidden(model, params, batch, key)
        logits_BC = transformer.classify(model, params, x_BTD, batch['segments'], key)
        weights_B, labels_B = batch['weights'], batch['labels']
        log_p_BC = jax.nn.log_softmax(logits_BC)
        log_p_B = jnp.take_along_axis(log_p_BC, labels_B[:, None], axis=1)[:, 0]
        right_B = jnp.argmax(logits_BC, axis=-1) == labels_B
        weight = jnp.sum(weights_B)
        return core.Loss(
            terms={'loss': (-jnp.sum(log_p_B * weights_B), weight), **router},
            metrics={'accuracy': (jnp.sum(right_B * weights_B), weight)},
        )

    return loss_fn
