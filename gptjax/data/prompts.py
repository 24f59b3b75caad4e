"""Prompts out of a built dataset, and the true answers where it has some.

text: the first tokens of each document, <|endoftext|> before them as in training.
chat: a conversation up to its last answer that is learned, which is the true answer.
pairs: what both answers continue; the true answer is the chosen one.
"""

import sys
from typing import NamedTuple

from jaxtyping import Int64
import numpy as np

from gptjax import command
from gptjax.data import dataset, permute
from gptjax.data import rows as rows_lib
from gptjax.text import chat

DTYPES: rows_lib.Dtypes = {'tokens': np.int32, 'lengths': np.int32}


class Prompt(NamedTuple):
    """What to continue."""

    tokens: Int64[np.ndarray, ' n']
    text: str
    messages: tuple[chat.Message, ...] | None  # of a conversation in our own format
    reference: str  # the true answer, '' if there is none


class Prompts:
    """The prompts of a split, of at most `P` tokens each, as rows and one by one.

    Raises UserError where none is short enough. What is left out is told on standard
    error: prompts that are longer, and texts that end within their prompt.
    """

    dtypes = DTYPES

    def __init__(self, built: dataset.Dataset, split: str, P: int):
        self.P = P
        self._tokenizer = built.tokenizer()
        self._tokens, bounds, mask = built.sequences(split)
        spans = np.stack([bounds[:-1], bounds[1:]], 1)
        if built.kind == 'pairs':
            spans = spans[::2]  # the chosen answers
        begins, ends = spans.T
        if mask is None:
            answers = np.stack([begins + P, begins + P], 1)
            fits = ends - begins > P
        else:
            found = [_last(mask.window(a, b - a)) for a, b in spans.tolist()]
            answers = begins[:, None] + np.array(found, np.int64).reshape(-1, 2)
            fits = (answers[:, 0] - begins <= P) & (answers[:, 1] > answers[:, 0])
        self._spans = np.concatenate([begins[:, None], answers], 1)[fits]
        short = 'shorter' if mask is None else 'longer'
        told = (
            f'{len(fits) - fits.sum():,} of {len(fits):,} prompts of the {split} split '
            f'of {built.folder} are {short} than prompt_tokens={P}'
        )
        if not fits.any():
            other = 'smaller' if mask is None else 'larger'
            raise command.UserError(f'{told}; set it {other}.')
        if not fits.all():
            print(f'warning: {told}, and are left out', file=sys.stderr)

    def __len__(self) -> int:
        return len(self._spans)

    def read(
        self,
        indices: Int64[np.ndarray, ' n'],
        epochs: Int64[np.ndarray, ' n'] | None = None,
    ) -> rows_lib.Arrays:
        """tokens [n, P], padded at the end with 0, and lengths [n]."""
        tokens = np.zeros((len(indices), self.P), np.int32)
        spans = self._spans[indices]
        for row, (begin, end, _) in enumerate(spans.tolist()):
            tokens[row, : end - begin] = self._tokens.window(begin, end - begin)
        lengths = (spans[:, 1] - spans[:, 0]).astype(np.int32)
        return {'tokens': tokens, 'lengths': lengths}

    def prompt(self, index: int) -> Prompt:
        """The prompt with this number, as text too."""
        begin, answer, end = self._spans[index].tolist()
        tokens = self._tokens.window(begin, answer - begin).astype(np.int64)
        said = self._tokens.window(answer, end - answer).tolist()
        ends = self._tokenizer.ends
        return Prompt(
            tokens,
            self._tokenizer.decode(tokens.tolist()),
            tuple(chat.decode(self._tokenizer, tokens.tolist())) or None,
            self._tokenizer.decode(t for t in said if t not in ends),
        )

    def place(self, index: int) -> int:
        """Where the prompt begins in the split, as its document in the ledger does."""
        return int(self._spans[index, 0])

    def rows_of(self, start: int, end: int) -> Int64[np.ndarray, ' rows']:
        """The prompts that are cut from the places start..end-1 of the split."""
        inside = (self._spans[:, 0] < end) & (self._spans[:, 2] > start)
        return np.flatnonzero(inside)


def stream(
    count: int, seed: int, numbers: Int64[np.ndarray, ' n']
) -> Int64[np.ndarray, ' n']:
    """Which of `count` prompts stand at these places of their endless stream.

    Each epoch is another permutation, as of rows: see `pipeline`.
    """
    keys = permute.mix(seed, numbers // count)
    return permute.permute(numbers % count, count, keys)


def _last(learned: np.ndarray) -> tuple[int, int]:
    """Begin and end of the last run of what is learned; (0, 0) where nothing is."""
    places = np.flatnonzero(learned)
    if not len(places):
        return 0, 0
    breaks = np.flatnonzero(np.diff(places) > 1)
    first = places[breaks[-1] + 1] if len(breaks) else places[0]
    return int(first), int(places[-1]) + 1
