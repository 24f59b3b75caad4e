"""Exact substrings: what stands in a row somewhere else is cut."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import struct
from typing import Any

import numpy as np

from gptjax import command
from gptjax.data import documents, steps
from gptjax.data.dedup import hashes
from gptjax.text import table
from gptjax.text import tokenizer as tokenizer_lib

_KEY = 16  # bytes of a document's key
_TEXT, _PLACE = b'\0', b'\1'  # what a value is: the text of a document comes first

Split = Callable[[str], hashes.Tokens]


class Substring:
    """Cuts every repeat of `tokens` tokens or more from all places but the first.

    The first place is that in the order of keys of documents, then of positions. What
    overlaps the first place itself, as in 'ha ha ha ...', is cut from its end on. Plain
    texts only: conversations and pairs are whole or not at all.

    tokens: ExactSubstr (Lee et al., 2022) has 50.
    tokenizer: None, for `hashes.pieces`; or options of `gptjax.text.table.make`. White
        space after the last token that is cut goes too; a cut never splits a character:
        one that is cut in part stays whole.

    Two stages keep the volume down. Of the hashes of tokens // 2 tokens in a row,
    winnowing (Schleimer et al., 2003) picks one in 13: two texts that share `tokens`
    tokens share one that was picked there. Only the stretches of `tokens` tokens around
    picked hashes that occur twice are compared, by 128 bits.
    """

    def __init__(self, *, tokens: int, tokenizer: Mapping[str, Any] | None) -> None:
        """Raises UserError for tokens < 2 and for a tokenizer that changes texts."""
        if tokens < 2:
            raise command.UserError(
                f'substring.tokens is {tokens}; it needs to be >= 2.'
            )
        self._tokens, self._gram = tokens, (tokens + 1) // 2
        self._split: Split = hashes.pieces
        if tokenizer is not None:
            made = command.splat(
                table.make, 'substring.tokenizer', tokenizer, texts=lambda: []
            )
            self._split = _splitter(made)
        self.rounds: Sequence[steps.Round] = (
            steps.Round(_repeated, self._emit_anchors),
            steps.Round(self._windows, self._emit_text),
            steps.Round(self._later),
            steps.Round(_merged),
        )

    def apply(
        self, document: documents.Document, found: Sequence[bytes]
    ) -> steps.Result:
        """The document without what is found, or Reject('nothing left')."""
        if not found:
            return document
        text = document.whole
        starts = self._split(text).starts
        raw = text.encode('utf-8', 'surrogatepass')
        edges = np.append(starts, len(raw)).tolist()
        left, end = [], 0
        for first, last in (struct.unpack('>II', value) for value in found):
            left.append(raw[end : _character(raw, edges[first], 1)])
            end = _character(raw, edges[last], -1)
        text = b''.join([*left, raw[end:]]).decode('utf-8', 'surrogatepass')
        if not text.strip():
            return documents.Reject('nothing left')
        return dataclasses.replace(document, text=text)

    def _emit_anchors(self, document: documents.Document) -> steps.Pairs:
        if document.kind != 'text':
            return
        tokens = self._split(document.whole)
        count = len(tokens.starts) - self._gram + 1
        width = self._tokens - self._gram + 1
        if count < width:
            return
        grams = hashes.mixed(
            hashes.stretches(
                tokens.raw, tokens.starts[:count], tokens.ends[self._gram - 1 :]
            )
        )
        inside = np.lib.stride_tricks.sliding_window_view(grams, width)
        picked = np.unique(inside.argmin(axis=1) + np.arange(len(inside)))
        data = grams[picked].tobytes()
        for number, place in enumerate(picked.tolist()):
            anchor = data[8 * number : 8 * number + 8]
            yield anchor, document.key + struct.pack('>I', place)

    def _emit_text(self, document: documents.Document) -> steps.Pairs:
        if document.kind == 'text':
            text = document.whole.encode('utf-8', 'surrogatepass')
            yield document.key, _TEXT + text

    def _windows(self, key: bytes, values: Iterator[bytes]) -> steps.Pairs:
        """The hash of all windows around the anchors of a document: key and place."""
        text = next(values)
        places = np.fromiter(
            (int.from_bytes(value[1:]) for value in values if value[:1] == _PLACE),
            np.int64,
        )
        if text[:1] != _TEXT or not len(places):
            return
        tokens = self._split(text[1:].decode('utf-8', 'surrogatepass'))
        back = np.arange(self._tokens - self._gram + 1)
        first = np.unique(np.maximum(places[:, None] - back, 0))
        first = first[first <= len(tokens.starts) - self._tokens]
        starts, ends = tokens.starts[first], tokens.ends[first + self._tokens - 1]
        short = ends - starts <= hashes.LONGEST
        first, starts, ends = first[short], starts[short], ends[short]
        pairs = [
            hashes.stretches(tokens.raw, starts, ends, family) for family in (0, 1)
        ]
        data = np.stack(pairs, axis=1).tobytes()
        for number, place in enumerate(first.tolist()):
            window = data[16 * number : 16 * number + 16]
            yield window, key + struct.pack('>I', place)

    def _later(self, window: bytes, values: Iterator[bytes]) -> steps.Pairs:
        """What the second and later places of a window lose: its first and last + 1."""
        first_key, first = _place(next(values))
        for value in values:
            key, start = _place(value)
            end = start + self._tokens
            if key == first_key:
                start = max(start, first + self._tokens)
            yield key, struct.pack('>II', start, end)


def _place(value: bytes) -> tuple[bytes, int]:
    return value[:_KEY], int.from_bytes(value[_KEY:])


def _repeated(anchor: bytes, values: Iterator[bytes]) -> steps.Pairs:
    """The places of an anchor that has more than one."""
    first: bytes | None = next(values)
    for value in values:
        if first is not None:
            yield first[:_KEY], _PLACE + first[_KEY:]
            first = None
        yield value[:_KEY], _PLACE + value[_KEY:]


def _merged(key: bytes, values: Iterator[bytes]) -> steps.Pairs:
    """Stretches that touch or overlap as one."""
    first, last = struct.unpack('>II', next(values))
    for value in values:
        start, end = struct.unpack('>II', value)
        if start > last:
            yield key, struct.pack('>II', first, last)
            first = start
        last = max(last, end)
    yield key, struct.pack('>II', first, last)


def _splitter(tokenizer: tokenizer_lib.Tokenizer) -> Split:
    def split(text: str) -> hashes.Tokens:
        pieces = [tokenizer.token_bytes(token) for token in tokenizer.encode(text)]
        if tokenizer.dummy_prefix and pieces:
            pieces[0] = pieces[0].removeprefix(b' ')
        raw = b''.join(pieces)
        if raw != text.encode('utf-8', 'surrogatepass'):
            raise command.UserError(
                f'substring.tokenizer {tokenizer.name!r} changes texts, so that places '
                'of its tokens cannot be cut; take another, or None.'
            )
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]
        return hashes.Tokens(np.frombuffer(raw, np.uint8), starts, ends)

    split('A \u00e9\u4e2d\n')
    return split


def _character(raw: bytes, place: int, step: int) -> int:
    """The nearest place between characters, after `place` (step 1) or before it."""
    while place < len(raw) and raw[place] & 0xC0 == 0x80:
        place += step
    return place
