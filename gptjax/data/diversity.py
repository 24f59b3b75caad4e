"""How diverse a corpus is: compression, n-grams, domains and languages."""

from collections import Counter
from collections.abc import Mapping
import heapq
import re
from typing import Any
import zlib

import numpy as np

from gptjax.data import documents
from gptjax.data.dedup import hashes

_SAMPLE = 8 * 2**20  # bytes of text
_PIECE = 2**16  # characters of one document in the sample
LOOKED = 2**18  # documents whose domains are counted
_TOP = 20
_HOST = re.compile(r'[A-Za-z+]{1,16}://(?:[^/@?#]*@)?([^/:?#]+)')


class Diversity:
    """Languages of all documents, texts and domains of samples; memory is bounded.

    Both samples are the documents whose keys are smallest, texts to 8 MiB and domains
    of 262,144: they depend on what is in the corpus, not on the order.
    """

    def __init__(self) -> None:
        # Heaps, the largest key first.
        self._texts: list[tuple[int, str]] = []
        self._domains: list[tuple[int, str, int]] = []
        self._size = 0
        self._languages: Counter[str] = Counter()

    def add(self, document: documents.Document, tokens: int) -> None:
        """Counts a document: `tokens` are its weight among domains and languages."""
        self._languages[document.language or 'unknown'] += tokens
        key = -int.from_bytes(document.key)
        if len(self._domains) < LOOKED or key > self._domains[0][0]:
            host = _HOST.match(document.url or '')
            domain = host[1].lower() if host else document.group
            heapq.heappush(self._domains, (key, domain, tokens))
            if len(self._domains) > LOOKED:
                heapq.heappop(self._domains)
        if self._size < _SAMPLE or key > self._texts[0][0]:
            text = document.whole[:_PIECE]
            heapq.heappush(self._texts, (key, text))
            self._size += len(_bytes(text))
            while self._size - (last := len(_bytes(self._texts[0][1]))) >= _SAMPLE:
                heapq.heappop(self._texts)
                self._size -= last

    def result(self) -> dict[str, Any]:
        """What the data card shows; shares are of tokens, entropies in bits.

        compression: bytes by bytes after zlib (level 6): repetitive text is above 3.
        ngrams: of one, two and three words of the sample (`hashes.words`): the entropy
            of their frequencies, and the distinct ones as a share of all.
        """
        texts = [text for _, text in sorted(self._texts, reverse=True)]
        domains: Counter[str] = Counter()
        for _, domain, tokens in self._domains:
            domains[domain] += tokens
        packer = zlib.compressobj(6)
        packed = sum(len(packer.compress(_bytes(text))) for text in texts)
        packed += len(packer.flush())
        return {
            'sample_documents': len(texts),
            'sample_bytes': self._size,
            'compression': round(self._size / packed, 4),
            'ngrams': _ngrams(texts),
            'domains': _spread(domains),
            'languages': _spread(self._languages),
        }


def _bytes(text: str) -> bytes:
    return text.encode('utf-8', 'replace')


def _ngrams(texts: list[str]) -> dict[str, dict[str, float]]:
    words = [hashes.of_words(text) for text in texts]
    told = {}
    for size in (1, 2, 3):
        parts = [np.empty(0, np.uint64), *(hashes.grams(one, size) for one in words)]
        found = np.concatenate(parts)
        _, counts = np.unique(found, return_counts=True)
        distinct = round(len(counts) / max(len(found), 1), 4)
        told[str(size)] = {'entropy': _entropy(counts), 'distinct': distinct}
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
