"""The permutation is a bijection, shuffles, and is the same in NumPy and TensorFlow."""

import itertools

import numpy as np
import pytest

from gptjax.data import permute, pipeline


@pytest.mark.parametrize('n', [*range(1, 130), 4095, 4096, 4097, 99_991])
def test_every_number_once(n):
    for key in (0, 1, 2**32 - 1):
        image = permute.permute(np.arange(n), n, key)
        assert image.dtype == np.int64
        np.testing.assert_array_equal(np.sort(image), np.arange(n))


@pytest.mark.parametrize('n', [*range(1, 130), 4095, 4096, 99_991, 2**62 - 57])
def test_the_inverse_finds_the_way_back(n):
    numbers = np.unique(np.linspace(0, n - 1, 5000).astype(np.int64))
    numbers = numbers[numbers < n]
    keys = permute.mix(5, numbers % 3)  # of other epochs, side by side
    image = permute.permute(numbers, n, keys)
    found = permute.inverse(image, n, keys)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, numbers)


def test_a_large_domain_stays_inside_and_does_not_collide():
    n = 2**62 - 57
    image = permute.permute(np.arange(10_000) + (n - 10_000), n, 7)
    assert (image >= 0).all()
    assert (image < n).all()
    assert len(np.unique(image)) == 10_000
    assert np.std(image / n) == pytest.approx(np.sqrt(1 / 12), rel=0.05)


def test_keys_give_unrelated_orders():
    n = 10_000
    epochs = np.arange(4)
    keys = [int(k) for seed in (0, 1, 2**40) for k in permute.mix(seed, epochs)]
    assert len(set(keys)) == len(keys)
    images = [permute.permute(np.arange(n), n, key) for key in keys]
    for image, other in itertools.pairwise(images):
        # One fixed or shared point is expected; a correlation has deviation 1 / 100.
        assert np.sum(image == np.arange(n)) < 10
        assert np.sum(image == other) < 10
        assert abs(np.corrcoef(image, other)[0, 1]) < 0.05
        assert abs(np.corrcoef(image, np.arange(n))[0, 1]) < 0.05
        assert abs(np.corrcoef(image[1:], image[:-1])[0, 1]) < 0.05


@pytest.mark.parametrize('n', [1, 2, 3, 100, 12_345, 2**40 + 3])
def test_tensorflow_agrees_bit_for_bit(n):
    tf = pipeline.tensorflow()
    stream = np.random.default_rng(0).integers(0, 5 * n, 500)
    keys = permute.mix(3, stream // n)
    expected = permute.permute(stream % n, n, keys)
    with tf.device('CPU'):
        tensor = tf.constant(stream)
        keys = permute.mix(3, tensor // n)
        found = permute.once(tensor % n, n, keys)
        while tf.reduce_any(found >= n):
            found = tf.where(found >= n, permute.once(found, n, keys), found)
    np.testing.assert_array_equal(found.numpy(), expected)
