"""The objectives by name: what makes the loss, and what it needs."""

from collections.abc import Callable
import dataclasses

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
class Objective:
    """`make(model, **options)` gives the loss function."""

    make: Callable[..., core.LossFn]
    kinds: tuple[str, ...]  # of datasets that it trains on
    reference: bool = False  # whether `frozen` is the model that training started from
    masks: bool = False  # whether rows are `data.masking`'s, which takes the options


OBJECTIVES = {
    'next_token': Objective(next_token.make, kinds=('text', 'chat')),
    'masked_lm': Objective(masked_lm.make, kinds=('text',), masks=True),
    'classification': Objective(classification.make, kinds=('labelled',)),
    'seq2seq': Objective(seq2seq.make, kinds=('translation',)),
    'reward': Objective(reward.make, kinds=('pairs',)),
    'dpo': Objective(dpo.make, kinds=('pairs',), reference=True),
}
