"""How diverse a corpus is: compression, n-grams, domains and languages."""

from collections import Counter
from collections.abc import Mapping
import heapq
import re
from typing import Any
import zlib

import numpy as np

from gptjax.data import documents
from gptjax.data.clean import ngrams

_SAMPLE = 8 * 2**20  # bytes of text
_PIECE = 2**16  # characters of one document in the sample
_NAMES = 50_000  # domains that are counted one by one
_TOP = 20
_HOST = re.compile(r'[A-Za-z+]{1,16}://(?:[^/@?#]*@)?([^/:?#]+)')


class Diversity:
    """Counts over all documents, and a sample of them; memory is bounded.

    The sample is the documents whose keys are smallest, to 8 MiB: it depends on what
    is in the corpus, not on the order. Beyond 50,000 domains the rarest become one,
    'other': those that are left out depend on the order.
    """

    def __init__(self) -> None:
        self._sample: list[tuple[int, str]] = []  # a heap, the largest key first
        self._size = 0
        self._domains: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()

    def add(self, document: documents.Document, tokens: int) -> None:
        """Counts a document: `tokens` are its weight among domains and languages."""
        host = _HOST.match(document.url or '')
        self._domains[host[1].lower() if host else document.group] += tokens
        self._languages[document.language or 'unknown'] += tokens
        if len(self._domains) > 2 * _NAMES:
            ranked = sorted(self._domains.items(), key=lambda x: (-x[1], x[0]))
            rest = sum(count for _, count in ranked[_NAMES:])
            self._domains = Counter(dict(ranked[:_NAMES]))
            self._domains['other'] += rest
        key = -int.from_bytes(document.key)
        if self._size >= _SAMPLE and key <= self._sample[0][0]:
            return
        text = document.whole[:_PIECE]
        heapq.heappush(self._sample, (key, text))
        self._size += len(_bytes(text))
        while self._size - (last := len(_bytes(self._sample[0][1]))) >= _SAMPLE:
            heapq.heappop(self._sample)
            self._size -= last

    def result(self) -> dict[str, Any]:
        """What the data card shows; shares are of tokens, entropies in bits.

        compression: bytes by bytes after zlib (level 6): repetitive text is above 3.
        ngrams: of one, two and three words of the sample: the entropy of their
            frequencies, and the distinct ones as a share of all.
        """
        texts = [text for _, text in sorted(self._sample, reverse=True)]
        packer = zlib.compressobj(6)
        packed = sum(len(packer.compress(_bytes(text))) for text in texts)
        packed += len(packer.flush())
        return {
            'sample_documents': len(texts),
            'sample_bytes': self._size,
            'compression': round(self._size / packed, 4),
            'ngrams': _ngrams(texts),
            'domains': _spread(self._domains),
            'languages': _spread(self._languages),
        }


def _bytes(text: str) -> bytes:
    return text.encode('utf-8', 'replace')


def _ngrams(texts: list[str]) -> dict[str, dict[str, float]]:
    found: dict[str, list[np.ndarray]] = {'1': [], '2': [], '3': []}
    for text in texts:
        one = ngrams.words(text)
        two = ngrams.follow(one[:-1], one[1:])
        three = ngrams.follow(two[:-1], one[2:])
        for name, hashes in zip(found, (one, two, three), strict=True):
            found[name].append(hashes)
    told = {}
    for name, parts in found.items():
        hashes = np.concatenate(parts) if parts else np.empty(0, np.uint64)
        _, counts = np.unique(hashes, return_counts=True)
        distinct = len(counts) / max(len(hashes), 1)
        told[name] = {'entropy': _entropy(counts), 'distinct': round(distinct, 4)}
    return told


def _spread(counts: Mapping[str, int]) -> dict[str, Any]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    total = max(sum(counts.values()), 1)
    return {
        'count': len(ranked),
        'entropy': _entropy(np.array([count for _, count in ranked])),
        'top': {name: round(count / total, 4) for name, count in ranked[:_TOP]},
    }


def _entropy(counts: np.ndarray) -> float:
    """-sum p log2 p."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return round(abs(float(-(shares * np.log2(shares)).sum())), 4)
