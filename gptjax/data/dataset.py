"""A built dataset: a folder of token shards with a manifest that vouches for them.

manifest.json       counts, sources, licences, digests (of itself too)
tokenizer/          as `gptjax.text.table.load` reads it
train/00000.tokens  token ids, uint16 or uint32, little endian, documents in order
     /00000.offsets where each sequence begins, and the end (int64)
     /00000.mask    chat and pairs: 1 where the token is learned; labelled: 1 in the
                    second text (uint8); chat whose messages have weights: the weight
                    of the token (float32)
     /00000.labels  labelled and feedback: the class of each document (int32)
     /00000.margins pairs: by how much more the chosen one is worth (float32), if any
     /00000.parquet the origin and the place of each document, see `gptjax.data.ledger`
validation/...
card.md             the manifest for people; croissant.json, for machines
raw.json            only of raw text in a workdir, see `gptjax.data.build.ensure`
"""

from collections.abc import Sequence
import concurrent.futures
import functools
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Int64
import numpy as np

from gptjax import command
from gptjax.data import example_rows, feedback_rows, storage, turn_rows
from gptjax.data import rows as rows_lib
from gptjax.data import split as split_lib
from gptjax.data.origin import spdx
from gptjax.text import table as text_table
from gptjax.text import tokenizer as tokenizer_lib

MASK = 'u1'  # the type of masks, where messages have no weights of their own
FORMAT = 2  # of the manifest; 1 had its ledger in .jsonl


def open(folder: Path | str) -> 'Dataset':
    """The dataset in `folder`, after a look at every byte of it.

    Raises UserError, with the name of the file, where the manifest or a shard is
    missing or is not what was built.
    """
    folder = Path(folder)
    path = folder / 'manifest.json'
    if not path.is_file():
        raise command.UserError(
            f'{folder} holds no dataset: it has no manifest.json. A build that was '
            'interrupted is finished by running it again.'
        )
    try:
        manifest = storage.read_json(path)
        vouched = manifest.pop('digest')
        intact = vouched == storage.json_digest(manifest)
    except (ValueError, KeyError, AttributeError, TypeError):  # or JSON of no object
        intact = False
    if not intact:
        raise command.UserError(f'{path} is damaged; build the dataset again.')
    if manifest['format'] != FORMAT:
        raise command.UserError(
            f'{path} has format {manifest["format"]}, of another version of gptjax; '
            f'this one reads format {FORMAT}, with a ledger in Parquet. Delete '
            f'{folder} and build it again.'
        )
    manifest['digest'] = vouched
    digests = {
        folder / name: digest
        for split in split_lib.SPLITS
        for shard in _shards(manifest, split)
        for name, digest in shard['sha256'].items()
    }
    with (
        concurrent.futures.ThreadPoolExecutor() as pool
    ):  # hashing leaves Python's lock
        list(pool.map(_check, digests, digests.values()))
    return Dataset(folder, manifest)


def _check(path: Path, digest: str) -> None:
    try:
        found = storage.file_digest(path)
    except FileNotFoundError:
        raise command.UserError(
            f'{path} is missing; build the dataset again.'
        ) from None
    if found != digest:
        raise command.UserError(
            f'{path} is damaged: its SHA-256 is {found[:12]}..., and the manifest says '
            f'{digest[:12]}...; build the dataset again.'
        )


def _shards(manifest: dict[str, Any], split: str) -> list[dict[str, Any]]:
    segments = manifest['splits'][split]['segments']
    return [shard for segment in segments for shard in segment['shards']]


class Sequences(NamedTuple):
    """The tokens of a split, where its sequences begin and end, and the mask, if any.

    A text, and both sides of a translation, have no mask.
    """

    tokens: rows_lib.Stream
    starts: Int64[np.ndarray, ' bounds']
    mask: rows_lib.Stream | None


