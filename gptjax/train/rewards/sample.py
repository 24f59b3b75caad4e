"""What a reward sees of a completion."""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, NamedTuple

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


def conversation(sample: Sample) -> list[chat.Message]:
    """The sample as a conversation; a plain prompt is what a user says."""
    asked = sample.messages or ({'role': 'user', 'content': sample.prompt},)
    return [*asked, {'role': 'assistant', 'content': sample.completion}]


def asked(sample: Sample) -> str:
    """The prompt for a reader: of more messages than one, with who says them."""
    messages = sample.messages or ()
    if len(messages) > 1:
        return '\n\n'.join(f'{m["role"]}: {m["content"]}' for m in messages)
    return messages[0]['content'] if messages else sample.prompt


def whole(sample: Sample) -> str:
    """The sample as one text; an answer begins a line."""
    between = '\n' if sample.messages else ''
    return f'{asked(sample)}{between}{sample.completion}'


def told(total: np.ndarray, each: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """What `combine` gives, of each sample as JSON: None where there is no reward."""

    def number(value: np.floating) -> float | None:
        return float(value) if math.isfinite(value) else None

    return [
        {
            'reward': number(reward),
            'rewards': {name: number(values[i]) for name, values in each.items()},
        }
        for i, reward in enumerate(total)
    ]
