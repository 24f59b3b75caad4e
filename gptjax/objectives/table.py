"""The objectives by name: what makes the loss, and what it needs."""

from collections.abc import Callable
import dataclasses

from gptjax import core
from gptjax.objectives import dpo, next_token


@dataclasses.dataclass(frozen=True)
class Objective:
    """`make(model, **options)` gives the loss function."""

    make: Callable[..., core.LossFn]
    kinds: tuple[str, ...]  # of datasets that it trains on
    reference: bool  # whether `frozen` is the model that training started from


OBJECTIVES = {
    'next_token': Objective(next_token.make, kinds=('text', 'chat'), reference=False),
    'dpo': Objective(dpo.make, kinds=('pairs',), reference=True),
}
