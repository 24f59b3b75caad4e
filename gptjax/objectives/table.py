"""The objectives by name: what makes the loss, and what it needs."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from gptjax import core
from gptjax.objectives import (
    classification,
    dpo,
    masked_lm,
    next_token,
    reward,
    seq2seq,
)


@dataclasses.dataclass(frozen=True)
class Running:
    """Statistics that the loss reads as frozen['running'], a part of the state.

    update: (running, the metrics of a step) -> running, for the next step; None where
        it is `prepare` that renews them.
    """

    start: Mapping[str, float]
    update: Callable[[Any, Any], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Objective:
    """`make(model, **options)` gives the loss function.

    An objective on the model's own answers, which `rollout` makes, has an `options`
    class, and then it is `make(model, options)`. There, prepare(options) is a function
    (arrays of a rollout, running) -> (arrays of batches, means, running).
    """

    make: Callable[..., core.LossFn]
    kinds: tuple[str, ...]  # of datasets that it trains on
    frozen: tuple[str, ...] = ()  # what the loss reads: of 'reference'
    masks: bool = False  # whether rows are `data.masking`'s, which takes the options
    running: Running | None = None
    options: type | None = None
    prepare: Callable[..., Any] | None = None
    values: bool = False  # whether the model has a value for each token, too


OBJECTIVES = {
    'next_token': Objective(next_token.make, kinds=('text', 'chat')),
    'masked_lm': Objective(masked_lm.make, kinds=('text',), masks=True),
    'classification': Objective(classification.make, kinds=('labelled',)),
    'seq2seq': Objective(seq2seq.make, kinds=('translation',)),
    'reward': Objective(reward.make, kinds=('pairs',)),
    'dpo': Objective(dpo.make, kinds=('pairs',), frozen=('reference',)),
}
