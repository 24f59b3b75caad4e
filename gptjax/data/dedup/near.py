"""Near duplicates: MinHash-LSH proposes pairs, exact Jaccard similarity decides."""

from array import array
import bisect
from collections.abc import Iterator, Sequence
import itertools
import struct

from jaxtyping import UInt64
import numpy as np

from gptjax import command
from gptjax.data import documents, steps
from gptjax.data.dedup import hashes, minhash

_KEY = 16  # bytes of a document's key
_ALL = bytes(_KEY)  # the one key of the round that resolves
_EARLIER = 16  # members of a bucket that all later ones of it are compared with
_OWN, _OTHER = b'\0', b'\1'  # what a value tells of: the document itself comes first


class MinHash:
    """Leaves out documents that nearly equal one that is kept.

    ngram: words of a shingle (`minhash.shingles`).
    permutations, seed: of the signature. bands, rows: documents whose signatures agree
        in all rows of a band are candidates: 1 - (1 - s^rows)^bands of the pairs of
        Jaccard similarity s. FineWeb has 5, 112, 14 and 8: half the pairs at 0.72.
    jaccard: the least similarity, of the sets of shingles, of a pair that counts.

    In the order of keys, a document is left out if a verified pair joins it to an
    earlier one that is kept; what only resembles a document that was left out stays. In
    a band, each document is paired with the first 16 others of its bucket, so that
    pages of one template, which may fill a bucket with millions, cost linear time.

    Why candidates are verified: of 1,018 merges of LSH alone that were reviewed by
    hand, 63.6 % joined different things, as pages of one template (marin, change 7591,
    which asks for a Jaccard similarity of character 5-grams of 0.9). Word 5-grams at
    0.8 are stricter: they allow one changed word in 45, where those allow one in 32.
    Excerpts of a longer document are the business of `substring`.
    """

    def __init__(
        self, *, ngram: int, permutations: int, bands: int, rows: int, seed: int,
        jaccard: float,
    ) -> None:  # fmt: skip
        """Raises UserError for numbers that make no sense together."""
        if min(ngram, bands, rows) < 1 or bands * rows > permutations:
            raise command.UserError(
                f'minhash has ngram={ngram}, bands={bands}, rows={rows} and '
                f'permutations={permutations}; all need to be >= 1, and bands x rows '
                'at most permutations.'
            )
        if not 0 <= jaccard <= 1 or not 0 <= seed < 1 << 32:
            raise command.UserError(
                f'minhash has jaccard={jaccard} and seed={seed}; jaccard needs to be '
                'in 0..1, and seed in 0..4294967295.'
            )
        self._ngram, self._jaccard = ngram, jaccard
        self._signer = minhash.Signer(*minhash.permutations(permutations, seed))
        weights = np.arange(1, bands * rows + 1, dtype=np.uint64).reshape(bands, rows)
        self._weights = hashes.mixed(weights) | np.uint64(1)
        self.rounds: Sequence[steps.Round] = (
            steps.Round(_candidates, self._emit_bands),
            steps.Round(_with_first, self._emit_shingles),
            steps.Round(self._verified, self._emit_shingles),
            steps.Round(_resolved),
        )

    def apply(
        self, document: documents.Document, found: Sequence[bytes]
    ) -> steps.Result:
        """Rejects what has a verified earlier copy: '<kept id> jaccard=0.93'."""
        if not found:
            return document
        return documents.Reject('near duplicate', found[0].decode())

    def bands(self, text: str) -> list[bytes]:
        """The keys of the buckets that a text is in: 8 bytes a band; [] if empty."""
        shingles = minhash.shingles(text, self._ngram)
        if not len(shingles):
            return []
        used = self._signer(minhash.upper(shingles))[: self._weights.size]
        terms = used.reshape(self._weights.shape) * self._weights
        data = hashes.mixed(terms.sum(axis=1, dtype=np.uint64)).astype('>u8').tobytes()
        return [data[start : start + 8] for start in range(0, len(data), 8)]

    def _emit_bands(self, document: documents.Document) -> steps.Pairs:
        return [(band, document.key) for band in self.bands(document.whole)]

    def _emit_shingles(self, document: documents.Document) -> steps.Pairs:
        found = np.sort(minhash.shingles(document.whole, self._ngram))
        if len(found):
            found = found[np.append(True, found[1:] != found[:-1])]
            name = document.id.encode()
            size = struct.pack('<I', len(name))
            yield document.key, b''.join((_OWN, size, name, found.tobytes()))

    def _verified(self, key: bytes, values: Iterator[bytes]) -> steps.Pairs:
        """Edges under one key: later key, earlier key, what is told of the pair."""
        own = None
        for value in values:
            name, theirs = _unpacked(value)
            if value[:1] == _OWN:
                own = theirs
            elif own is not None:
                score = _similarity(own, theirs)
                if score >= self._jaccard:
                    told = f'{name} jaccard={score:.2f}'
                    yield _ALL, key + documents.key(name) + told.encode()


def _candidates(band: bytes, keys: Iterator[bytes]) -> steps.Pairs:
    first: list[bytes] = []
    for key in keys:
        for other in first:
            if other != key:
                yield other, _OTHER + key
        if len(first) < _EARLIER:
            first.append(key)


def _with_first(key: bytes, values: Iterator[bytes]) -> steps.Pairs:
    """The shingles of a document, sent to each later one that it is paired with."""
    own = before = None
    for value in values:
        if value[:1] == _OWN:
            own = value[1:]
        elif own is not None and value != before:
            yield value[1:], _OTHER + own
            before = value


def _resolved(key: bytes, edges: Iterator[bytes]) -> steps.Pairs:
    """What is left out, with its evidence: 8 bytes of memory a document."""
    removed = array('Q')
    for later, group in itertools.groupby(edges, lambda edge: edge[:_KEY]):
        for edge in group:
            prefix = int.from_bytes(edge[_KEY : _KEY + 8])
            place = bisect.bisect_left(removed, prefix)
            if place == len(removed) or removed[place] != prefix:
                removed.append(int.from_bytes(later[:8]))
                yield later, edge[2 * _KEY :]
                break


def _unpacked(value: bytes) -> tuple[str, UInt64[np.ndarray, 'S']]:
    (size,) = struct.unpack_from('<I', value, 1)
    name = value[5 : 5 + size].decode()
    return name, np.frombuffer(value[5 + size :], np.uint64)


def _similarity(
    one_S: UInt64[np.ndarray, 'S'], two_T: UInt64[np.ndarray, 'T']
) -> float:
    both = np.intersect1d(one_S, two_T, assume_unique=True).size
    return both / (len(one_S) + len(two_T) - both)
