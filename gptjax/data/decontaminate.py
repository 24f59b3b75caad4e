"""Takes evaluation texts out of training data: n-grams of words, and whole short texts.

As GPT-3 (Brown et al., 2020, appendix C) and the harness's janitor, words are lower
case and without punctuation, and one common run of `ngram` words (13) is a hit. Where
this differs: punctuation is all of Unicode's (P and S), not ASCII's alone; a token of
punctuation alone is no word on either side; a document with a hit is left out whole.
Texts without spaces between words (Chinese, Thai) are not found.

An n-gram is a hash of 64 bits. Two others are equal with a chance of 2**-64: of 10**12
n-grams of a corpus against 10**7 of evaluation texts, one in two runs has one such hit.
"""

import bz2
from collections.abc import Iterable, Iterator, Mapping, Sequence
import csv
import gzip
import hashlib
import itertools
import json
from pathlib import Path
import re
import string
from typing import IO, Any
import unicodedata
import zlib

from jaxtyping import UInt64
import numpy as np

from gptjax import command
from gptjax.data import documents, steps

KINDS = ('.jsonl', '.csv', '.txt')
PARTS = ('query', 'answer', 'overlap')
_OPEN: dict[str, Any] = {'.gz': gzip.open, '.bz2': bz2.open}
_REMEMBERED = 1 << 20  # words
_SHOWN = 8  # words of a hit

Hashes = UInt64[np.ndarray, ' n']


def decontaminate(
    *,
    path: str | Sequence[str | Mapping[str, str | None]],
    find: Sequence[str],
    ngram: int,
    shortest: int,
) -> steps.Step:
    """A step that rejects documents which hold evaluation text.

    path: evaluation files or folders of .jsonl, .csv and .txt (also .gz and .bz2), one
    or several. Each string in a line is a text by itself; or, with {'path': ...,
    'query': field, 'answer': field, 'right': field or None}, those fields are (`right`
    is the number of the answer in a list of them; fields of a .csv are '0', '1', ...).
    find: which n-grams of these: inside the 'query', inside the 'answer', or 'overlap',
    those that run from one into the other.
    shortest: of texts below `ngram` words, those from this many words on are sought as
    the whole of a document or of a message; shorter ones ('yes') are ignored.

    The reason is 'contaminated', the value the file and how the hit begins. Raises
    UserError for wrong options, and for files that are missing or hold nothing to find.
    """
    for part in find:
        command.lookup(dict.fromkeys(PARTS), part, 'part in find')
    if not 1 <= shortest <= ngram or ngram < 2:
        raise command.UserError(
            f'decontaminate has ngram={ngram} and shortest={shortest}; ngram is at '
            'least 2, and shortest is from 1 to ngram.'
        )
    index = Index(ngram, shortest)
    for one in [path] if isinstance(path, str) else path:
        options = {'path': one} if isinstance(one, str) else one
        command.splat(index.add, 'decontaminate.path', options, find=find)
    index.finish()

    def reject(document: documents.Document) -> steps.Result:
        hit = index.hit(document)
        return document if hit is None else documents.Reject('contaminated', hit)

    return reject


class Index:
    """The hashes of n-grams and short texts, each with the file that it is from."""

    def __init__(self, ngram: int, shortest: int):
        self._ngram = ngram
        self._shortest = shortest
        self._words = _Words()
        self._files: list[str] = []
        self._found: list[Hashes] = []

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
            found = (
                self._parts(record, file, query, answer, right, find)
                if query or answer
                else map(words, _strings(record))
                for record in _records(file)
            )
            self._found.append(self._hashes(itertools.chain.from_iterable(found)))
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
            between = asked[-most:] + one[:most]
            if 'overlap' in find and len(between) > most:
                yield between

    def finish(self) -> None:
        """Makes the index ready; UserError where there is nothing in it."""
        found = np.concatenate([np.zeros(0, np.uint64), *self._found])
        if not len(found):
            raise command.UserError(
                f'decontaminate.path names no text of {self._shortest} words or more; '
                'check the files, or take a smaller shortest.'
            )
        self._sorted, self._first = np.unique(found, return_index=True)
        self._ends = np.cumsum([len(one) for one in self._found])  # of each file
        self._found.clear()
        # Most lookups end here: one place in 8 to 16 is set, of at most 64 MiB.
        self._bits = min(26, max(20, (8 * len(self._sorted)).bit_length()))
        self._maybe = np.zeros(1 << self._bits, bool)
        self._maybe[self._sorted >> np.uint64(64 - self._bits)] = True

    def hit(self, document: documents.Document) -> str | None:
        """'FILE: how it begins' of the first hit in a document, or None."""
        for text in {document.whole: None, **dict.fromkeys(document.texts())}:
            found = words(text)
            if len(found) < self._shortest:
                continue
            hashes = self._windows([found], min(len(found), self._ngram))
            maybe = np.flatnonzero(self._maybe[hashes >> np.uint64(64 - self._bits)])
            place = np.searchsorted(self._sorted, hashes[maybe])
            place[place == len(self._sorted)] = 0
            hits = np.flatnonzero(self._sorted[place] == hashes[maybe])
            if len(hits):
                first, begin = self._first[place[hits[0]]], maybe[hits[0]]
                name = self._files[np.searchsorted(self._ends, first, side='right')]
                return f'{name}: {" ".join(found[begin : begin + _SHOWN])}'
        return None

    def _hashes(self, texts: Iterable[Sequence[str]]) -> Hashes:
        """Of every n-gram; of a text with fewer than n words, of all of them."""
        by_size: dict[int, list[Sequence[str]]] = {}
        for one in texts:
            if len(one) >= self._shortest:
                by_size.setdefault(min(len(one), self._ngram), []).append(one)
        found = [np.zeros(0, np.uint64)]
        for size, some in by_size.items():
            lengths = [len(one) for one in some]
            hashes = self._windows(some, size)
            # Those that run from one text into the next are none.
            ends = np.repeat(np.cumsum(lengths), lengths)[: len(hashes)]
            found.append(hashes[np.arange(size, len(hashes) + size) <= ends])
        return np.concatenate(found)

    def _windows(self, texts: Sequence[Sequence[str]], size: int) -> Hashes:
        """Of each `size` words in a row, by runs of 1, 2, 4, ... of them."""
        every = map(self._words.__getitem__, itertools.chain.from_iterable(texts))
        runs = np.fromiter(every, np.uint64, sum(map(len, texts)))
        hashes, width, done = np.full(len(runs) - size + 1, size, np.uint64), 1, 0
        while done < size:
            if size & width:
                hashes = _mixed(hashes, runs[done : done + len(hashes)])
                done += width
            if done < size:
                runs = _mixed(runs[:-width], runs[width:])
                width *= 2
        return hashes


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
    kind = _kind(file)
    try:
        with _OPEN.get(file.suffix, open)(file, 'rt', encoding='utf-8-sig') as opened:
            if kind == '.csv':
                for row in csv.reader(opened):
                    yield {str(i): cell for i, cell in enumerate(row)}
                return
            for line in filter(str.strip, opened):
                yield dict(json.loads(line)) if kind == '.jsonl' else {'text': line}
    except (OSError, EOFError, ValueError, TypeError, csv.Error, zlib.error) as error:
        raise command.UserError(
            f'{file} cannot be read ({error}); it needs to be whole and UTF-8, and '
            '.jsonl an object a line.'
        ) from None


def _strings(value: Any) -> Iterator[str]:
    """Every string in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)
