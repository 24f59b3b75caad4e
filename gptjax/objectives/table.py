"""The objectives by name: what makes the loss, and what it needs."""

from collections.abc import Callable, Mapping
import dataclasses
import inspect
from typing import Any

from gptjax import core
from gptjax.data import rows as rows_lib
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
    # (rows, tokenizer, seed, **options) -> rows, where it draws at random
    rows: Callable[..., rows_lib.Rows] | None = None

    def split(
        self, options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options of a config: those of `make`, and those of `rows`."""
        known = inspect.signature(self.rows).parameters if self.rows else {}
        of_rows = {name: options[name] for name in options if name in known}
        return {k: v for k, v in options.items() if k not in of_rows}, of_rows


OBJECTIVES = {
    'next_token': Objective(next_token.make, kinds=('text', 'chat')),
    'masked_lm': Objective(masked_lm.make, kinds=('text',), rows=masked_lm.MaskedRows),
    'classification': Objective(classification.make, kinds=('labelled',)),
    'seq2seq': Objective(seq2seq.make, kinds=('translation',)),
    'reward': Objective(reward.make, kinds=('pairs',)),
    'dpo': Objective(dpo.make, kinds=('pairs',), reference=True),
}
