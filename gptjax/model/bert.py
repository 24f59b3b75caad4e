"""Embeddings of whole texts from an encoder (Devlin et al., 2019, and after)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax import command, core
from gptjax.model import transformer

POOLS = {
    'mean': 'the mean of the hidden states of all tokens (Reimers and Gurevych, 2019)',
    'cls': 'the hidden state of the first token',
}


def embed(
    model: transformer.Model, params: core.Params, batch: core.Batch, pool: str
) -> Float[Array, 'B D']:
    """One vector for each row, which is one document, in float32.

    pool: of POOLS; raises UserError for another.
    """
    command.lookup(POOLS, pool, 'pool')
    x_BTD, _ = transformer.hidden(model, params, batch)
    x_BTD = x_BTD.astype(jnp.float32)
    real_BT = batch['segments'] > 0
    if pool == 'cls':
        first_B = jnp.argmax(real_BT, axis=1)
        return jnp.take_along_axis(x_BTD, first_B[:, None, None], axis=1)[:, 0]
    total_BD = jnp.sum(x_BTD * real_BT[..., None], axis=1)
    return total_BD / jnp.maximum(jnp.sum(real_BT, axis=1), 1)[:, None]
