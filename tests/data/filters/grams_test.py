"""n-grams by sorted hashes, and words found in arrays, against plain counting."""

from collections import Counter
import random
import sys

import numpy as np
import pytest

from gptjax.data.filters import grams, page, repetition


def counted(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def again(words, n):
    """Read from left to right, words joined by nothing."""
    seen, total, place = set(), 0, 0
    while place + n <= len(words):
        gram = ''.join(words[place : place + n])
        total += len(gram) * (gram in seen)
        place += n if gram in seen else 1
        seen.add(gram)
    return total


@pytest.fixture(params=['hashes', 'one hash'])
def hashes(request, monkeypatch):
    """With hashes that tell n-grams apart, and with ones that never do."""
    if request.param == 'one hash':
        monkeypatch.setattr(
            grams.Grams,
            '_hashes',
            lambda self, starts, ends: np.zeros(ends.shape, np.uint64),
        )


def of(words):
    codes = np.frombuffer(''.join(words).encode('utf-32-le'), np.uint32)
    return grams.Grams(codes, np.array([len(word) for word in words], np.int64))


@pytest.mark.usefixtures('hashes')
@pytest.mark.parametrize('size', [0, 1, 2, 5, 60, 200])
def test_n_grams_are_those_of_counting(size):
    rng = random.Random(size)
    letters = ['a', 'b', 'ab', 'ba', 'aab', 'c', '😀', 'no', 'now', 'where', 'here']
    for _ in range(5):
        words = rng.choices(letters, k=size)
        found = of(words)
        for n in (2, 3, 4):
            counts = counted(words, n)
            (first, most), *_ = [*counts.most_common(1), ((), 0)]
            assert found.top(n) == (len(''.join(first)), most)
        for n in range(5, 11):
            assert found.again(n) == again(words, n)


def test_dolma_counts_every_copy():
    rng = random.Random(0)
    measures = repetition.VARIANTS['dolma'].measures
    for size in (0, 1, 3, 9, 40, 300):
        words = rng.choices(['a', 'b', 'ab', '😀', 'no'], k=size)
        seen = page.Page(' '.join(words))
        for n in range(2, 11):
            counts = counted(words, n)
            sizes = {gram: k * len(''.join(gram)) for gram, k in counts.items()}
            if n < 5:
                first = max(counts, key=counts.__getitem__, default=())
                share = sizes.get(first, 0) / max(len(''.join(words)), 1)
                assert measures[f'top_{n}'](seen) == pytest.approx(share)
            else:
                again = sum(sizes[gram] for gram, k in counts.items() if k > 1)
                share = again / max(sum(sizes.values()), 1)
                assert measures[f'repeated_{n}'](seen) == pytest.approx(share)


def test_words_are_found_alike_by_pattern_and_in_arrays():
    """In texts of all characters of Unicode."""
    every = [chr(code) for code in range(sys.maxunicode + 1)]
    random.Random(0).shuffle(every)
    text = ''.join(every) + 'some plain words, and marks... 3.14'
    words = page.words(text)
    found = page.Page(text)
    assert found.lengths.tolist() == [len(word) for word in words]
    assert found.lettered == sum(any(map(str.isalpha, word)) for word in words)
    plain = [len(word) for word in words if not page.PUNCTUATION.issuperset(word)]
    assert found.plain.tolist() == plain
    assert found.word_grams.top(2)[1] == counted(words, 2).most_common(1)[0][1]


def test_a_page_is_shared_by_the_filters_of_one_text():
    text = 'a text of its own'
    assert page.page(text) is page.page(text)
