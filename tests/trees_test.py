"""Digests that see every bit and no mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from gptjax import trees


def test_a_digest_sees_one_flipped_bit_and_two_swapped_elements():
    rng = np.random.default_rng(0)
    array = rng.standard_normal((33, 7)).astype(np.float32)
    seen = {trees.digest({'a': jnp.array(array)})['a']}
    for bit in (0, 13, 31):
        changed = array.copy()
        changed.view(np.uint32)[4, 5] ^= np.uint32(1 << bit)
        seen.add(trees.digest({'a': jnp.array(changed)})['a'])
    swapped = array.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    seen.add(trees.digest({'a': jnp.array(swapped)})['a'])
    assert len(seen) == 5
    assert all(len(digest) == 16 for digest in seen)


def test_a_digest_is_the_same_on_every_mesh():
    array = jnp.arange(64 * 8, dtype=jnp.float32).reshape(64, 8)
    expected = trees.digest({'a': array})
    for mesh in ((8, 1, 1), (2, 2, 2)):
        place = tiny.sharding(*mesh, rules='fsdp_tensor')
        split = jax.device_put(array, place.named(('batch', 'vocab')))
        assert trees.digest({'a': split}) == expected


def test_a_digest_takes_every_type():
    tree = {
        'bool': jnp.array([True, False]),
        'bfloat16': jnp.ones(3, jnp.bfloat16),
        'int8': jnp.ones(3, jnp.int8),
        'scalar': jnp.int32(3),
        'key': jax.random.key(0),
    }
    assert set(trees.digest(tree)) == set(tree)


def test_paths_and_count():
    tree = {'blocks': [{'w': jnp.ones((2, 3))}, {'w': jnp.ones(4)}]}
    assert [path for path, _ in trees.paths(tree)] == ['blocks/0/w', 'blocks/1/w']
    assert trees.count(tree) == 10
    named = trees.map_with_path(lambda path, _: path, tree)
    assert named['blocks'][1]['w'] == 'blocks/1/w'
