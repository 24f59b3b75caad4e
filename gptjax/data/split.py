"""Which documents are held out for validation."""

from collections.abc import Iterator
import dataclasses
import hashlib

from gptjax import command
from gptjax.data import documents

SPLITS = ('train', 'validation')


class Tally:
    """Counts the documents of a corpus, to know of an empty split before the work.

    fraction: the share held out, 0 <= fraction < 1.
    by: 'document' holds out whole documents by a hash of their units, about `fraction`
    of the units; 'tail' holds out the last `fraction` of the characters of the corpus,
    and cuts the document at the border in two.
    """

    def __init__(self, fraction: float, by: str):
        if not 0 <= fraction < 1:
            raise command.UserError(
                f'held_out.fraction is {fraction}; it needs to be at least 0 and less '
                'than 1.'
            )
        if by not in ('document', 'tail'):
            raise command.UserError(
                f'held_out.by is {by!r}; it needs to be "document" or "tail".'
            )
        self._fraction = fraction
        self._by = by
        self._documents = [0, 0]
        self.characters = 0

    def add(self, document: documents.Document) -> None:
        """Counts one document; UserError for the tail of what is not text."""
        if self._by == 'tail' and document.kind != 'text':
            raise command.UserError(
                f'held_out.by="tail" cuts text, and this corpus is of {document.kind}; '
                'set it to "document".'
            )
        self.characters += sum(map(len, document.texts()))
        self._documents[is_held_out(document, self._fraction)] += 1

    def check(self) -> None:
        """Raises UserError where a split would be empty that is asked for."""
        parts = self._documents
        if self._by == 'tail':
            border = border_of(self.characters, self._fraction)
            parts = [border, self.characters - border]
        for name, part in zip(SPLITS, parts, strict=True):
            if not part and (name == 'train' or self._fraction):
                raise command.UserError(
                    f'held_out.fraction={self._fraction} by {self._by} leaves the '
                    f'{name} split empty: the corpus has {sum(self._documents)} '
                    'documents. Set another fraction, or held_out.by to "tail" for a '
                    'few long texts.'
                )


class Split:
    """Sends each document, or its two parts, to a split; documents come in order.

    fraction, by: as in `Tally`. characters: of the whole corpus.
    """

    def __init__(self, fraction: float, by: str, characters: int):
        self._fraction = fraction
        self._by = by
        self._border = border_of(characters, fraction)
        self._seen = 0

    def __call__(
        self, document: documents.Document
    ) -> Iterator[tuple[str, documents.Document]]:
        """The parts of the next document, each with the split that it belongs to."""
        if self._by == 'document':
            yield SPLITS[is_held_out(document, self._fraction)], document
            return
        text = document.text or ''
        cut = min(max(self._border - self._seen, 0), len(text))
        self._seen += len(text)
        for name, part in zip(SPLITS, (text[:cut], text[cut:]), strict=True):
            if part:
                yield name, dataclasses.replace(document, text=part)


def border_of(characters: int, fraction: float) -> int:
    """Where the tail begins, in characters from the start of the corpus."""
    return int(characters * (1 - fraction))


def is_held_out(document: documents.Document, fraction: float) -> bool:
    """Whether the hash of the document's unit is in the first `fraction` of hashes.

    The hash knows nothing of the corpus: with the same fraction, a unit is held out of
    every corpus or of none.
    """
    unit = document.id if document.unit is None else document.unit
    digest = hashlib.sha256(f'gptjax held out: {unit}'.encode()).digest()
    return int.from_bytes(digest[:8], 'big') < fraction * 2**64