class Dataset:
    """A verified dataset; see `open`.

    kind: 'text', 'chat', 'pairs', 'feedback', 'labelled' or 'translation'. labels: the
    names of the classes in the order of their ids; none where nothing is labelled.
    mask: the type of the files of masks, '<f4' where they are weights.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder = folder
        self.manifest = manifest
        self.kind: str = manifest['kind']
        self.labels: list[str] = list(manifest.get('labels', ()))
        self.mask: str = manifest.get('mask', MASK)

    @functools.cached_property
    def content(self) -> str:
        """The digest of what rows are made of: one wherever the dataset was built.

        The manifest's own digest vouches for the ledger too, whose bytes are those of a
        version of pyarrow.
        """
        files = {
            name: digest
            for split in split_lib.SPLITS
            for shard in self.shards(split)
            for name, digest in shard['sha256'].items()
            if not name.endswith('.parquet')
        }
        tokenizer = self.manifest['tokenizer']['digest']
        return storage.json_digest([self.kind, self.labels, tokenizer, files])

    def tokenizer(self) -> tokenizer_lib.Tokenizer:
        """The tokenizer of the tokens; UserError where it is missing or another one."""
        tokenizer = text_table.load(self.folder / 'tokenizer')
        if tokenizer.digest != self.manifest['tokenizer']['digest']:
            raise command.UserError(
                f'{self.folder / "tokenizer"} is not the tokenizer that the tokens '
                'were made with; build the dataset again.'
            )
        return tokenizer

    def shards(self, split: str) -> list[dict[str, Any]]:
        """The records of the shards of a split, in order: file, counts, digests."""
        command.lookup(self.manifest['splits'], split, 'split')
        return _shards(self.manifest, split)

    def check_licences(self, allowed: Sequence[str]) -> None:
        """Raises UserError for sources under a licence that is not among `allowed`.

        'unknown' never is; `A OR B` is where either is, see `gptjax.data.origin.spdx`.
        """
        refused = [
            f'{row["source"]} ({row["licence"]}, {row["documents"]:,} documents)'
            for row in self.manifest['sources']
            if not spdx.allowed(row['licence'], allowed)
        ]
        if refused:
            raise command.UserError(
                f'{self.folder} holds sources under licences that are not allowed '
                f'({", ".join(sorted(allowed)) or "none"} are): {"; ".join(refused)}. '
                'Allow them, or take them out with python -m gptjax.data remove.'
            )

    def bytes(self, split: str) -> int:
        """UTF-8 bytes of what a model learns to write in a split: texts, or answers."""
        return command.lookup(self.manifest['splits'], split, 'split')['bytes']

    def rows(
        self,
        split: str,
        T: int,
        packing: str | None = None,
        feedback: bool = False,
        longer: str = 'cut',
    ) -> rows_lib.Rows:
        """The rows of T tokens of a split; UserError where the split is empty.

        packing: 'best_fit' packs the documents of a text whole into rows; with None
        their stream is cut every T tokens. feedback: whether each answer of a pair is
        a row by itself, as of a dataset of that kind. longer: what becomes of
        conversations and pairs of more than T tokens, see `turn_rows`.
        """
        if self.kind == 'text' and packing is None:
            return rows_lib.TextRows(self._stream(split, '.tokens'), T)
        tokens, starts, mask = self.sequences(split)
        if self.kind == 'text':
            return rows_lib.BestFitRows(tokens, starts, T)
        if self.kind == 'translation':
            return example_rows.TranslationRows(tokens, starts, T)
        assert mask is not None
        files = [self.folder / shard['file'] for shard in self.shards(split)]
        if self.kind in ('labelled', 'feedback'):
            of_each = [np.fromfile(f.with_suffix('.labels'), '<i4') for f in files]
            labels = np.concatenate(of_each)
            if self.kind == 'labelled':
                return example_rows.LabelledRows(tokens, mask, starts, labels, T)
            good = np.array([name == 'true' for name in self.labels])[labels]
            return feedback_rows.FeedbackRows(tokens, mask, starts, good, T, longer)
        if feedback and self.kind == 'pairs':
            return feedback_rows.FeedbackRows(tokens, mask, starts, None, T, longer)
        sequences = turn_rows.Sequences(tokens, mask, starts, longer)
        if self.kind == 'chat':
            return turn_rows.ChatRows(sequences, T)
        counts = [shard['documents'] for shard in self.shards(split)]
        margins = np.concatenate([*map(rows_lib.margins, files, counts)])
        return turn_rows.PairRows(sequences, T, margins if margins.any() else None)

    def sequences(self, split: str) -> Sequences:
        """What the rows of a split are cut from; UserError where it is empty."""
        tokens = self._stream(split, '.tokens')
        files = [self.folder / shard['file'] for shard in self.shards(split)]
        starts = [
            np.fromfile(file.with_suffix('.offsets'), '<i8')[:-1] + bound
            for file, bound in zip(files, tokens.bounds[:-1], strict=True)
        ]
        masked = self.kind not in ('text', 'translation')
        return Sequences(
            tokens,
            np.concatenate([*starts, tokens.bounds[-1:]]),
            self._stream(split, '.mask') if masked else None,
        )

    def _stream(self, split: str, suffix: str) -> rows_lib.Stream:
        """The files of all shards of a split that hold something of each token."""
        shards = self.shards(split)
        if not shards:
            raise command.UserError(
                f'the {split} split of {self.folder} is empty; build the dataset with '
                'another held_out.fraction.'
            )
        files = [(self.folder / one['file']).with_suffix(suffix) for one in shards]
        dtype = np.dtype(self.mask if suffix == '.mask' else self.manifest['dtype'])
        return rows_lib.Stream(files, [shard['tokens'] for shard in shards], dtype)

    def summary(self) -> str:
        """A table for people: documents, bytes, tokens by source and licence."""
        lines: list[tuple[str, ...]]
        lines = [('source', 'licence', 'documents', 'bytes', 'tokens')]
        for row in self.manifest['sources']:
            counts = (f'{row[k]:,}' for k in ('documents', 'bytes', 'tokens'))
            lines.append((row['source'], row['licence'], *counts))
        for split, row in sorted(self.manifest['splits'].items()):
            counts = (f'{row[k]:,}' for k in ('documents', 'bytes', 'tokens'))
            lines.append((f'of these {split}', '', *counts))
        for reason, count in sorted(self.manifest['skipped'].items()):
            lines.append((f'skipped: {reason}', '', f'{count:,}', '', ''))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return '\n'.join(
            '  '.join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
