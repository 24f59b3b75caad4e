"""A trigram model by interpolated Kneser-Ney smoothing: what a network has to beat.

Chen and Goodman (1998), "An empirical study of smoothing techniques for language
modeling", section 3: their modified version, with three discounts for each order, all
estimated from counts of counts. Counts live in sorted arrays, one key an n-gram.
"""

import dataclasses

from jaxtyping import Float64, Int64, Integer
import numpy as np

from gptjax import command

MOST_TOKENS = 2**28  # sorting them takes about 16 GiB


class Trigram:
    """The model of a token stream in which each document begins with `begin`.

    A token is predicted from the two before it in its document. The first token of a
    document has (begin, begin) before it, and the last target of one is the `begin` of
    the next document, or of the end of the stream.
    """

    def __init__(self, stream: Integer[np.ndarray, ' n'], V: int, begin: int):
        """Counts `stream`: documents, then a closing `begin`; ids are below V.

        Raises UserError where the stream is empty or too large to count in memory.
        """
        if not 2 <= len(stream) <= MOST_TOKENS:
            raise command.UserError(
                f'a trigram model counts 2 to {MOST_TOKENS:,} tokens in memory, and '
                f'the training split has {len(stream):,}; leave --trigram out.'
            )
        self.V = V
        self.begin = begin
        a, b, c = trigrams(stream, begin)
        three, counts = np.unique(_key(V, a, b, c), return_counts=True)
        # A lower order counts the different tokens that an n-gram was seen after: the
        # idea of Kneser and Ney. "Francisco" is frequent, but only after "San".
        two, after_two = np.unique(three % V**2, return_counts=True)
        one, after_one = np.unique(two % V, return_counts=True)
        self._orders = (
            _order(one, after_one, V),
            _order(two, after_two, V),
            _order(three, counts, V),
        )

    def probability(
        self,
        a: Integer[np.ndarray, ' n'],
        b: Integer[np.ndarray, ' n'],
        c: Integer[np.ndarray, ' n'],
    ) -> Float64[np.ndarray, ' n']:
        """p(c | a, b) for each i; over all c of the vocabulary it sums to 1.

        Each order adds its share and passes what its context has left over to the
        order below; the lowest one passes it to the uniform distribution.
        """
        p = np.full(len(c), 1 / self.V)
        keys = (_key(self.V, c), _key(self.V, b, c), _key(self.V, a, b, c))
        for order, key in zip(self._orders, keys, strict=True):
            share = _find(order.keys, order.share, key, missing=0.0)
            left = _find(order.contexts, order.left, key // self.V, missing=1.0)
            p = share + left * p
        return p

    def nats(self, stream: Integer[np.ndarray, ' n']) -> float:
        """The total of -log p over the targets of a stream: all but its first token."""
        return float(-np.log(self.probability(*trigrams(stream, self.begin))).sum())


def trigrams(
    stream: Integer[np.ndarray, ' n'], begin: int
) -> tuple[Int64[np.ndarray, ' m'], Int64[np.ndarray, ' m'], Int64[np.ndarray, ' m']]:
    """Each target c (m = n - 1) with a, b before it, never from another document."""
    stream = stream.astype(np.int64)
    b, c = stream[:-1], stream[1:]
    a = np.concatenate([[begin], stream[:-2]])
    return np.where(b == begin, begin, a), b, c


@dataclasses.dataclass(frozen=True)
class _Order:
    """n-grams of one length: their discounted shares, what their contexts have left."""

    keys: np.ndarray  # sorted; key // V is the key of the context
    share: np.ndarray
    contexts: np.ndarray  # sorted
    left: np.ndarray


def _order(keys: np.ndarray, counts: np.ndarray, V: int) -> _Order:
    discount = _discounts(counts)[np.minimum(counts, 3)]
    contexts, first, place = np.unique(
        keys // V, return_index=True, return_inverse=True
    )
    totals = np.add.reduceat(counts, first)
    left = np.add.reduceat(discount, first) / totals
    return _Order(keys, (counts - discount) / totals[place], contexts, left)


def _discounts(counts: np.ndarray) -> Float64[np.ndarray, '4']:
    """What to take off counts of 0, 1, 2, and 3 or more: their equation 26.

    Where the counts of a small text do not determine it, half of 1, 2 and 3.
    """
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in range(1, 5))
    half = np.array([0, 0.5, 1, 1.5])
    if not (n1 and n2 and n3 and n4):
        return half
    Y = n1 / (n1 + 2 * n2)
    found = [0, 1 - 2 * Y * n2 / n1, 2 - 3 * Y * n3 / n2, 3 - 4 * Y * n4 / n3]
    return np.array(found) if min(found[1:]) > 0 else half


def _key(V: int, *tokens: np.ndarray) -> Int64[np.ndarray, ' n']:
    """One number for each n-gram: its tokens as digits in base V."""
    key = np.zeros(len(tokens[0]), np.int64)
    for token in tokens:
        key = key * V + token
    return key


def _find(
    known: np.ndarray, values: np.ndarray, wanted: np.ndarray, missing: float
) -> Float64[np.ndarray, ' n']:
    """The value of each wanted key among the sorted known ones."""
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, values[place], missing)
