"""Direct preference optimisation (Rafailov et al., 2023, equation 7)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax import core
from gptjax.model import transformer
from gptjax.objectives import heads, next_token


def make(model: transformer.Model, beta: float) -> core.LossFn:
    """-log sigmoid(beta (margin - reference margin)), a mean over pairs.

    A margin is the log-probability of the chosen answer less that of the other;
    frozen['reference'] is the reference model. Arrays of the batch are (B, 2, T),
    chosen before rejected; a pair without weights is padding. Metrics:
    `reward_accuracy`, the share
    of pairs whose implicit reward beta log(p / p_ref) prefers the chosen answer;
    `accuracy`, the share whose plain log-probability does. Raises UserError for a model
    without a causal head over tokens.
    """
    heads.require(model, 'dpo', 'tokens', 'masked', causal=True)

    def answers(
        params: core.Params, batch: core.Batch, key: Array | None
    ) -> tuple[Float[Array, 'B 2'], core.Metrics]:
        tokens = batch['tokens']
        flat = {name: x.reshape(-1, x.shape[-1]) for name, x in batch.items()}
        x_BTD, router = transformer.hidden(model, params, flat, key)
        logits_BTV = transformer.logits(model, params, x_BTD)
        log_p = next_token.log_likelihood(logits_BTV, flat['targets'])
        return jnp.sum(log_p * flat['weights'], -1).reshape(tokens.shape[:2]), router

    def loss_fn(
        params: core.Params,
        frozen: Mapping[str, Any],
        batch: core.Batch,
        key: Array | None,
    ) -> core.Loss:
        policy_B2, router = answers(params, batch, key)
        reference_B2, _ = answers(frozen['reference'], batch, None)
        reward_B2 = beta * (policy_B2 - reference_B2)
        reward_margin_B = reward_B2[:, 0] - reward_B2[:, 1]
        pair_B = (jnp.sum(batch['weights'], (1, 2)) > 0).astype(jnp.float32)
        pairs = jnp.sum(pair_B)
        ranked_B = policy_B2[:, 0] > policy_B2[:, 1]
        return core.Loss(
            terms={
                'loss': (-jnp.sum(jax.nn.log_sigmoid(reward_margin_B) * pair_B), pairs),
                **router,
            },
            metrics={
                'reward_accuracy': (jnp.sum((reward_margin_B > 0) * pair_B), pairs),
                'reward_margin': (jnp.sum(reward_margin_B * pair_B), pairs),
                'accuracy': (jnp.sum(ranked_B * pair_B), pairs),
            },
        )

    return loss_fn
