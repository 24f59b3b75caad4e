"""The loss over held-out rows, every weighted token once."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gptjax import command, core
from gptjax.data import mixture
from gptjax.data import rows as rows_lib
from gptjax.train import feed


def evaluate(
    eval_step: Callable[[core.Params, Mapping[str, Any], core.Batch], core.Loss],
    params: core.Params,
    frozen: Mapping[str, Any],
    feeder: feed.Feed,
    rows: rows_lib.Rows,
    limit: int = 0,
) -> dict[str, float]:
    """Means over `rows` (evenly spread `limit` of them, or all); sums are in float64.

    `loss` is the sum of the terms, `weight` the total weight of the first: the number
    of tokens, or of pairs. Of a mixture, each source with any has a `loss_NAME` too.
    """
    parts = rows.parts() if isinstance(rows, mixture.Mixture) else {'': rows}
    sums: dict[str, Any] = {}  # (total, weight) of each name
    own: dict[str, float] = {}
    terms: list[str] = []
    for part, some in parts.items():
        before = dict(sums)
        for batch in feeder.once(some, -(-limit * len(some) // len(rows))):
            loss = jax.device_get(eval_step(params, frozen, batch))
            terms = list(loss.terms)
            for name, pair in {**loss.terms, **loss.metrics}.items():
                sums[name] = sums.get(name, 0) + np.array(pair, np.float64)
        mine = [sums[name] - before.get(name, 0) for name in terms]
        if part and mine[0][1]:
            own[f'loss_{part}'] = sum(t / w if w else 0.0 for t, w in mine)
    if not sums or not sums[terms[0]][1]:
        raise command.UserError(
            f'nothing to evaluate: {len(rows)} held-out rows carry no weight; hold out '
            'a larger fraction, or, where questions fill the context, raise model.T.'
        )
    means = {name: float(total / weight) for name, (total, weight) in sums.items()}
    return {
        **means,
        **own,
        'loss': sum(means[name] for name in terms),
        'weight': float(sums[terms[0]][1]),
    }
