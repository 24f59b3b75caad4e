"""Held-out questions, answered: does the model answer, and does it stop by itself?"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from gptjax import command
from gptjax.data import rows as rows_lib
from gptjax.generate import engine as engine_lib
from gptjax.text import chat
from gptjax.text import tokenizer as tokenizer_lib
from gptjax.train.rewards import table

MAX_TOKENS = 96  # small vocabularies need the most for a sentence
SHOWN = 8
_ROWS = 256  # read at once


@dataclasses.dataclass(frozen=True)
class Question:
    """The ids up to and with the last <|assistant|>, and those of its true answer."""

    prompt: tuple[int, ...]
    reference: tuple[int, ...]


def questions(
    arrays: Mapping[str, np.ndarray], control: Mapping[str, int]
) -> Iterator[Question]:
    """The last question of each conversation in rows [n, T] of a chat dataset.

    One that was cut within its last answer, or whose question fills the context, is
    left out.
    """
    assistant, end = control[chat.ROLES['assistant']], control[chat.END]
    for tokens, targets, segments in zip(
        arrays['tokens'], arrays['targets'], arrays['segments'], strict=True
    ):
        for segment in range(1, int(segments.max()) + 1):
            inside = np.flatnonzero(segments == segment)
            ids = [*tokens[inside].tolist(), int(targets[inside[-1]])]
            if assistant not in ids:
                continue
            start = len(ids) - ids[::-1].index(assistant)
            if end in ids[start:] and start < len(tokens):
                stop = ids.index(end, start)
                yield Question(tuple(ids[:start]), tuple(ids[start:stop]))


def pick(rows: rows_lib.Rows, control: Mapping[str, int], count: int) -> list[Question]:
    """`count` questions, or all if there are fewer, spread evenly over the rows.

    Rows are packed by length, so that the questions are of all lengths.
    Raises UserError where `count` is not positive or the rows hold no question.
    """
    if count < 1:
        raise command.UserError(f'--answers is {count}; it needs to be at least 1.')
    chat.check_roles(control)
    found: list[Question] = []
    for start in range(0, len(rows), _ROWS):
        indices = np.arange(start, min(start + _ROWS, len(rows)), dtype=np.int64)
        found += questions(rows.read(indices), control)
    if not found:
        raise command.UserError(
            'no held-out conversation fits the context of the model with its last '
            'answer; leave --answers out, or take a dataset of shorter ones.'
        )
    return spread(found, count)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly spread, in their order."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def ask(
    engine: engine_lib.Engine,
    tokenizer: tokenizer_lib.Tokenizer,
    asked: Sequence[Question],
    judge: table.Combined | None = None,
) -> dict[str, Any]:
    """Greedy answers of at most MAX_TOKENS tokens.

    asked: how many questions; stopped: how many answers ended by themselves, with a
    stop token; samples: SHOWN of them with their true answers, as text. With a judge,
    reward: the mean of what it gives, where it gives a number.
    """
    requests = [
        engine_lib.Request(question.prompt, MAX_TOKENS, temperature=0.0)
        for question in asked
    ]
    completions = engine.generate(requests)
    stopped = [completion.finish_reason == 'stop' for completion in completions]
    said = [
        table.Sample(
            _text(chat.decode(tokenizer, question.prompt)),
            tuple(chat.decode(tokenizer, question.prompt)),
            completion.text,
            tokenizer.decode(question.reference),
            len(completion.tokens),
            ended,
        )
        for question, completion, ended in zip(asked, completions, stopped, strict=True)
    ]
    samples: list[dict[str, Any]] = [
        {
            'question': sample.prompt,
            'answer': sample.completion,
            'reference': sample.reference,
            'stopped': sample.ended,
        }
        for sample in said
    ]
    found: dict[str, Any] = {'asked': len(asked), 'stopped': sum(stopped)}
    if judge is not None:
        rewards = judge(said)[0]
        fine = rewards[np.isfinite(rewards)]
        if len(fine):
            found['reward'] = float(fine.mean())
        for sample, reward in zip(samples, rewards.tolist(), strict=True):
            sample['reward'] = reward if math.isfinite(reward) else None
    return {**found, 'max_tokens': MAX_TOKENS, 'samples': spread(samples, SHOWN)}


def _text(said: Sequence[chat.Message]) -> str:
    """A lone question as it is; a longer conversation with its roles."""
    if len(said) == 1:
        return said[0]['content']
    return '\n'.join(f'{message["role"]}: {message["content"]}' for message in said)
