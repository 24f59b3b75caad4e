"""The reader: what a model makes of whole texts, where it does not continue them.

Classes, rewards, embeddings, and the words behind masks. Texts are read in batches of
like length; what comes out for one does not depend on the others.
"""

from collections.abc import Callable, Sequence
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import command, core
from gptjax.model import bert, heads, transformer
from gptjax.text import frames
from gptjax.text import tokenizer as tokenizer_lib

BATCH = 32
SHORTEST = 16
FILLS = 5  # likeliest tokens for a mask

Function = Callable[[core.Params, core.Batch], jax.Array]
Framed = tuple[list[int], list[int]]  # ids and token types


class Reader:
    """Reads texts with one model, an encoder or a decoder."""

    def __init__(
        self,
        model: transformer.Model,
        params: core.Params,
        tokenizer: tokenizer_lib.Tokenizer,
    ) -> None:
        if model.arch.encoder_L:
            raise command.UserError(
                'this model is an encoder-decoder, which turns a text into another; '
                'give it a --prompt instead.'
            )
        self._model = model
        self._params = params
        self.tokenizer = tokenizer
        self.kind = model.arch.head.kind
        self._compiled: dict[str, Any] = {}

    def classify(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> np.ndarray:
        """The probabilities of the classes, [n, C], of texts or of pairs of texts."""
        return np.asarray(jax.nn.softmax(self.classes(self._frames(texts, pairs))))

    def classes(self, framed: Sequence[Framed]) -> np.ndarray:
        """The logits of the classes, [n, C], of what fits into the context."""
        self._need(*heads.OVER_CLASSES)

        def classes(params: core.Params, batch: core.Batch) -> jax.Array:
            x_BTD, _ = transformer.hidden(self._model, params, batch)
            segments_BT = batch['segments']
            return transformer.classify(self._model, params, x_BTD, segments_BT)

        return self._read('classes', classes, framed)

    def rewards(self, texts: Sequence[str]) -> np.ndarray:
        """The reward of each text, [n]."""
        return self.rewards_of(self._frames(texts))

    def rewards_of(self, framed: Sequence[Framed]) -> np.ndarray:
        """The reward, [n], of what fits into the context."""
        self._need('reward')

        def rewards(params: core.Params, batch: core.Batch) -> jax.Array:
            x_BTD, _ = transformer.hidden(self._model, params, batch)
            return transformer.rewards(self._model, params, x_BTD, batch['segments'])

        return self._read('rewards', rewards, framed)

    def embed(self, texts: Sequence[str], pool: str) -> np.ndarray:
        """One vector a text, [n, D]; pool is of `bert.POOLS`."""
        if pool == 'cls' and self._model.arch.causal:
            raise command.UserError(
                "the first token of a causal model has seen nothing; embed by 'mean'."
            )
        embed = functools.partial(bert.embed, self._model, pool=pool)
        return self._read(pool, embed, self._frames(texts))

    def fill(self, text: str) -> list[list[tuple[str, float]]]:
        """For each mask in the text, its likeliest tokens with their probabilities.

        A mask is written as the tokenizer writes it: `[MASK]`, `<mask>`, `<|mask|>`.
        """
        self._need('masked', 'pretraining')
        mask = self.tokenizer.control.get(tokenizer_lib.MASK)
        [framed] = self._frames([text], encode=self.tokenizer.encode_special)
        places = [place for place, token in enumerate(framed[0]) if token == mask]
        if not places:
            spelled = [s for s, i in self.tokenizer.special.items() if i == mask]
            raise command.UserError(
                f'the text has no mask ({" or ".join(spelled) or "nor the tokenizer"}).'
            )
        forward = functools.partial(transformer.forward, self._model)
        logits_TV = self._read('logits', forward, [framed])[0][places]
        ids = min(self.tokenizer.vocab_size, logits_TV.shape[1])
        shares_TV = np.asarray(jax.nn.softmax(jnp.asarray(logits_TV[:, :ids])))
        best = np.argsort(-shares_TV, axis=1, kind='stable')[:, :FILLS]
        return [
            [(self.tokenizer.decode([token]), float(shares_V[token])) for token in row]
            for row, shares_V in zip(best.tolist(), shares_TV, strict=True)
        ]

    def _need(self, *kinds: str) -> None:
        if self.kind not in kinds:
            raise command.UserError(
                f'this model has a head of {self.kind!r}, and this needs one of '
                f'{" or ".join(map(repr, kinds))}; fine-tune one by model.head.kind.'
            )

    def _frames(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        encode: Callable[[str], list[int]] | None = None,
    ) -> list[Framed]:
        """(ids, types) of each text as a whole input; one that is too long is cut."""
        encode = encode or self.tokenizer.encode
        made, T = [], self._model.arch.T
        for number, text in enumerate(texts, start=1):
            parts = [encode(text)]
            if pairs is not None:
                parts.append(encode(pairs[number - 1]))
            framed = frames.example(self.tokenizer, *parts)
            if (over := len(framed[0]) - T) > 0:
                longer = max(parts, key=len)
                del longer[-over:]
                framed = frames.example(self.tokenizer, *parts)
                print(
                    f'warning: text {number} has {over} tokens more than the context '
                    f'of {T}, which are cut off',
                    file=sys.stderr,
                )
            made.append(framed)
        return made

    def _read(
        self, name: str, function: Function, framed: Sequence[Framed]
    ) -> np.ndarray:
        """`function` of all rows, the shorter ones first, in their own order again.

        name: of the function, which is compiled once.
        """
        compiled = self._compiled.setdefault(name, jax.jit(function))
        order = sorted(range(len(framed)), key=lambda i: len(framed[i][0]))
        results: dict[int, Any] = {}
        for begin in range(0, len(order), BATCH):
            chosen = order[begin : begin + BATCH]
            batch = self._batch([framed[i] for i in chosen])
            values = np.asarray(compiled(self._params, batch))
            results |= dict(zip(chosen, values, strict=False))
        return np.stack([results[i] for i in range(len(framed))])

    def _batch(self, framed: Sequence[Framed]) -> core.Batch:
        """Rows padded on the right, in width and number, so that few shapes compile."""
        width, rows = SHORTEST, 1
        while width < len(framed[-1][0]):
            width *= 2
        while rows < len(framed):
            rows *= 2
        width = min(width, self._model.arch.T)
        tokens, segments, types = np.zeros((3, rows, width), np.int32)
        for row, (ids, kinds) in enumerate(framed):
            tokens[row, : len(ids)] = ids
            types[row, : len(ids)] = kinds
            segments[row, : len(ids)] = 1
        positions = np.broadcast_to(np.arange(width, dtype=np.int32), tokens.shape)
        arrays = {'tokens': tokens, 'segments': segments, 'positions': positions}
        if self._model.arch.types > 1:
            arrays['types'] = types
        return {name: jnp.asarray(array) for name, array in arrays.items()}
