"""Signatures of texts that no golden file holds: ours, and live by datasketch 2."""

import random

import datasketch
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.data.dedup import minhash


@pytest.mark.parametrize(('count', 'seed'), [(112, 1), (260, 7), (1, 0)])
def test_signatures_are_those_of_datasketch(count, seed, measured):
    drawn = random.Random(seed)
    a, b = minhash.permutations(count, seed)
    signer = minhash.Signer(a, b)
    jitted = jax.jit(lambda hashes_S: minhash.signature(hashes_S, a, b, jnp))
    for size in (1, 5, 256, 700):
        shingles = [drawn.randbytes(drawn.randint(1, 60)) for _ in range(size)]
        sketch = datasketch.MinHash(count, seed=seed)
        sketch.update_batch(shingles)
        taken = minhash.sha1(shingles)
        for found in (minhash.signature(taken, a, b), signer(taken), jitted(taken)):
            assert np.array_equal(found, sketch.hashvalues)
    measured(f'MinHash of {count} permutations: bits equal to datasketch', differing=0)


def test_estimates_of_similarity_are_those_of_datasketch():
    """The same hashes of shingles in both: `update_batch` with our hash."""
    words = [f'w{number}' for number in range(300)]
    texts = ' '.join(words[:250]), ' '.join(words[40:])
    signer = minhash.Signer(*minhash.permutations(112, 1))
    ours, theirs = [], []
    for text in texts:
        taken = minhash.upper(minhash.shingles(text, 5))
        ours.append(signer(taken))
        theirs.append(datasketch.MinHash(112, seed=1, hashfunc=int))
        theirs[-1].update_batch(taken.tolist())
    assert np.mean(ours[0] == ours[1]) == theirs[0].jaccard(theirs[1])
