"""1,000 faults in the files of checkpoints: each is noticed, and none restores wrong.

Three steps are saved once. Each fault damages one file of the newest, or of the two
newest, or of an older one; the owner must take the newest step that is left, whose
arrays must be, bit for bit, those that were given to `save` (copies of NumPy). Then the
files are put back. The control shows what this catches: without the checks, flipped
bits restore as wrong arrays without a word.
"""

import itertools
import shutil

import faults
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.train import checkpoint, manifest, state

PLACE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
STEPS = (4, 8, 12)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """(an owner's checkpoints, {step: its arrays as NumPy copies})."""
    folder = tmp_path_factory.mktemp('faults')
    checkpoints = checkpoint.Checkpoints(folder, keep=9, owner=True)
    optimizer, given = optax.adamw(1e-3), {}
    for step in STEPS:
        rng = np.random.default_rng(step)
        shapes = {'tokens': (96, 64), 'blocks': (2, 64, 96), 'scale': (64,)}
        params = {
            name: jnp.asarray(rng.normal(size=shape), jnp.float32)
            for name, shape in shapes.items()
        }
        key = jax.random.key_data(jax.random.key(step))
        made = state.State(
            jnp.int32(step), key, params, optimizer.init(params), {'rows': np.arange(9)}
        )
        made = jax.device_put(made, PLACE)
        given[step] = jax.tree.map(np.array, made)
        checkpoints.save(step, made, {'row': step})
    checkpoints.wait()
    yield checkpoints, given
    checkpoints.close()


def flip(rng, path, others):
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def cut(rng, path, others):
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def zero(rng, path, others):
    data = bytearray(path.read_bytes())
    first = rng.integers(len(data))
    end = rng.integers(first, len(data)) + 1
    data[first:end] = bytes(end - first)
    path.write_bytes(data)


def delete(rng, path, others):
    path.unlink()


def swap(rng, path, others):
    """With another file of its step."""
    beside = others[0][rng.integers(len(others[0]))]
    a, b = path.read_bytes(), beside.read_bytes()
    path.write_bytes(b)
    beside.write_bytes(a)


def stale(rng, path, others):
    """What another step has under this name; where that is equal, any file of it."""
    _, root, other = others
    same = other / path.relative_to(root)
    differs = same.is_file() and same.read_bytes() != path.read_bytes()
    found = [same] if differs else files(other)
    shutil.copy(found[rng.integers(len(found))], path)


def stray(rng, path, others):
    """Any file of another step, under the name that it has there."""
    _, root, other = others
    found = files(other)
    taken = found[rng.integers(len(found))]
    shutil.copy(taken, root / taken.relative_to(other))


KINDS = (flip, cut, zero, delete, swap, stale, stray)


def files(folder):
    return sorted(path for path in folder.rglob('*') if path.is_file())


def contents(folder):
    return {path: path.read_bytes() for path in files(folder)}


def damage(rng, checkpoints, step, kind, name):
    """Makes a fault that changes something; returns what was there before."""
    root = checkpoints.path(step)
    before = contents(root)
    other = checkpoints.path(int(rng.choice([s for s in STEPS if s != step])))
    while contents(root) == before:
        kind(rng, root / name, (list(before), root, other))
    return before


def put_back(before):
    folder = min(before).parent
    while not folder.name.isdecimal():
        folder = folder.parent
    for path in set(files(folder)) - set(before):
        path.unlink()
    for path, content in before.items():
        path.write_bytes(content)


def restored(checkpoints, found, given):
    places = jax.tree.map(lambda leaf: PLACE, given)
    return jax.tree.map(np.asarray, checkpoints.restore(found, given, places))


def same(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.tobytes() == y.tobytes() for x, y in leaves)


def test_every_fault_is_noticed_and_the_newest_whole_step_restored(saved, capsys):
    checkpoints, given = saved
    rng = np.random.default_rng(0)
    names = [
        path.relative_to(checkpoints.path(12)) for path in files(checkpoints.path(12))
    ]
    assert manifest.NAME in map(str, names)
    each = list(itertools.product(KINDS, names))
    assert len(each) <= 500
    total = faults.count(1000)
    for number in range(total):
        kind, name = (
            each[number] if number < len(each) else each[rng.integers(len(each))]
        )
        steps = [(12,), (12,), (12, 8), (8,)][rng.integers(4)] if number else (12,)
        before = {}
        for step in steps:
            root = checkpoints.path(step)
            ours = [path.relative_to(root) for path in files(root)]
            at = name if step == 12 else ours[rng.integers(len(ours))]
            before |= {step: damage(rng, checkpoints, step, kind, at)}
        expected = max(set(STEPS) - set(steps))
        was, told = checkpoints.damaged, f'{number}: {kind.__name__} of {name}'
        capsys.readouterr()
        found = checkpoints.newest()
        newer = [step for step in steps if step > expected]
        assert found['step'] == expected, told
        assert checkpoints.damaged - was == len(newer), told
        assert checkpoints.steps('.corrupt') == sorted(newer), told
        assert capsys.readouterr().err.count('is damaged: ') == len(newer)
        assert same(restored(checkpoints, found, given[expected]), given[expected]), (
            told
        )
        for step in steps:
            if step in newer:
                checkpoints.path(step, '.corrupt').rename(checkpoints.path(step))
            else:
                assert checkpoints.whole(step) is None, told
            put_back(before[step])
    assert [checkpoints.whole(step)['step'] for step in STEPS] == list(STEPS)
    print(f'{total} faults, {len(names)} files')


def test_without_the_checks_some_restore_wrong(saved, monkeypatch):
    checkpoints, given = saved
    monkeypatch.setattr(manifest, 'check', manifest.read)
    monkeypatch.setattr(checkpoints, '_check_arrays', lambda *given: None)
    rng = np.random.default_rng(1)
    root = checkpoints.path(12)
    data = max(files(root), key=lambda path: path.stat().st_size)
    wrong = 0
    for _ in range(faults.count(20)):
        before = damage(rng, checkpoints, 12, flip, data.relative_to(root))
        found = restored(checkpoints, checkpoints.newest(), given[12])
        wrong += not same(found, given[12])
        put_back(before)
    assert wrong > 0
