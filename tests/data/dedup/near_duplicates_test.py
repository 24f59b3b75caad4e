"""Planted pairs, templates, chains, and editions of one book."""

import dataclasses
import itertools
import random

import numpy as np
import pytest

from gptjax import command
from gptjax.data import documents, steps
from gptjax.data.dedup import minhash, near

FINEWEB = dict(ngram=5, permutations=112, bands=14, rows=8, seed=1)
BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
PAIRS, SOME = 500, 100  # a bin


def document(identity, text):
    return documents.Document(identity, 'test', 'CC0-1.0', text=text)


def grams(text):
    words = text.split()
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def jaccard(one, two):
    return len(one & two) / len(one | two)


@pytest.fixture(scope='module')
def planted():
    """For each bin, pairs of texts of 200 words with their similarity."""
    drawn = random.Random(0)
    words = [f'w{number}' for number in range(5000)]
    changes = {0.5: (10, 13), 0.6: (6, 10), 0.7: (4, 7), 0.8: (2, 4), 0.9: (1, 2)}
    found = {low: [] for low in changes}
    for low, high in itertools.pairwise(BINS):
        while len(found[low]) < PAIRS:
            one = drawn.choices(words, k=200)
            two = list(one)
            for place in drawn.sample(range(200), drawn.randint(*changes[low])):
                two[place] = drawn.choice(words)
            texts = ' '.join(one), ' '.join(two)
            score = jaccard(*map(grams, texts))
            if low <= score < high:
                found[low].append((*texts, score))
    return found


def test_candidates_are_as_many_as_theory_says(planted):
    bands = near.MinHash(**FINEWEB, jaccard=0.0).bands
    for low, pairs in planted.items():
        met = [bool({*bands(one)} & {*bands(two)}) for one, two, _ in pairs]
        theory = np.mean([1 - (1 - score**8) ** 14 for *_, score in pairs])
        assert abs(np.mean(met) - theory) <= 0.04, low
        assert low < 0.9 or np.mean(met) >= 0.99


def test_estimates_are_as_exact_as_theory_says(planted):
    signer = minhash.Signer(*minhash.permutations(112, 1))
    errors, theory = [], []
    some = (pairs[: 2 * SOME] for pairs in planted.values())
    for one, two, score in itertools.chain.from_iterable(some):
        first, second = (
            signer(minhash.upper(minhash.shingles(text, 5))) for text in (one, two)
        )
        errors.append(abs(np.mean(first == second) - score))
        theory.append(np.sqrt(2 / np.pi * score * (1 - score) / 112))
    assert np.mean(errors) <= 1.1 * np.mean(theory)


def test_what_is_left_out_is_a_near_duplicate_of_what_is_kept(planted):
    found = [
        document(f'{low}-{number}-{name}', text)
        for low, pairs in planted.items()
        for number, pair in enumerate(pairs[:SOME])
        for name, text in zip('ab', pair, strict=False)
    ]
    texts = {one.id: one.text for one in found}
    random.Random(1).shuffle(found)
    result = steps.in_memory(near.MinHash(**FINEWEB, jaccard=0.7), found)
    left_out = {one.id: after for one, after in result if after is not one}
    for identity, reject in left_out.items():
        kept, _, told = reject.value.partition(' jaccard=')
        assert reject.reason == 'near duplicate'
        assert kept not in left_out
        assert kept[:-1] == identity[:-1]
        score = jaccard(grams(texts[identity]), grams(texts[kept]))
        assert score >= 0.7
        assert told == f'{score:.2f}'
    counts = [sum(name.startswith(str(low)) for name in left_out) for low in planted]
    assert counts[:2] == [0, 0]
    assert counts[4] >= 0.99 * SOME
    assert counts[3] >= 0.85 * SOME


def template_pages():
    drawn = random.Random(2)
    words = [f'w{number}' for number in range(20_000)]
    shared = ' '.join(drawn.choices(words, k=120))
    return [
        document(f'page {n}', f'{shared} {" ".join(drawn.choices(words, k=80))}')
        for n in range(500)
    ]


