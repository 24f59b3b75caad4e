"""The objectives by name: what makes the loss, and what it needs."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from gptjax import core
from gptjax.objectives import (
    classification,
    distil,
    group,
    masked_lm,
    next_token,
    ppo,
    preference,
    preferences,
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
    frozen: tuple[str, ...] = ()  # what the loss reads: 'reference', or, of that
    # model, 'reference_log_p', which is computed at the start and is a part of rows
    masks: bool = False  # whether rows are `data.masking`'s, which takes the options
    running: Running | None = None
    options: type | None = None
    prepare: Callable[..., Any] | None = None
    values: bool = False  # whether the model has a value for each token, too
    feedback: bool = False  # whether the answers of pairs are examples by themselves
    needs: Callable[..., dict[str, Any]] | None = None  # fields, of the options

    def given(self, options: Mapping[str, Any]) -> 'Objective':
        """The entry for these options, which `make` has taken."""
        return dataclasses.replace(self, **self.needs(**options) if self.needs else {})


def _of_preference(loss: Any, reference: str) -> dict[str, Any]:
    """What the loss reads besides parameters and batch."""
    name = loss['name']
    kept = None
    if name in preferences.RUNNING:
        kept = Running(preferences.RUNNING[name], preferences.RENEWED[name])
    return {'frozen': preference.FROZEN[reference], 'running': kept}


PROMPTED = ('text', 'chat')  # prompts are read out of these

OBJECTIVES = {
    'next_token': Objective(next_token.make, kinds=('text', 'chat')),
    'masked_lm': Objective(masked_lm.make, kinds=('text',), masks=True),
    'classification': Objective(classification.make, kinds=('labelled',)),
    'seq2seq': Objective(seq2seq.make, kinds=('translation',)),
    'reward': Objective(reward.make, kinds=('pairs',)),
    'preference': Objective(preference.make, kinds=('pairs',), needs=_of_preference),
    'kto': Objective(
        preference.make_kto,
        kinds=('feedback', 'pairs'),
        feedback=True,
        needs=_of_preference,
    ),
    'ppo': Objective(
        ppo.make,
        kinds=(*PROMPTED, 'pairs'),
        frozen=('reference',),
        running=Running(ppo.RUNNING),
        options=ppo.Options,
        prepare=ppo.prepare,
        values=True,
    ),
    'group': Objective(
        group.make,
        kinds=(*PROMPTED, 'pairs'),
        frozen=('reference',),
        options=group.Options,
        prepare=group.prepare,
    ),
    'distil': Objective(distil.make, kinds=PROMPTED, frozen=('teacher',)),
}
