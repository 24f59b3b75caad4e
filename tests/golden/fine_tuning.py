"""Our loss of the conversations that TRL's trainer learned from: see make_chat.py."""

from pathlib import Path
from typing import Any

from golden import chat_cases
import jax
import jax.numpy as jnp
import numpy as np
import tiny

from gptjax.data import rows as rows_lib
from gptjax.data import turn_rows
from gptjax.exchange import huggingface
from gptjax.model import transformer
from gptjax.objectives import next_token


def rows_of(path: Path, conversations: list[Any]) -> turn_rows.ChatRows:
    """Packed rows of (ids, weights)."""
    streams = []
    for number, (name, dtype) in enumerate((('tokens', '<u2'), ('mask', '<f4'))):
        flat = np.concatenate([np.array(one[number], dtype) for one in conversations])
        flat.tofile(path / name)
        file = rows_lib.Stream([path / name], [len(flat)], np.dtype(dtype))
        streams.append(file)
    starts = np.cumsum([0, *(len(ids) for ids, _ in conversations)])
    return turn_rows.ChatRows(turn_rows.Sequences(*streams, starts), chat_cases.T)


def read(rows: turn_rows.ChatRows, count: int) -> dict[str, jax.Array]:
    """All rows, and padding up to `count` of them."""
    found = rows.read(np.arange(len(rows)))
    more = ((0, count - len(rows)), (0, 0))
    return {name: jnp.asarray(np.pad(array, more)) for name, array in found.items()}


def losses(folder: Path) -> Any:
    """Of a Hugging Face folder: batch -> (the loss, nats of each token)."""
    arch, params = huggingface.load(folder)
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    loss_fn = next_token.make(model)

    @jax.jit
    def both(batch: Any, params: Any) -> Any:
        total, weight = loss_fn(params, {}, batch, None).terms['loss']
        x_BTD, _ = transformer.hidden(model, params, batch)
        logits_BTV = transformer.logits(model, params, x_BTD)
        return total / weight, -next_token.log_likelihood(logits_BTV, batch['targets'])

    return lambda batch: jax.device_get(both(batch, params))
