"""Figures of diversity against counts made here, and their independence of order."""

from collections import Counter
import itertools
import math
import random
import zlib

import pytest

from gptjax.data import diversity, documents


def document(number, text, url=None, language='en', source='web/a'):
    return documents.Document(
        id=str(number), source=source, licence='CC0-1.0', text=text, url=url,
        language=language,
    )  # fmt: skip


def measured(found):
    made = diversity.Diversity()
    for one in found:
        made.add(one, tokens=10)
    return made.result()


def test_figures_of_a_small_corpus():
    rng = random.Random(0)
    texts = [' '.join(rng.choices(['the', 'cat', 'sat', 'on'], k=50)) for _ in 'abcd']
    result = measured([document(i, text) for i, text in enumerate(texts)])
    grams = Counter()
    for text in texts:
        words = text.split()
        grams.update(itertools.pairwise(words))
    total = sum(grams.values())
    entropy = -sum(n / total * math.log2(n / total) for n in grams.values())
    assert result['ngrams']['2']['entropy'] == pytest.approx(entropy, abs=1e-4)
    assert result['ngrams']['2']['distinct'] == round(len(grams) / total, 4)
    assert result['sample_documents'] == 4
    size = sum(map(len, texts))
    assert result['sample_bytes'] == size
    by_key = sorted(range(4), key=lambda i: documents.key(str(i)))
    packed = len(zlib.compress(''.join(texts[i] for i in by_key).encode(), 6))
    assert result['compression'] == pytest.approx(size / packed, abs=1e-4)


def test_domains_and_languages_are_weighed_by_tokens():
    made = diversity.Diversity()
    made.add(document(1, 'a', 'https://me:x@WWW.one.org:80/a?b', 'de'), tokens=600)
    made.add(document(2, 'b', 'http://two.org', 'en'), tokens=200)
    made.add(document(3, 'c', None, None, 'books/moby.txt'), tokens=200)
    result = made.result()
    assert result['domains'] == {
        'count': 3,
        'entropy': pytest.approx(1.371, abs=1e-3),
        'top': {'www.one.org': 0.6, 'books': 0.2, 'two.org': 0.2},
    }
    assert list(result['languages']['top']) == ['de', 'en', 'unknown']


def test_samples_are_bounded_and_do_not_depend_on_the_order(monkeypatch):
    monkeypatch.setattr(diversity, '_SAMPLE', 5_000)
    monkeypatch.setattr(diversity, 'LOOKED', 40)
    rng = random.Random(0)
    found = [
        document(i, f'{i} ' * rng.randrange(1, 200), f'https://{i % 30 // 2}.org')
        for i in range(300)
    ]
    first = measured(found)
    for _ in range(3):
        rng.shuffle(found)
        assert measured(found) == first
    taken, size = 0, 0
    for one in sorted(found, key=lambda one: one.key):
        if size >= 5_000:
            break
        taken, size = taken + 1, size + len(one.text)
    assert (first['sample_documents'], first['sample_bytes']) == (taken, size)
    least = sorted(found, key=lambda one: one.key)[:40]
    counts = Counter(one.url.removeprefix('https://') for one in least)
    assert first['domains']['top'] == {k: n / 40 for k, n in counts.items()}


def test_an_empty_corpus():
    result = diversity.Diversity().result()
    assert result['sample_documents'] == 0
    assert result['ngrams']['1'] == {'entropy': 0.0, 'distinct': 0.0}
