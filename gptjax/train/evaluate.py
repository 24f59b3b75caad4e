"""The loss over held-out rows, every weighted token once."""

from collections.abc import Callable

import jax

from gptjax import command, core
from gptjax.data import rows as rows_lib
from gptjax.train import feed


def evaluate(
    eval_step: Callable[[core.Params, core.Params, core.Batch], core.Loss],
    params: core.Params,
    frozen: core.Params,
    feeder: feed.Feed,
    rows: rows_lib.Rows,
    limit: int = 0,
) -> dict[str, float]:
    """Means over `rows` (evenly spread `limit` of them, or all); sums are in float64.

    `loss` is the sum of the terms, `weight` the total weight of the first: the number
    of tokens, or of pairs.
    """
    sums: dict[str, list[float]] = {}
    terms: list[str] = []
    for batch in feeder.once(rows, limit):
        loss = jax.device_get(eval_step(params, frozen, batch))
        terms = list(loss.terms)
        for name, (total, weight) in {**loss.terms, **loss.metrics}.items():
            so_far = sums.setdefault(name, [0.0, 0.0])
            so_far[0] += float(total)
            so_far[1] += float(weight)
    if not sums or not sums[terms[0]][1]:
        raise command.UserError(
            f'nothing to evaluate: {len(rows)} held-out rows carry no weight; hold out '
            'a larger fraction, or, where questions fill the context, raise model.T.'
        )
    means = {name: total / weight for name, (total, weight) in sums.items()}
    return {
        **means,
        'loss': sum(means[name] for name in terms),
        'weight': sums[terms[0]][1],
    }