def test_pages_of_one_template_about_different_things_all_stay():
    """Candidates without verification would lose many of them."""
    pages = template_pages()
    result = steps.in_memory(near.MinHash(**FINEWEB, jaccard=0.7), pages)
    assert all(after is one for one, after in result)
    naive = steps.in_memory(near.MinHash(**FINEWEB, jaccard=0.0), pages)
    assert sum(after is not one for one, after in naive) > 150


def test_order_of_reading_changes_nothing():
    pages = template_pages()[:60]
    pages += [dataclasses.replace(one, id=f'{one.id} again') for one in pages[:40]]
    group = near.MinHash(**FINEWEB, jaccard=0.8)
    expected = steps.in_memory(group, pages)
    assert sum(after is not one for one, after in expected) == 40
    for seed in range(3):
        random.Random(seed).shuffle(pages)
        assert steps.in_memory(group, pages) == expected


def chain():
    """Three texts: neighbours have a similarity of 0.82, the ends of 0.69."""
    words = [f'w{number}' for number in range(204)]
    one, two, three = list(words), list(words), list(words)
    for place in (20, 40, 60, 80):
        two[place] = three[place] = f'x{place}'
    for place in (100, 120, 140, 160):
        three[place] = f'x{place}'
    return [' '.join(text) for text in (one, two, three)]


@pytest.mark.parametrize('order', list(itertools.permutations(range(3))))
def test_only_duplicates_of_kept_documents_are_left_out(order):
    """order: the texts of `chain`, in the order of keys."""
    identities = sorted(map(str, range(3, 6)), key=documents.key)
    assert identities != sorted(identities)
    texts = chain()
    group = near.MinHash(
        ngram=5, permutations=128, bands=64, rows=2, seed=1, jaccard=0.75
    )
    found = [
        document(identity, texts[n])
        for identity, n in zip(identities, order, strict=True)
    ]
    result = steps.in_memory(group, found)
    kept = {n for n, (one, after) in zip(order, result, strict=True) if after is one}
    # The middle one stays only if it comes first; then neither of its neighbours does.
    assert kept == ({1} if order[0] == 1 else {0, 2})
    for _, after in result:
        if isinstance(after, documents.Reject):
            assert after.value == f'{identities[0]} jaccard=0.82'


def test_a_bucket_of_any_size_costs_linear_time():
    reduce = near.MinHash(**FINEWEB, jaccard=0.8).rounds[0].reduce
    keys = (number.to_bytes(16) for number in itertools.count())
    pairs = list(itertools.islice(reduce(b'band', keys), 16_000))
    assert pairs[0] == ((0).to_bytes(16), b'\1' + (1).to_bytes(16))
    assert len({second for _, second in pairs}) > 1000


def test_what_a_text_repeats_counts_once():
    found = [document(str(n), 'a b c d e f g ' * n + 'end') for n in (3, 9)]
    (_, reject) = steps.in_memory(near.MinHash(**FINEWEB, jaccard=0.8), found)[1]
    assert reject.value.endswith('jaccard=1.00')


def test_short_and_empty_texts():
    found = [document(str(n), text) for n, text in enumerate(['', '?', 'Hi', 'hi!'])]
    result = steps.in_memory(near.MinHash(**FINEWEB, jaccard=0.8), found)
    kept = {one.text for one, after in result if after is one}
    assert len(kept) == 3
    assert {'', '?'} < kept


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ({'bands': 15}, 'bands x rows at most permutations'),
        ({'ngram': 0}, 'need to be >= 1'),
        ({'jaccard': 1.5}, 'jaccard=1.5 and seed=1; jaccard needs to be in 0..1'),
        ({'seed': -1}, 'seed=-1'),
    ],
)
def test_options_that_make_no_sense(change, told):
    with pytest.raises(command.UserError, match=told):
        near.MinHash(**{**FINEWEB, 'jaccard': 0.8, **change})


def test_editions_of_a_book_are_near_duplicates(real_data):
    folder = real_data('gutenberg_editions')
    editions = [
        document(name, (folder / name).read_text('utf-8', 'replace'))
        for name in ('1342.txt', 'pandp10.txt')
    ]
    result = steps.in_memory(near.MinHash(**FINEWEB, jaccard=0.7), editions)
    assert [after is one for one, after in result] == [True, False]
