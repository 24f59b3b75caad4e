"""Tokens hidden at random, for masked LM (Devlin et al., 2019, section 3.1)."""

from jaxtyping import Bool, Int64
import numpy as np

from gptjax import command
from gptjax.data import permute
from gptjax.data import rows as rows_lib
from gptjax.text import tokenizer as tokenizer_lib

_DRAWS = 3  # of a token: whether it is chosen, what becomes of it, which random one


class MaskedRows:
    """Rows of text in which some tokens are hidden, others in every epoch.

    Each token that is no control token is chosen with probability `rate`. Of those
    chosen, the share `masked` becomes the mask token, the share `random` another token
    of the tokenizer, and the rest stays as it is; all are targets, of weight 1. The
    draws are a hash of seed, epoch, row and place: no loader, process or resume changes
    them. Evaluation (epochs=None) is epoch 0.

    Raises UserError for shares that make no sense, and for a tokenizer without
    `<|mask|>`.
    """

    def __init__(
        self,
        rows: rows_lib.Rows,
        tokenizer: tokenizer_lib.Tokenizer,
        seed: int,
        *,
        rate: float,
        masked: float,
        random: float,
    ):
        for name, value in (('rate', rate), ('masked', masked), ('random', random)):
            if not 0 <= value <= 1:
                raise command.UserError(
                    f'objective.{name} is {value}; it is a share, from 0 to 1.'
                )
        if rate == 0 or masked + random > 1:
            raise command.UserError(
                f'objective has rate={rate}, masked={masked} and random={random}; rate '
                'is above 0, and the other two make at most 1.'
            )
        if '<|mask|>' not in tokenizer.control:
            raise command.UserError(
                f'the {tokenizer.name} tokenizer of the data has no <|mask|>; build '
                'them with tokenizer.mask=True.'
            )
        self._mask = tokenizer.control['<|mask|>']
        control = set(tokenizer.control.values())
        words = [i for i in range(tokenizer.vocab_size) if i not in control]
        self._words = np.array(words, np.int32)
        self._is_word = np.isin(np.arange(tokenizer.vocab_size), words)
        self._rows = rows
        self._seed = seed
        self._bounds = np.array([rate, masked, masked + random]) * 2**32
        self.dtypes = rows.dtypes

    def __len__(self) -> int:
        return len(self._rows)

    def read(
        self,
        indices: Int64[np.ndarray, ' n'],
        epochs: Int64[np.ndarray, ' n'] | None = None,
    ) -> rows_lib.Arrays:
        """Rows [n, T]; targets are the tokens as they were."""
        arrays = self._rows.read(indices, epochs)
        tokens = arrays['tokens']
        epochs = np.zeros_like(indices) if epochs is None else epochs
        keys = permute.scramble(indices, permute.mix(self._seed, epochs))[:, None, None]
        places = np.arange(tokens.shape[1] * _DRAWS).reshape(-1, _DRAWS)
        draws = permute.scramble(places, keys)  # [n, T, 3], from 0 to 2**32 - 1
        rate, masked, random = self._bounds
        chosen = self._eligible(arrays) & (draws[..., 0] < rate)
        hidden = np.where(draws[..., 1] < masked, self._mask, tokens)
        other = (draws[..., 1] >= masked) & (draws[..., 1] < random)
        words = self._words[draws[..., 2] % len(self._words)]
        hidden = np.where(other, words, hidden)
        return arrays | {
            'tokens': np.where(chosen, hidden, tokens).astype(np.int32),
            'targets': tokens,
            'weights': chosen.astype(np.float32),
        }

    def _eligible(self, arrays: rows_lib.Arrays) -> Bool[np.ndarray, 'n T']:
        return self._is_word[arrays['tokens']] & (arrays['segments'] > 0)
