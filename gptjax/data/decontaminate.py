"""Takes evaluation texts out of training data: n-grams of words, and whole short texts.

As GPT-3 (Brown et al., 2020, appendix C) and the harness's janitor, words are lower
case and without punctuation, and one common run of `ngram` words (13) is a hit. Where
this differs from the janitor: punctuation is all of Unicode's (P and S), not ASCII's
alone; a token of punctuation alone is no word on either side; hits that lie together
are one, as in the paper, where each n-gram counts there; the pieces that a cut leaves
stay one document. Texts without spaces between words (Chinese, Thai) are not found.

An n-gram is a hash of 64 bits. Two others are equal with a chance of 2**-64: of 10**12
n-grams of a corpus against 10**7 of evaluation texts, one in two runs has one such hit.
"""

import bz2
from collections.abc import Iterator, Mapping, Sequence
import csv
import dataclasses
import gzip
import hashlib
import json
from pathlib import Path
import re
import string
from typing import IO, Any
import unicodedata

from jaxtyping import UInt64
import numpy as np

from gptjax import command
from gptjax.data import documents, steps

KINDS = ('.jsonl', '.csv', '.txt')
PARTS = ('query', 'answer', 'overlap')
_OPEN: dict[str, Any] = {'.gz': gzip.open, '.bz2': bz2.open}
_REMEMBERED = 1 << 20  # words
_WINDOW = 200  # characters cut on both sides of a hit; less than that is not kept
_CUTS = 10  # a document with more hits is left out
_SHOWN = 8  # words of a hit

Hashes = UInt64[np.ndarray, ' n']


def decontaminate(
    *,
    path: str | Sequence[str | Mapping[str, str | None]],
    find: Sequence[str],
    ngram: int,
    shortest: int,
    action: str,
) -> steps.Step:
    """A step that rejects documents which hold evaluation text, or cuts it out.

    path: evaluation files or folders of .jsonl, .csv and .txt (also .gz and .bz2), one
    or several. Each string in a line is a text by itself; or, with {'path': ...,
    'query': field, 'answer': field, 'right': field or None}, those fields are (`right`
    is the number of the answer in a list of them; fields of a .csv are '0', '1', ...).
    find: which n-grams of these: inside the 'query', inside the 'answer', or 'overlap',
    those that run from one into the other.
    shortest: of texts below `ngram` words, those from this many words on are sought as
    the whole of a document or of a message; shorter ones ('yes') are ignored.
    action: 'reject', or 'cut': 200 characters on both sides of a hit, the pieces of at
    most that length too, and all of a document with more than 10 hits.

    The reason is 'contaminated', the value the file and how the hit begins; a cut
    leaves the signal 'decontaminate.hits'. Raises UserError for wrong options, and for
    files that are missing or have nothing to look for.
    """
    if unknown := [part for part in find if part not in PARTS]:
        command.lookup(dict.fromkeys(PARTS), unknown[0], 'part in find')
    command.lookup({'reject': 0, 'cut': 0}, action, 'action')
    if not 1 <= shortest <= ngram:
        raise command.UserError(
            f'decontaminate has ngram={ngram} and shortest={shortest}; shortest is '
            'from 1 to ngram.'
        )
    index = Index(ngram, shortest)
    for one in [path] if isinstance(path, str) else path:
        options = {'path': one} if isinstance(one, str) else one
        command.splat(index.add, 'decontaminate.path', options, find=find)
    index.finish()

    def reject(document: documents.Document) -> steps.Result:
        hit = index.hit(document)
        return document if hit is None else documents.Reject('contaminated', hit)

    def cut(document: documents.Document) -> steps.Result:
        hit = index.hit(document)
        if hit is None:
            return document
        hits = [0]
        after = document.changed(lambda text: _cut(text, index.spans(text), hits))
        if hits[0] > _CUTS or not after.whole.strip() or index.hit(after) is not None:
            return documents.Reject('contaminated', hit)
        signals = {**after.signals, 'decontaminate.hits': float(hits[0])}
        return dataclasses.replace(after, signals=signals)

    return reject if action == 'reject' else cut


