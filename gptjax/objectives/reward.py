"""Reward models from preferences (Bradley and Terry, 1952; Ouyang et al., 2022)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gptjax import core
from gptjax.model import transformer
from gptjax.objectives import heads


def make(model: transformer.Model) -> core.LossFn:
    """-log sigmoid(reward of the chosen - reward of the rejected), a mean over pairs.

    Arrays of the batch are (B, 2, T), chosen before rejected; a pair without weights is
    padding. A reward is that of a whole conversation, its last `<|end|>` included.
    Metrics: `accuracy`, the share of pairs whose chosen answer has the higher reward,
    and `margin`, by how much. Raises UserError for another head than 'reward'.
    """
    heads.require(model, 'reward', 'reward')

    def loss_fn(
        params: core.Params, frozen: core.Params, batch: core.Batch, key: Array | None
    ) -> core.Loss:
        flat = _whole({name: x.reshape(-1, x.shape[-1]) for name, x in batch.items()})
        x_BTD, router = transformer.hidden(model, params, flat, key)
        reward_B = transformer.rewards(model, params, x_BTD, flat['segments'])
        margin_B = reward_B[0::2] - reward_B[1::2]
        pair_B = (jnp.sum(batch['weights'], (1, 2)) > 0).astype(jnp.float32)
        pairs = jnp.sum(pair_B)
        loss = -jnp.sum(jax.nn.log_sigmoid(margin_B) * pair_B)
        return core.Loss(
            terms={'loss': (loss, pairs), **router},
            metrics={
                'accuracy': (jnp.sum((margin_B > 0) * pair_B), pairs),
                'margin': (jnp.sum(margin_B * pair_B), pairs),
            },
        )

    return loss_fn


def _whole(batch: core.Batch) -> core.Batch:
    """Rows with the token that is only a target, the last one, if it has a place.

    A row is one sequence, so its tokens are the first one and then all targets.
    """
    tokens_BT, segments_BT = batch['tokens'], batch['segments']
    whole_BT = jnp.concatenate([tokens_BT[:, :1], batch['targets'][:, :-1]], axis=1)
    longer_BT = jnp.concatenate([segments_BT[:, :1], segments_BT[:, :-1]], axis=1)
    places_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    return {'tokens': whole_BT, 'segments': longer_BT, 'positions': places_BT}
