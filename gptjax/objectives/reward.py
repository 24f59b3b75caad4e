"""Reward models from preferences (Bradley and Terry, 1952; Ouyang et al., 2022)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax import command, core
from gptjax.model import transformer
from gptjax.objectives import heads

_ARRAYS = ('tokens', 'targets', 'segments', 'positions')


def make(model: transformer.Model, centre: float) -> core.LossFn:
    """-log sigmoid(reward of the chosen - reward of the rejected), a mean over pairs.

    Arrays of the batch are (B, 2, T), chosen before rejected; a pair without weights is
    padding. With `margins` (float32 B), those are first taken from the difference
    (Touvron et al., "Llama 2", 2023, eq. 2). centre: the coefficient of the term
    (sum of both rewards)^2, which keeps their mean at 0 (Eisenstein et al., "Helping or
    herding?", 2023, equation 2); 0 is off. It makes them smaller, too: of planted
    utilities the margins are 0.78 of the true ones at 0.01, where the calibration error
    is 0.034, and 0.97 at 0, where it is 0.001.
    Metrics: `accuracy`, the share of pairs whose chosen answer has the higher reward,
    and `margin`, by how much. Raises UserError for another head than 'reward', and for
    a negative `centre`.
    """
    heads.require(model, 'reward', 'reward')
    command.check_ranges('objective', {'centre': centre}, {'centre': command.LEAST_0})

    def loss_fn(
        params: core.Params, frozen: core.Params, batch: core.Batch, key: Array | None
    ) -> core.Loss:
        reward_B2, router = of_pairs(model, params, batch, key)
        margin_B = reward_B2[:, 0] - reward_B2[:, 1]
        pair_B = (jnp.sum(batch['weights'], (1, 2)) > 0).astype(jnp.float32)
        pairs = jnp.sum(pair_B)
        least_B = batch.get('margins', 0.0)
        loss = -jnp.sum(jax.nn.log_sigmoid(margin_B - least_B) * pair_B)
        terms = {'loss': (loss, pairs), **router}
        if centre:
            sums_B = jnp.sum(reward_B2, axis=1)
            terms['centre'] = (centre * jnp.sum(sums_B**2 * pair_B), pairs)
        return core.Loss(
            terms=terms,
            metrics={
                'accuracy': (jnp.sum((margin_B > 0) * pair_B), pairs),
                'margin': (jnp.sum(margin_B * pair_B), pairs),
            },
        )

    return loss_fn


def of_pairs(
    model: transformer.Model,
    params: core.Params,
    batch: core.Batch,
    key: Array | None = None,
) -> tuple[Float[Array, 'B 2'], core.Metrics]:
    """(the rewards of both answers, the router's terms) of a batch as above.

    A reward is that of a whole conversation, its last `<|end|>` included.
    """
    rows = {name: batch[name].reshape(-1, batch[name].shape[-1]) for name in _ARRAYS}
    flat = _whole(rows)
    x_BTD, router = transformer.hidden(model, params, flat, key)
    reward_B = transformer.rewards(model, params, x_BTD, flat['segments'])
    return reward_B.reshape(-1, 2), router


def _whole(batch: core.Batch) -> core.Batch:
    """Rows with the token that is only a target, the last one, if it has a place.

    A row is one sequence, so its tokens are the first one and then all targets.
    """
    tokens_BT, segments_BT = batch['tokens'], batch['segments']
    whole_BT = jnp.concatenate([tokens_BT[:, :1], batch['targets'][:, :-1]], axis=1)
    longer_BT = jnp.concatenate([segments_BT[:, :1], segments_BT[:, :-1]], axis=1)
    places_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    return {'tokens': whole_BT, 'segments': longer_BT, 'positions': places_BT}
