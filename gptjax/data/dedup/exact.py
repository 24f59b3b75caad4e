"""Exact duplicates: of documents, of paragraphs and of lines."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import re

from gptjax import command
from gptjax.data import documents, steps
from gptjax.data.dedup import hashes

_HASH = 16  # bytes of a key, of a digest and of an order
_END = re.compile(r'[.!?]["\')\]\u2019\u201d]{0,3}(?=\s|$)|[\u3002\uff01\uff1f]')
_SEPARATORS = {'line': re.compile(r'(\n)'), 'paragraph': re.compile(r'(\n\s*\n)')}


def _words(text: str) -> str:
    data, starts, ends = hashes.words(text)
    raw, places = data.tobytes(), zip(starts.tolist(), ends.tolist(), strict=True)
    return b' '.join([raw[a:b] for a, b in places]).decode('utf-8', 'surrogatepass')


_NORMALISE: Mapping[str, Callable[[str], str]] = {
    'none': str,
    'case': lambda text: text.strip().lower(),
    'words': _words,
}
_KEEP: Mapping[str, Callable[[documents.Document], bytes]] = {
    'id': lambda document: document.key,
    'url': lambda document: _md5(document.url or document.id),
}


class Exact:
    """Keeps one of equal documents, paragraphs or lines.

    unit: 'document', whose copies are rejected; or 'paragraph' (between blank lines) or
        'line', whose copies are cut, in a document and among documents. These are cut
        from plain texts only: conversations and pairs are whole or not at all.
    normalise: what has to be equal: 'none', the text; 'case', the text in lower case
        without white space around; 'words', its words (`hashes.words`). A unit that has
        nothing left is no duplicate of others: blank lines stay.
    keep: which one stays: of the least 'id' or 'url', each by a hash, so that neither
        order nor a site is preferred.
    sentences_least, characters_least: a text is rejected if it was cut and now has
        less, or is empty.

    What C4 was built with (remove_duplicate_text in TFDS's text/c4_utils.py) is 'line',
    'case', 'url' and 3 sentences; there, sentences are those of NLTK's punkt, here the
    marks . ! ? before white space, and what follows the last one.
    """

    def __init__(
        self, *, unit: str, normalise: str, keep: str,
        sentences_least: int | None = None, characters_least: int | None = None,
    ) -> None:  # fmt: skip
        """Raises UserError for an unknown unit, normalisation or order."""
        command.lookup({'document': None, **_SEPARATORS}, unit, 'unit of exact')
        self._separator = _SEPARATORS.get(unit)
        self._normalise = command.lookup(_NORMALISE, normalise, 'normalise of exact')
        self._order = command.lookup(_KEEP, keep, 'keep of exact')
        self._least = (sentences_least or 0, characters_least or 0)
        self.rounds: Sequence[steps.Round] = (
            steps.Round(_copies, self._emit)
            if self._separator is None
            else steps.Round(_cuts, self._emit),
        )

    def apply(
        self, document: documents.Document, found: Sequence[bytes]
    ) -> steps.Result:
        """Rejects a copy, with the id of the kept one, or cuts copied pieces."""
        if self._separator is None and found:
            return documents.Reject('duplicate', found[0].decode())
        if self._separator is None or document.kind != 'text':
            return document
        left = self._cut(document.whole, set(found))
        if left == document.text:
            return document
        sentences, characters = self._least
        if not left.strip():
            return documents.Reject('nothing left')
        if sentences and (count := _sentences(left)) < sentences:
            return documents.Reject('sentences', float(count))
        if len(left) < characters:
            return documents.Reject('characters', float(len(left)))
        return dataclasses.replace(document, text=left)

    def _emit(self, document: documents.Document) -> steps.Pairs:
        whole = self._separator is None
        units = [document.whole] if whole else self._units(document)
        place = self._order(document) + document.key
        told = place + document.id.encode() if whole else place
        return [(digest, told) for digest in set(map(self._digest, units)) if digest]

    def _units(self, document: documents.Document) -> list[str]:
        if document.kind != 'text' or self._separator is None:
            return []
        return self._separator.split(document.whole)[::2]

    def _digest(self, unit: str) -> bytes | None:
        normal = self._normalise(unit)
        if not normal.strip():
            return None
        data = normal.encode('utf-8', 'surrogatepass')
        return hashlib.blake2b(data, digest_size=_HASH).digest()

    def _cut(self, text: str, seen: set[bytes]) -> str:
        assert self._separator is not None
        parts = self._separator.split(text)
        left: list[str] = []
        for unit, before in zip(parts[::2], ['', *parts[1::2]], strict=True):
            digest = self._digest(unit)
            if digest not in seen:
                left += [before, unit] if left else [unit]
            if digest is not None:
                seen.add(digest)
        return ''.join(left)


def _md5(text: str) -> bytes:
    return hashlib.md5(text.encode()).digest()


def _copies(digest: bytes, values: Iterator[bytes]) -> steps.Pairs:
    kept = next(values)[2 * _HASH :]
    for value in values:
        yield value[_HASH : 2 * _HASH], kept


def _cuts(digest: bytes, values: Iterator[bytes]) -> steps.Pairs:
    next(values)
    for value in values:
        yield value[_HASH:], digest


def _sentences(text: str) -> int:
    ends = [match.end() for match in _END.finditer(text)]
    return len(ends) + bool(text[ends[-1] if ends else 0 :].strip())
