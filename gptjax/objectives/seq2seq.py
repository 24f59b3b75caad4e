"""From a source to a target: translation, summarisation (Vaswani et al., 2017)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gptjax import command, core
from gptjax.model import transformer
from gptjax.objectives import heads, next_token


def make(model: transformer.Model, label_smoothing: float) -> core.LossFn:
    """Cross-entropy of `targets` given the source, per weighted token.

    With `label_smoothing` eps the target distribution is 1 - eps on the target and
    eps spread evenly over all V tokens (Szegedy et al., 2016, section 7). The batch has
    source, source_segments, source_positions, tokens, targets, segments, positions
    (int32 B T) and weights (float32 B T). Metrics: `cross_entropy`, without smoothing,
    and `accuracy`, both given the right tokens before. Raises UserError for a model
    without an encoder beside its decoder.
    """
    heads.require(model, 'seq2seq', 'tokens', encoder=True)
    if not 0 <= label_smoothing < 1:
        raise command.UserError(
            f'objective.label_smoothing is {label_smoothing}; it is in [0, 1), and 0.1 '
            'is usual.'
        )

    def loss_fn(
        params: core.Params, frozen: core.Params, batch: core.Batch, key: Array | None
    ) -> core.Loss:
        x_BTD, router = transformer.hidden(model, params, batch, key)
        logits_BTV = transformer.logits(model, params, x_BTD)
        weights_BT, targets_BT = batch['weights'], batch['targets']
        nats_BT = -next_token.log_likelihood(logits_BTV, targets_BT)
        even_BT = jax.nn.logsumexp(logits_BTV, axis=-1) - jnp.mean(logits_BTV, axis=-1)
        smooth_BT = (1 - label_smoothing) * nats_BT + label_smoothing * even_BT
        right_BT = jnp.argmax(logits_BTV, axis=-1) == targets_BT
        weight = jnp.sum(weights_BT)
        return core.Loss(
            terms={'loss': (jnp.sum(smooth_BT * weights_BT), weight), **router},
            metrics={
                'cross_entropy': (jnp.sum(nats_BT * weights_BT), weight),
                'accuracy': (jnp.sum(right_BT * weights_BT), weight),
            },
        )

    return loss_fn
