import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gptjax.generate import sampling

SAMPLE = jax.jit(sampling.sample)
LOGITS = np.log([0.30, 0.20, 0.20, 0.12, 0.08, 0.05, 0.03, 0.02])


def reference(logits, temperature, top_k, top_p):
    """The distribution as the documentation defines it, token by token, in float64."""
    if temperature == 0:
        return np.eye(len(logits))[np.argmax(logits)]
    p = np.exp(logits / temperature - np.max(logits / temperature))
    p /= p.sum()
    ranked = sorted(p, reverse=True)
    if 0 < top_k < len(p):
        p = np.where(p >= ranked[top_k - 1], p, 0)
        p /= p.sum()
    if top_p < 1:
        mass, last = 0.0, 1.0
        for value in sorted(p, reverse=True):
            last, mass = value, mass + value
            if mass >= top_p:
                break
        p = np.where(p >= last, p, 0)
        p /= p.sum()
    return p


def draw(logits, temperature, top_k, top_p, n, seed=0):
    """n tokens, from n rows with the same settings at n positions."""
    words = np.tile(sampling.seed_words(seed), (n, 1))
    row = jnp.asarray(logits, jnp.float32)
    return np.asarray(
        SAMPLE(
            jnp.broadcast_to(row, (n, len(logits))),
            sampling.keys(jnp.asarray(words), jnp.arange(n)),
            jnp.full(n, temperature, jnp.float32),
            jnp.full(n, top_k, jnp.int32),
            jnp.full(n, top_p, jnp.float32),
        )
    )


@pytest.mark.parametrize(
    ('temperature', 'top_k', 'top_p'),
    [
        (1.0, 0, 1.0),
        (0.7, 0, 1.0),
        (1.0, 4, 1.0),
        (1.0, 2, 1.0),  # the third ties with the second and stays
        (1.0, 0, 0.55),
        (1.0, 0, 0.4),  # the same tie, by mass
        (2.0, 5, 0.75),  # mass after the temperature and among the five
        (1.0, 100, 0.0),
    ],
)
def test_frequencies_are_those_of_the_documented_distribution(
    temperature, top_k, top_p
):
    expected = reference(LOGITS, temperature, top_k, top_p)
    counts = np.bincount(
        draw(LOGITS, temperature, top_k, top_p, 20_000), minlength=len(LOGITS)
    )
    assert (counts > 0).tolist() == (expected > 0).tolist()
    seen = expected > 0
    if seen.sum() > 1:
        result = stats.chisquare(counts[seen], 20_000 * expected[seen])
        assert result.pvalue > 1e-3


def test_supports_equal_the_reference_on_random_logits():
    rng = np.random.default_rng(0)
    logits_BV = rng.normal(0, 2, (400, 50)).round(1)  # rounding makes ties
    logits_BV[::3, 10:] = -np.inf
    k_B, p_B = rng.integers(0, 60, 400), rng.uniform(0, 1.2, 400).clip(max=1).round(3)
    got_BV = sampling.support(
        jnp.asarray(logits_BV, jnp.float32),
        jnp.asarray(k_B, jnp.int32),
        jnp.asarray(p_B, jnp.float32),
    )
    for b, logits in enumerate(logits_BV):
        expected = reference(logits, 1.0, k_B[b], p_B[b]) > 0
        got = np.asarray(got_BV[b]) & np.isfinite(logits)
        assert got.tolist() == expected.tolist(), (b, k_B[b], p_B[b])


def test_ids_do_not_decide_what_stays():
    order = np.random.default_rng(1).permutation(len(LOGITS))
    kept = [
        np.asarray(
            sampling.support(
                jnp.asarray(logits, jnp.float32)[None],
                jnp.array([2]),
                jnp.array([0.9], jnp.float32),
            )
        )[0]
        for logits in (LOGITS, LOGITS[order])
    ]
    assert kept[0][order].tolist() == kept[1].tolist()


def test_temperature_zero_is_the_lowest_of_the_highest_and_a_tiny_one_is_near_it():
    logits = np.array([0.0, 5.0, 5.0, -np.inf])
    assert set(draw(logits, 0.0, 0, 1.0, 50)) == {1}
    assert set(draw(logits, 1e-30, 3, 0.9, 50)) == {1, 2}
    assert set(draw(np.array([0.0, 5.0, 4.9]), 1e-39, 0, 1.0, 50)) == {1}


def test_each_row_has_its_own_settings():
    rows = [(0.0, 0, 1.0), (1.0, 1, 1.0), (1.3, 0, 0.5), (0.5, 3, 0.9)]
    temperature, top_k, top_p = (np.array(column) for column in zip(*rows, strict=True))
    words = np.stack([sampling.seed_words(seed) for seed in range(4)])
    keys = sampling.keys(jnp.asarray(words), jnp.array([7, 8, 9, 10]))
    together = SAMPLE(
        jnp.broadcast_to(jnp.asarray(LOGITS, jnp.float32), (4, 8)),
        keys,
        jnp.asarray(temperature, jnp.float32),
        jnp.asarray(top_k, jnp.int32),
        jnp.asarray(top_p, jnp.float32),
    )
    for b in range(4):
        alone = SAMPLE(
            jnp.asarray(LOGITS, jnp.float32)[None],
            keys[b : b + 1],
            jnp.asarray(temperature[b : b + 1], jnp.float32),
            jnp.asarray(top_k[b : b + 1], jnp.int32),
            jnp.asarray(top_p[b : b + 1], jnp.float32),
        )
        assert int(alone[0]) == int(together[b])


@pytest.mark.parametrize('seed', [0, 1, 2**32 - 1])
def test_keys_are_fold_in_of_the_seed_and_the_position(seed):
    got = sampling.keys(jnp.asarray(sampling.seed_words(seed))[None], jnp.array([5]))
    expected = jax.random.fold_in(jax.random.key(np.uint32(seed)), 5)
    assert np.array_equal(jax.random.key_data(got[0]), jax.random.key_data(expected))


def test_every_bit_of_a_seed_counts():
    words = {tuple(sampling.seed_words(1 << bit).tolist()) for bit in range(64)}
    assert len(words) == 64
    assert sampling.seed_words(-1).tolist() == [2**32 - 1, 2**32 - 1]
