"""The loss over held-out rows, every weighted token once."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gptjax import command, core
from gptjax.data import mixture
from gptjax.data import rows as rows_lib
from gptjax.train import feed

_SOURCE = 'loss_'  # and the name of a source of a mixture


def evaluate(
    eval_step: Callable[[core.Params, Mapping[str, Any], core.Batch], core.Loss],
    params: core.Params,
    frozen: Mapping[str, Any],
    feeder: feed.Feed,
    rows: rows_lib.Rows,
    limit: int = 0,
    each: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Means over `rows` (evenly spread `limit` of them, or all); sums are in float64.

    `loss` is the sum of the terms, `weight` the total weight of the first: the number
    of tokens, or of pairs. Of a mixture, each source with any has a `loss_NAME` too.
    `each` is called after each batch, and may end it all by what it raises.
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
            each()
        mine = [sums[name] - before.get(name, 0) for name in terms]
        if part and mine[0][1]:
            own[f'{_SOURCE}{part}'] = sum(t / w if w else 0.0 for t, w in mine)
    if not sums or not sums[terms[0]][1]:
        raise command.UserError(
            f'nothing to evaluate: {len(rows)} held-out rows carry no weight; hold out '
            'a larger fraction, or, where questions fill the context, raise model.T.'
        )
    # A metric may have no weight: of bad answers, where all are good.
    means = {name: float(s / w) if w else 0.0 for name, (s, w) in sums.items()}
    return {
        **means,
        **own,
        'loss': sum(means[name] for name in terms),
        'weight': float(sums[terms[0]][1]),
    }


def of_sources(means: Mapping[str, float]) -> dict[str, float]:
    """The loss of each source of a mixture, by its name; none of a single dataset."""
    return {
        name.removeprefix(_SOURCE): mean
        for name, mean in means.items()
        if name.startswith(_SOURCE)
    }


def forgetting(
    before: Mapping[str, float], means: Mapping[str, float]
) -> dict[str, float]:
    """`forgetting_NAME`, in nats: by how much a source's loss is above that of before.

    before: of the weights that a run started from. means: what `evaluate` gives now.
    """
    now = of_sources(means)
    return {
        f'forgetting_{name}': now[name] - loss
        for name, loss in before.items()
        if name in now
    }


def told(before: Mapping[str, float], means: Mapping[str, float]) -> str:
    """A sentence about what was learned and forgotten since the first step."""
    now = of_sources(means)
    parts = [
        f'{name} {loss:.4f} -> {now[name]:.4f} ({now[name] - loss:+.4f})'
        for name, loss in before.items()
        if name in now
    ]
    return f'held-out loss since before the first step: {", ".join(parts)}'
