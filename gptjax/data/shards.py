"""Documents to token ids, and ids to shards, which a kill leaves whole or absent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from gptjax import command
from gptjax.data import documents, ledger, rows, storage
from gptjax.text import chat, frames
from gptjax.text import tokenizer as tokenizer_lib

_PIECE = 1 << 20  # characters of a long text that are tokenized at once


@dataclass(frozen=True)
class Encoded:
    """The token sequences of a document (two for a pair), and what of them is learned.

    A text has one sequence, `<|endoftext|>` and its tokens (and `<|end|>`, of a
    tokenizer with a mask, which is for encoders), and no mask. That of a labelled text
    ends with `<|end|>`, as does its second text, and the mask is 1 on the latter. A
    translation is the source with `<|end|>`, and the target between a start token and
    `<|end|>`.
    """

    sequences: list[np.ndarray]  # uint32
    masks: list[np.ndarray]  # uint8, or float32 weights
    margin: float = 0.0  # of a pair


def encode(
    tokenizer: tokenizer_lib.Tokenizer, batch: Sequence[documents.Document]
) -> list[Encoded]:
    """The documents of a batch, all of one kind, as token ids."""
    kind = batch[0].kind if batch else 'text'
    if kind != 'text':
        encoders = {'labelled': _encode_labelled, 'translation': _encode_translation}
        one = encoders.get(kind, _encode_turns)
        return [one(tokenizer, document) for document in batch]
    control = tokenizer.control
    begin = np.array([control[tokenizer_lib.BEGIN]], np.uint32)
    # What an encoder reads ends with an end token (`frames`), also while it learns.
    closed = [frames.end(tokenizer)] if tokenizer_lib.MASK in control else []
    end = np.array(closed, np.uint32)
    pieces = [list(_pieces(document.text or '')) for document in batch]
    short = iter(tokenizer.encode_batch([p[0] for p in pieces if len(p) == 1]))
    encoded = []
    for texts in pieces:
        found = [next(short)] if len(texts) == 1 else map(tokenizer.encode, texts)
        ids = [np.array(one, np.uint32) for one in found]
        encoded.append(Encoded([np.concatenate([begin, *ids, end])], []))
    return encoded


def _pieces(text: str) -> Iterator[str]:
    """A text in pieces of bounded length, cut at the end of a line if there is one.

    A list of all tokens of a long text would take 40 times the memory of the text.
    """
    start = 0
    while len(text) - start > _PIECE:
        end = text.rfind('\n', start, start + _PIECE) + 1 or start + _PIECE
        yield text[start:end]
        start = end
    yield text[start:]


def _encode_turns(
    tokenizer: tokenizer_lib.Tokenizer, document: documents.Document
) -> Encoded:
    if document.messages is not None:
        talks, known = [document.messages], 0
        prompt = document.messages[:-1] if document.label is not None else []
    else:
        assert document.pair is not None
        prompt, pair = document.pair['prompt'], document.pair
        talks = [
            [*prompt, {'role': 'assistant', 'content': pair[which]}]
            for which in ('chosen', 'rejected')
        ]
    try:
        if prompt:
            known = len(chat.prompt(tokenizer, prompt))
        found = [chat.encode(tokenizer, talk) for talk in talks]
    except command.UserError as error:
        raise command.UserError(f'{document.id}: {error}') from None
    masks = [np.array(weights, np.float32) for _, weights in found]
    for mask in masks:
        mask[:known] = 0  # the prompt may hold earlier answers
    sequences = [np.array(ids, np.uint32) for ids, _ in found]
    return Encoded(sequences, masks, (document.pair or {}).get('margin', 0.0))


def _encode_labelled(
    tokenizer: tokenizer_lib.Tokenizer, document: documents.Document
) -> Encoded:
    texts = tokenizer.encode_batch(list(document.texts()))
    ids, types = frames.example(tokenizer, *texts)
    return Encoded([np.array(ids, np.uint32)], [np.array(types, np.uint8)])


def _encode_translation(
    tokenizer: tokenizer_lib.Tokenizer, document: documents.Document
) -> Encoded:
    source, target = tokenizer.encode_batch(list(document.texts()))
    begin, end = frames.start(tokenizer), frames.end(tokenizer)
    sequences = [frames.source(tokenizer, source), [begin, *target, end]]
    return Encoded([np.array(ids, np.uint32) for ids in sequences], [])


def decode(tokenizer: tokenizer_lib.Tokenizer, encoded: Encoded) -> str:
    """The text of all tokens of a document, without those of control."""
    tokens = np.concatenate(encoded.sequences)
    kept = tokens[~np.isin(tokens, list(tokenizer.control.values()))]
    return tokenizer.decode(kept.tolist())


def read(built: Any, split: str) -> Iterator[tuple[ledger.Entry, Encoded, int | None]]:
    """The documents of a split of a `dataset.Dataset`, each with its class's number.

    In order, with their rows of the ledger, as they were added to a `Writer`.
    """
    entries = ledger.entries(built, split)
    for shard in built.shards(split):
        path = built.folder / shard['file']
        tokens = np.memmap(path, np.dtype(built.manifest['dtype']), 'r')
        bounds = np.fromfile(path.with_suffix('.offsets'), '<i8').tolist()
        masked, classes = path.with_suffix('.mask'), path.with_suffix('.labels')
        mask = np.memmap(masked, built.mask, 'r') if masked.exists() else None
        labels = np.fromfile(classes, '<i4').tolist() if classes.exists() else None
        margins = rows.margins(path, shard['documents']).tolist()
        first = 0
        for number, entry in enumerate(itertools.islice(entries, shard['documents'])):
            ends = bounds[first : first + entry.sequences + 1]
            first += entry.sequences
            spans = list(itertools.pairwise(ends))
            yield (
                entry,
                Encoded(
                    [tokens[a:b] for a, b in spans],
                    [] if mask is None else [mask[a:b] for a, b in spans],
                    margins[number],
                ),
                None if labels is None else labels[number],
            )


class Writer:
    """Writes the shards of one split, each closed by the document that fills it.

    Where a build was killed, `finished` shards are there already; the first `documents`
    documents of the split, which they hold, must not be added again.

    output: the dataset's folder. progress: where the record of each finished shard
    goes, after the shard itself. shard_tokens: a shard is closed at that many tokens or
    more. labels: the names of the classes, whose order numbers them. mask: the type of
    the masks, 'u1', or '<f4' where messages have weights of their own.
    """

    def __init__(
        self,
        output: Path,
        progress: Path,
        split: str,
        dtype: str,
        shard_tokens: int,
        labels: Sequence[str] = (),
        mask: str = 'u1',
    ):
        self._output = output
        self._progress = progress
        self._split = split
        self._dtype = dtype
        self._shard_tokens = shard_tokens
        self._mask_dtype = mask
        self._label_ids = {name: number for number, name in enumerate(labels)}
        self.finished: list[dict[str, Any]] = []
        while record := storage.read_json(self._record(len(self.finished))):
            self.finished.append(record)
        self.documents = sum(record['documents'] for record in self.finished)
        self._begin()

    def _record(self, number: int) -> Path:
        return self._progress / f'{self._split}-{number:05}.json'

    def _begin(self) -> None:
        self._tokens: list[np.ndarray] = []
        self._mask: list[np.ndarray] = []
        self._labels: list[int] = []
        self._margins: list[float] = []
        self._ledger = ledger.Rows()
        self._counts = {'tokens': 0, 'documents': 0, 'bytes': 0}

    def add(self, document: documents.Document, encoded: Encoded) -> None:
        """Appends a document; closes the shard if that fills it."""
        label = document.label
        number = None if label is None else self._label_ids[label]
        self.append(ledger.row(document), encoded, number)

    def append(
        self, row: Mapping[str, Any], encoded: Encoded, label: int | None
    ) -> None:
        """Appends a document by its `ledger.row`; label: the number of its class."""
        self._tokens += [ids.astype(self._dtype) for ids in encoded.sequences]
        self._mask += [mask.astype(self._mask_dtype) for mask in encoded.masks]
        if label is not None:
            self._labels.append(label)
        self._margins.append(encoded.margin)
        start = self._counts['tokens']
        end = start + sum(map(len, encoded.sequences))
        places = {'start': start, 'end': end, 'sequences': len(encoded.sequences)}
        self._ledger.add({**row, **places})
        self._counts['tokens'] = end
        self._counts['documents'] += 1
        self._counts['bytes'] += row['bytes']
        if end >= self._shard_tokens:
            self.close()

    def close(self) -> None:
        """Writes what is there as a shard; its record last, which makes it finished."""
        if not self._tokens:
            return
        number = len(self.finished)
        stem = f'{self._split}/{number:05}'
        ends = np.cumsum([0] + [len(ids) for ids in self._tokens])
        contents = {
            'tokens': np.concatenate(self._tokens).tobytes(),
            'offsets': ends.astype('<i8').tobytes(),
            'parquet': self._ledger.encode(),
        }
        if self._mask:
            contents['mask'] = np.concatenate(self._mask).tobytes()
        if self._labels:
            contents['labels'] = np.array(self._labels, '<i4').tobytes()
        if any(self._margins):
            contents['margins'] = np.array(self._margins, '<f4').tobytes()
        (self._output / self._split).mkdir(exist_ok=True)
        digests = {
            f'{stem}.{suffix}': storage.write(
                self._output / f'{stem}.{suffix}', content
            )
            for suffix, content in contents.items()
        }
        record = {
            'file': f'{stem}.tokens',
            'sha256': digests,
            **self._counts,
        }
        storage.write_json(self._record(number), record)
        self.finished.append(record)
        self._begin()

    def summary(self) -> dict[str, Any]:
        """The split in a manifest: its one segment of shards, and the sums of these."""
        names = ('documents', 'tokens', 'bytes')
        totals = {name: sum(one[name] for one in self.finished) for name in names}
        return {'segments': [{'name': 'base', 'shards': self.finished}], **totals}