class Index:
    """The hashes of n-grams and short texts, each with the file that it is from."""

    def __init__(self, ngram: int, shortest: int):
        self._ngram = ngram
        self._shortest = shortest
        self._words = _Words()
        self._files: list[str] = []
        self._found: list[Hashes] = []
        self._numbers: list[np.ndarray] = []

    def add(
        self,
        path: str,
        query: str | None = None,
        answer: str | None = None,
        right: str | None = None,
        *,
        find: Sequence[str],
    ) -> None:
        """The texts of a file or folder; see `decontaminate`."""
        for name, file in _files(path):
            texts: list[list[str]] = []
            for record in _records(file):
                if query or answer:
                    texts += self._parts(record, file, query, answer, right, find)
                else:
                    texts += map(words, _strings(record))
            short = [self._hashes(one) for one in texts if len(one) < self._ngram]
            here = np.unique(np.concatenate([self._inside(texts), *short]))
            self._found.append(here)
            self._numbers.append(np.full(len(here), len(self._files), np.int32))
            self._files.append(name)

    def _parts(
        self,
        record: Mapping[str, Any],
        file: Path,
        query: str | None,
        answer: str | None,
        right: str | None,
        find: Sequence[str],
    ) -> Iterator[list[str]]:
        if missing := [f for f in (query, answer, right) if f and f not in record]:
            raise command.UserError(
                f'{file} has no field {missing[0]!r}; it has {", ".join(record)}.'
            )
        asked = words(str(record[query])) if query else []
        answers = record[answer] if answer else []
        answers = answers if isinstance(answers, list) else [answers]
        try:
            answers = [answers[int(record[right])]] if right else answers
        except (ValueError, TypeError, IndexError):
            raise command.UserError(
                f'{file} has {right}={record[str(right)]!r} for {len(answers)} '
                f'{answer}; `right` is the field with the number of the right one.'
            ) from None
        if 'query' in find:
            yield asked
        for one in map(words, map(str, answers)):
            if 'answer' in find:
                yield one
            most = self._ngram - 1
            if 'overlap' in find and len(asked[-most:] + one[:most]) > most:
                yield asked[-most:] + one[:most] if most else []

    def finish(self) -> None:
        """Makes the index ready; UserError where there is nothing in it."""
        found = np.concatenate(self._found) if self._found else np.zeros(0, np.uint64)
        if not len(found):
            raise command.UserError(
                f'decontaminate.path names no text of {self._shortest} words or more; '
                'check the files, or take a smaller shortest.'
            )
        self._sorted, first = np.unique(found, return_index=True)
        self._file_of = np.concatenate(self._numbers)[first]
        # Most lookups end here: one place in 8 to 16 is set, of at most 64 MiB.
        self._bits = min(26, max(20, (8 * len(self._sorted)).bit_length()))
        self._maybe = np.zeros(1 << self._bits, bool)
        self._maybe[self._sorted >> np.uint64(64 - self._bits)] = True

    def hit(self, document: documents.Document) -> str | None:
        """'FILE: how it begins' of the first hit in a document, or None."""
        for text in {document.whole: None, **dict.fromkeys(document.texts())}:
            found = words(text)
            hashes = self._hashes(found)
            at = self._at(hashes)
            if len(at):
                place = np.searchsorted(self._sorted, hashes[at[0]])
                name = self._files[int(self._file_of[place])]
                return f'{name}: {" ".join(found[at[0] : at[0] + _SHOWN])}'
        return None

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each hit begins and ends in a text, in characters."""
        places = [m.span() for m in re.finditer(r'\S+', text) if words(m.group())]
        at = self._at(self._hashes(words(text)))
        last = min(self._ngram, len(places)) - 1
        return [(places[i][0], places[i + last][1]) for i in at.tolist()]

    def _hashes(self, found: Sequence[str]) -> UInt64[np.ndarray, ' windows']:
        """Of every n-gram; of all words, where they are fewer than n."""
        size = min(self._ngram, len(found))
        if size < self._shortest:
            return np.zeros(0, np.uint64)
        values = np.fromiter(map(self._words.__getitem__, found), np.uint64, len(found))
        return _windows(values, size)

    def _inside(self, texts: Sequence[Sequence[str]]) -> Hashes:
        """Of every n-gram that does not run from one text into the next."""
        lengths = [len(one) for one in texts]
        ends = np.repeat(np.cumsum(lengths), lengths)
        whole = np.flatnonzero(np.arange(len(ends)) + self._ngram <= ends)
        found = self._hashes([word for one in texts for word in one])
        return found[whole] if len(whole) else np.zeros(0, np.uint64)

    def _at(self, hashes: Hashes) -> np.ndarray:
        """The numbers of those hashes that are in the index."""
        maybe = np.flatnonzero(self._maybe[hashes >> np.uint64(64 - self._bits)])
        place = np.searchsorted(self._sorted, hashes[maybe])
        place[place == len(self._sorted)] = 0
        return maybe[self._sorted[place] == hashes[maybe]]


def _windows(values: Hashes, size: int) -> UInt64[np.ndarray, ' windows']:
    """A hash of each `size` values in a row, by runs of 1, 2, 4, ... of them."""
    hashes = np.full(len(values) - size + 1, size, np.uint64)
    runs, width, done = values, 1, 0
    while True:
        if size & width:
            hashes = _mixed(hashes, runs[done : done + len(hashes)])
            done += width
        if done == size:
            return hashes
        runs = _mixed(runs[:-width], runs[width:])
        width *= 2


def _mixed(a: Hashes, b: Hashes) -> Hashes:
    mixed = (a * np.uint64(0x9E3779B97F4A7C15)) ^ b
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    return mixed


class _Words(dict[str, int]):
    """The hash of each word, 64 bits; the latest are remembered."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        encoded = word.encode('utf-8', 'surrogatepass')
        digest = hashlib.blake2b(encoded, digest_size=8).digest()
        self[word] = int.from_bytes(digest, 'little')
        return self[word]


