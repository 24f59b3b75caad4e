"""Signatures against datasketch 2, hashes against plain arithmetic."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.data.dedup import hashes, minhash

GOLDEN = Path(__file__).parents[2] / 'golden' / 'minhash.npz'


@pytest.fixture(scope='module')
def golden():
    """The shingles of 100 texts, and the signatures that datasketch made of them."""
    with np.load(GOLDEN) as file:
        texts = file['texts'].tobytes().decode().split('\n')
        words = [text.split() for text in texts]
        shingles = [
            [' '.join(w[i : i + 5]).encode() for i in range(len(w) - 4)] for w in words
        ]
        return shingles, file['signatures']


def test_numpy_and_jit_have_the_bits_of_datasketch(golden):
    shingles, expected = golden
    a, b = minhash.permutations(112, 1)
    signer = minhash.Signer(a, b)
    taken = [minhash.sha1(one) for one in shingles]
    assert np.array_equal([minhash.signature(h, a, b) for h in taken], expected)
    assert np.array_equal([signer(h) for h in taken], expected)
    longest = max(map(len, taken))
    padded = np.stack([np.pad(h, (0, longest - len(h)), 'edge') for h in taken])
    batch = jax.jit(jax.vmap(lambda h: minhash.signature(h, a, b, jnp)))
    found = batch(padded)
    assert found.dtype == jnp.uint32
    assert np.array_equal(found, expected)


@pytest.mark.parametrize('size', [1, 127, 128, 129, 256, 257, 512, 513, 700, 1100])
def test_tiles_change_nothing(size):
    h = np.random.RandomState(size).randint(0, 1 << 32, size, np.uint32)
    a, b = minhash.permutations(7, 3)
    mixed = [int(x) for x in minhash.mixed(h)]
    expected = [
        min((int(p) * x + int(q)) % 2**32 for x in mixed)
        for p, q in zip(a, b, strict=True)
    ]
    assert minhash.Signer(a, b)(h).tolist() == expected


def test_a_stretch_has_the_hash_of_its_bytes_wherever_it_is():
    text = np.frombuffer(bytes(range(256)) * 800, np.uint8)
    starts = np.arange(0, len(text) - 300, 77)  # over many blocks
    ends = starts + 256
    for family in (0, 1):
        found = hashes.stretches(text, starts, ends, family)
        base = hashes._BASES[family]
        for place in (0, 1, 425, 426, len(starts) - 1):
            stretch = text[starts[place] : ends[place]].tolist()
            expected = sum((x + 1) * base**i for i, x in enumerate(stretch)) % 2**64
            assert int(found[place]) == expected


def test_what_is_longer_than_the_longest_counts_by_its_beginning():
    text = np.frombuffer(b'x' * (3 * hashes.LONGEST) + b'y', np.uint8)
    first, second = (np.array([0, 1]), np.array([len(text) - 1, len(text)]))
    found = hashes.stretches(text, first, second)
    assert found[0] == found[1]


def told(tokens):
    raw, starts, ends = tokens
    return [raw[a:b].tobytes().decode() for a, b in zip(starts, ends, strict=True)]


@pytest.mark.parametrize(
    ('text', 'words', 'pieces'),
    [
        ('', [], []),
        (' \n', [], []),
        ('One, two-3!', ['one', 'two', '3'], ['One', ',', 'two', '-', '3', '!']),
        ('\u201cIt\u2019s\u201d\u00a0so\u2014yes', ['it', 's', 'so', 'yes'], None),
        ('กิน აა ကက', ['ก', 'ิ', 'น', 'აა', 'က', 'က'], None),
        ('na\u00efve caf\u00e9', ['na\u00efve', 'caf\u00e9'], None),
        ('\u4f60\uff0c\u4e16\u3002\uff41\uff01', [*'\u4f60\u4e16\uff41'], None),
        ('\u6211\u662f\u3002 a', [*'\u6211\u662fa'], [*'\u6211\u662f\u3002a']),
    ],
)  # fmt: skip
def test_tokens(text, words, pieces):
    assert told(hashes.words(text)) == words
    if pieces is not None:
        assert told(hashes.pieces(text)) == pieces


def test_shingles_are_equal_where_their_words_are():
    def shingles(text, n=3):
        return minhash.shingles(text, n).tolist()

    one = shingles('The cat, sat on; the CAT sat on.')
    assert one == shingles('the cat sat on the cat sat on')
    assert len(one) == 6
    assert one[0] == one[4]
    assert len(set(one)) == 4
    assert shingles('a b') == shingles('A -- b') != shingles('b a')
    assert len(shingles('a b')) == 1
    assert shingles('?!') == []
    assert shingles('ab c d') != shingles('a bc d')
