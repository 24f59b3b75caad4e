"""The trigram model against its definition, written again with dictionaries."""

from collections import Counter, defaultdict
import itertools

import numpy as np
import pytest

from gptjax import command
from gptjax.evals import ngram

V = 12
BEGIN = 0


@pytest.fixture(scope='module')
def stream():
    """200 short documents of a skewed distribution with some memory."""
    rng = np.random.default_rng(0)
    tokens = [BEGIN]
    for _ in range(200):
        token = 1
        for _ in range(rng.integers(0, 12)):
            token = 1 + (token * 3 + min(rng.geometric(0.4), 8)) % (V - 2)
            tokens.append(token)
        tokens.append(BEGIN)
    return np.array(tokens, np.uint16)


@pytest.fixture(scope='module')
def model(stream):
    return ngram.Trigram(stream, V, BEGIN)


def documents(stream):
    ends = [i for i, token in enumerate(stream) if token == BEGIN]
    return [list(stream[a : b + 1]) for a, b in itertools.pairwise(ends)]


class Slow:
    """Modified interpolated Kneser-Ney, as the paper states it."""

    def __init__(self, stream):
        three = Counter()
        for document in documents(stream):
            padded = [BEGIN, *document]
            three.update(zip(padded, padded[1:], padded[2:], strict=False))
        two = Counter(gram[1:] for gram in three)
        one = Counter(gram[1:] for gram in two)
        self.followers = []
        for counts in (one, two, three):
            followers = defaultdict(dict)
            for gram, count in counts.items():
                followers[gram[:-1]][gram[-1]] = count
            self.followers.append((followers, self.discounts(counts)))

    @staticmethod
    def discounts(counts):
        n = Counter(counts.values())
        if not all(n[k] for k in (1, 2, 3, 4)):
            return 0.5, 1, 1.5
        y = n[1] / (n[1] + 2 * n[2])
        found = tuple(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
        return found if min(found) > 0 else (0.5, 1, 1.5)

    def probability(self, context, token):
        p = 1 / V
        for length, (followers, discounts) in enumerate(self.followers):
            seen = followers.get(context[2 - length :])
            if seen:
                total = sum(seen.values())
                taken = sum(discounts[min(c, 3) - 1] for c in seen.values())
                count = seen.get(token, 0)
                own = count - discounts[min(count, 3) - 1] if count else 0
                p = (own + taken * p) / total
        return p


def distribution(model, a, b):
    return model.probability(np.full(V, a), np.full(V, b), np.arange(V))


def test_equals_the_definition_with_dictionaries(stream, model):
    slow = Slow(stream)
    for a, b in itertools.product(range(V), repeat=2):
        expected = [slow.probability((a, b), c) for c in range(V)]
        # Both are float64 sums of a few terms in another order.
        np.testing.assert_allclose(distribution(model, a, b), expected, rtol=1e-12)


def test_discounts_come_from_counts_of_counts(stream):
    """Else the comparison above would only see the ones for small texts."""
    assert Slow(stream).followers[2][1] != (0.5, 1, 1.5)
    assert Slow(stream).followers[0][1] == (0.5, 1, 1.5)


def test_sums_to_one_after_seen_and_unseen_contexts(stream, model):
    seen = {tuple(gram) for gram in np.stack(ngram.trigrams(stream, BEGIN)).T[:, :2]}
    pairs = set(itertools.product(range(V), repeat=2))
    assert seen & pairs
    assert pairs - seen
    for a, b in pairs:
        p = distribution(model, a, b)
        assert p.sum() == pytest.approx(1, rel=1e-12)
        assert p.min() > 0  # a token never seen has a share as well


def test_context_stays_in_its_document():
    stream = np.array([0, 5, 6, 0, 7, 0, 0])
    found = list(zip(*(x.tolist() for x in ngram.trigrams(stream, 0)), strict=True))
    assert found == [(0, 0, 5), (0, 5, 6), (5, 6, 0), (0, 0, 7), (0, 7, 0), (0, 0, 0)]


def test_nats_are_of_every_target(stream, model):
    slow = Slow(stream)
    total = 0.0
    for document in documents(stream)[:20]:
        padded = [BEGIN, *document]
        for a, b, c in zip(padded, padded[1:], padded[2:], strict=False):
            total -= np.log(slow.probability((a, b), c))
    end = sum(len(document) - 1 for document in documents(stream)[:20])
    assert model.nats(stream[: end + 1]) == pytest.approx(total, rel=1e-12)


def test_an_empty_stream_is_refused():
    with pytest.raises(command.UserError, match='trigram model counts 2 to'):
        ngram.Trigram(np.zeros(1, np.uint16), V, BEGIN)
