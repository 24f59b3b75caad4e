"""What a reward sees of a completion."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gptjax.text import chat


class Sample(NamedTuple):
    """A completion with its prompt.

    prompt: as text. messages: the same as a conversation, None of a plain text.
    completion: as text, without the token that ends it. reference: the true answer, ''
    where the data have none. tokens: of the completion. ended: whether it stopped by
    itself, not at the limit.
    """

    prompt: str
    messages: tuple[chat.Message, ...] | None
    completion: str
    reference: str
    tokens: int
    ended: bool


# The reward of each of n samples, float32 [n]; NaN where there is none.
Reward = Callable[[Sequence[Sample]], np.ndarray]