def words(text: str) -> list[str]:
    """The words of a text, in lower case and without punctuation and symbols."""
    lower = text.casefold()
    if lower.isascii():
        return lower.translate(_ASCII).split()
    return _MARK.sub(_unless_mark, lower).split()


_ASCII = str.maketrans('', '', string.punctuation)
_MARK = re.compile(r'[^\w\s]|_')


def _unless_mark(match: re.Match[str]) -> str:
    """Nothing for punctuation and symbols; the marks of other scripts stay."""
    return '' if unicodedata.category(match[0])[0] in 'PS' else match[0]


def _cut(text: str, spans: Sequence[tuple[int, int]], hits: list[int]) -> str:
    """The text without its spans and what is around them; counts them in hits[0]."""
    merged: list[list[int]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1][1] = end
        else:
            merged.append([start, end])
    hits[0] += len(merged)
    if not merged:
        return text
    begins = [0, *(end + _WINDOW for _, end in merged)]
    ends = [*(start - _WINDOW for start, _ in merged), len(text)]
    pieces = [text[max(a, 0) : max(b, 0)] for a, b in zip(begins, ends, strict=True)]
    return '\n\n'.join(one.strip() for one in pieces if len(one) > _WINDOW)


def _files(path: str) -> list[tuple[str, Path]]:
    root = Path(path)
    found = sorted(root.rglob('*')) if root.is_dir() else [root]
    kept = [f for f in found if f.is_file() and _kind(f) in KINDS]
    if not kept:
        raise command.UserError(
            f'decontaminate.path has {path!r}, which holds no {", ".join(KINDS)} (also '
            '.gz and .bz2); name evaluation files, or a folder of them.'
        )
    return [(file.relative_to(root.parent).as_posix(), file) for file in kept]


def _kind(file: Path) -> str:
    return Path(file.stem).suffix if file.suffix in _OPEN else file.suffix


def _records(file: Path) -> Iterator[dict[str, Any]]:
    opened: IO[str]
    with _OPEN.get(file.suffix, open)(file, 'rt', encoding='utf-8') as opened:
        try:
            if _kind(file) == '.csv':
                for row in csv.reader(opened):
                    yield {str(i): cell for i, cell in enumerate(row)}
                return
            for line in filter(str.strip, opened):
                yield json.loads(line) if _kind(file) == '.jsonl' else {'text': line}
        except (ValueError, csv.Error) as error:
            raise command.UserError(
                f'{file} cannot be read ({error}); it needs to be UTF-8, and .jsonl an '
                'object a line.'
            ) from None


def _strings(value: Any) -> Iterator[str]:
    """Every string in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)


STEPS: steps.Table = {'decontaminate': decontaminate}
