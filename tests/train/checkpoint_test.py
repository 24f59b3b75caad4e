"""Checkpoints: damage, saves that fail, what is kept, and what goes on from there."""

import contextlib
import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import command, sharding
from gptjax.data import storage
from gptjax.train import checkpoint, manifest, state

PLACE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def made(step, window=4, guard=True):
    """A state that differs in every element from that of another step."""
    rng = np.random.default_rng(step)
    params = {'w': jnp.asarray(rng.normal(size=(16, 8)), jnp.float32)}
    extra = {'guard': {'losses_W': jnp.full(window, step, jnp.float32)}}
    key = jax.random.key_data(jax.random.key(step))
    moments = {'m': params['w'] * 2, 'v': (jnp.arange(5) + step,)}
    found = state.State(jnp.int32(step), key, params, moments, extra if guard else {})
    return jax.device_put(found, PLACE)


def saved(folder, *steps, close=True, **options):
    checkpoints = checkpoint.Checkpoints(folder, **{'keep': 9, **options})
    for step in steps:
        checkpoints.save(step, made(step), {'row': step * 10})
    if close:
        checkpoints.close()
    return checkpoints


def restored(checkpoints, found, like=None):
    like = made(0) if like is None else like
    places = jax.tree.map(lambda leaf: PLACE, like)
    return checkpoints.restore(found, like, places, like.extra)


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def names(folder):
    return sorted(path.name for path in (folder / 'checkpoints').iterdir())


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    """A workdir with the steps 4 and 8."""
    folder = tmp_path_factory.mktemp('two')
    saved(folder, 4, 8)
    return folder


@pytest.fixture
def copy(two, tmp_path):
    return shutil.copytree(two, tmp_path / 'copy')


def flip(path, other):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(path, other):
    beside = max(path.parent.parent.rglob('_METADATA'))
    a, b = path.read_bytes(), beside.read_bytes()
    assert a != b
    path.write_bytes(b)
    beside.write_bytes(a)


FAULTS = {
    'a flipped bit': flip,
    'a cut': lambda path, other: os.truncate(path, path.stat().st_size - 1),
    'zeros': lambda path, other: path.write_bytes(bytes(path.stat().st_size)),
    'a deletion': lambda path, other: path.unlink(),
    'a swap': swap,
    'a file of another step': lambda path, other: shutil.copy(other, path),
    'one file too many': lambda path, other: shutil.copy(other, f'{path}.0'),
}


@pytest.mark.parametrize('fault', FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize('file', ['manifest.json', 'state/params/d/*'])
def test_damage_is_noticed_and_set_aside(copy, fault, file, capsys):
    first, second = (copy / 'checkpoints' / f'{n:08d}' for n in (4, 8))
    fault(max(second.glob(file)), max(first.glob(file)))
    reader = checkpoint.Checkpoints(copy, keep=1)
    assert reader.newest()['step'] == 4
    assert reader.damaged == 1
    assert names(copy) == ['00000004', '00000008']
    assert 'checkpoint 8 is damaged: ' in capsys.readouterr().err
    owner = checkpoint.Checkpoints(copy, keep=1, owner=True)
    found = owner.newest()
    assert (found['step'], found['host'], owner.damaged) == (4, {'row': 40}, 1)
    assert names(copy) == ['00000004', '00000008.corrupt']
    assert same(restored(owner, found), made(4))


def test_where_nothing_is_whole_a_run_does_not_begin_anew(copy):
    for step in (4, 8):
        (copy / f'checkpoints/{step:08d}/manifest.json').unlink()
    for _ in range(2):
        owner = checkpoint.Checkpoints(copy, keep=1, owner=True)
        with pytest.raises(command.UserError, match=r'is whole \(there are 2\)'):
            owner.newest()
    for step in (4, 8):
        owner.set_aside(step)
    with pytest.raises(command.UserError, match=r'is whole \(there are 2\)'):
        owner.newest()


def test_a_step_in_the_place_of_another_is_noticed(copy):
    folder = copy / 'checkpoints'
    shutil.rmtree(folder / '00000008')
    shutil.copytree(folder / '00000004', folder / '00000008')
    assert checkpoint.Checkpoints(copy, keep=1).newest()['step'] == 4


def test_arrays_that_are_not_what_was_saved_end_the_run_and_the_next_goes_back(copy):
    """As if the copy to the host had been wrong: all files are what was written."""
    path = copy / 'checkpoints/00000008'
    values = manifest.read(path)
    values['arrays']['params/w']['digest'] = '0' * 16
    (path / manifest.NAME).unlink()
    manifest.write(path, values)
    reader = checkpoint.Checkpoints(copy, keep=1)
    with pytest.raises(command.UserError, match='params/w of checkpoint 8'):
        restored(reader, reader.newest())
    owner = checkpoint.Checkpoints(copy, keep=1, owner=True)
    with pytest.raises(command.Failure, match='params/w of checkpoint 8') as raised:
        restored(owner, owner.newest())
    assert raised.value.code == command.REQUEUE
    assert owner.newest()['step'] == 4


def test_what_dead_writers_left_goes_when_a_run_begins(copy):
    left = copy / 'checkpoints/00000012.partial/state.orbax-checkpoint-tmp/params'
    left.mkdir(parents=True)
    checkpoint.Checkpoints(copy, keep=1).newest()
    assert left.exists()
    checkpoint.Checkpoints(copy, keep=1, owner=True)
    assert names(copy) == ['00000004', '00000008']


def test_the_newest_the_pinned_and_every_so_many_stay(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, 3, keep=2, keep_every=4, close=False)
    for step in (4, 5, 6, 7):
        checkpoints.save(step, made(step), {}, {2, 99})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 4, 6, 7]
    (tmp_path / 'checkpoints/00000003.corrupt').mkdir()
    (tmp_path / 'checkpoints/00000001.corrupt').mkdir()
    assert checkpoints.newest(before=7)['step'] == 6
    assert checkpoints.newest(before=2) is None  # to a reader
    checkpoints.owner = True
    with pytest.raises(command.UserError, match='no checkpoint before step 2 in'):
        checkpoints.newest(before=2)
    checkpoints.owner = False
    checkpoints.drop_after(6)
    checkpoints.save(8, made(8), {}, {2})
    checkpoints.save(8, made(8), {'again': True}, {2})
    checkpoints.close()
    assert names(tmp_path) == [
        '00000002', '00000003.corrupt', '00000004', '00000006', '00000008'
    ]  # fmt: skip
    assert checkpoints.newest()['host'] == {'again': True}


def test_a_save_without_room_is_not_begun(tmp_path, monkeypatch):
    needed = 1.2 * sum(leaf.nbytes for leaf in jax.tree.leaves(made(0)))
    usage = shutil._ntuple_diskusage(10**9, 10**9, int(needed) - 1)
    checkpoints = saved(tmp_path, 1, close=False)
    assert checkpoints.poll() is None
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    monkeypatch.setattr(checkpoints._orbax, 'save', None)
    for step in (2, 3):
        checkpoints.save(step, made(step), {})
        told = checkpoints.poll()
        assert f'the save of step {step} failed (' in told
        assert 'MB free, and a save takes' in told
        assert checkpoints.poll() is None
    with pytest.raises(command.Failure, match='2 in a row') as raised:
        checkpoints.close()
    assert raised.value.code == command.REQUEUE
    assert names(tmp_path) == ['00000001']


def fail(*given):
    raise OSError(errno.ENOSPC, 'No space left on device')


def test_a_save_that_fails_in_the_background_is_told_and_cleared_away(
    tmp_path, monkeypatch
):
    checkpoints = saved(tmp_path, 1, close=False)
    checkpoints.wait()
    monkeypatch.setattr(manifest, 'write', fail)
    checkpoints.save(2, made(2), {})
    checkpoints._finisher.join()
    assert 'the save of step 2 failed ([Errno 28]' in checkpoints.poll()
    assert names(tmp_path) == ['00000001']
    monkeypatch.undo()
    checkpoints.save(3, made(3), {})
    checkpoints.wait()  # and nothing is left of the failure
    monkeypatch.setattr(manifest, 'write', fail)
    for step in (4, 5, 6):
        checkpoints.save(step, made(step), {})
    checkpoints._finisher.join()
    with pytest.raises(command.Failure, match=r'step 6 failed .* 3 in a row'):
        checkpoints.poll()
    with pytest.raises(command.Failure, match='3 in a row'):
        checkpoints.save(7, made(7), {})
    assert checkpoints.newest()['step'] == 3


@pytest.mark.parametrize('where', ['manifest', 'orbax'])
def test_the_last_save_that_fails_ends_the_run(tmp_path, monkeypatch, where):
    checkpoints = saved(tmp_path, 1, close=False)
    checkpoints.wait()
    if where == 'manifest':
        monkeypatch.setattr(manifest, 'write', fail)
    else:  # where the data are written, the checkpoint's folder is a file
        (tmp_path / 'checkpoints').rename(tmp_path / 'moved')
        (tmp_path / 'checkpoints').touch()
    checkpoints.save(2, made(2), {})
    with pytest.raises(command.Failure, match='the save of step 2 failed') as raised:
        checkpoints.close()
    assert raised.value.code == command.REQUEUE


def test_an_error_on_its_way_is_not_hidden_by_a_failed_save(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, close=False)
    monkeypatch.setattr(manifest, 'write', fail)
    checkpoints.save(2, made(2), {})
    with pytest.raises(KeyError), contextlib.closing(checkpoints):
        raise KeyError


def test_a_save_has_its_own_copy(tmp_path):
    """The next step writes over the state at once."""
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
    step = jax.jit(
        lambda s: jax.tree.map(lambda x: (x * 3 + 1).astype(x.dtype), s),
        donate_argnums=0,
    )
    now = made(1)
    checkpoints.save(1, now, {})
    for _ in range(5):
        now = step(now)
    checkpoints.wait()
    assert same(restored(checkpoints, checkpoints.newest()), made(1))
    checkpoints.close()


def test_the_manifest_comes_after_all_else_is_on_the_disk(tmp_path, monkeypatch):
    events, sync, write = [], manifest.sync, storage.write
    monkeypatch.setattr(manifest, 'sync', lambda p: (events.append(p), sync(p)))
    monkeypatch.setattr(storage, 'write', lambda *a: (events.append('m'), write(*a)))
    saved(tmp_path, 1)
    before, after = events[: events.index('m')], events[events.index('m') + 1 :]
    partial, folder = before[-1], tmp_path / 'checkpoints'
    assert partial == folder / '00000001.partial'
    assert after == [partial, folder]
    state_files = {p.relative_to(partial) for p in before[:-1]}
    found = {p.relative_to(folder / '00000001') for p in folder.rglob('*/*')}
    whole = {p for p in found if p.parts[0] == 'state'}
    assert state_files == whole
    assert any(p.name == '_METADATA' for p in whole)


@pytest.mark.parametrize(('before', 'now'), [(None, 4), (4, 4), (4, 6), (4, None)])
def test_a_guard_of_another_kind_begins_anew(tmp_path, before, now):
    """Checkpoints that are older than guards have none."""
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
    checkpoints.save(7, made(7, before or 0, before is not None), {})
    checkpoints.wait()
    like = made(0, now or 0, now is not None)
    found = restored(checkpoints, checkpoints.newest(), like)
    expected = made(7) if before == now else made(7)._replace(extra=like.extra)
    assert same(found, expected)
    checkpoints.close()


def test_other_arrays_are_an_error_that_names_them(copy):
    reader = checkpoint.Checkpoints(copy, keep=1)
    like = made(0)._replace(params={'u': jnp.zeros(3)})
    with pytest.raises(command.UserError, match=r'other arrays \(params/u, params/w\)'):
        restored(reader, reader.newest(), like)


def test_any_mesh_reads_what_another_has_saved(tmp_path):
    mesh = sharding.make(2, 4, 1, 'fsdp').mesh
    split = jax.NamedSharding(mesh, jax.sharding.PartitionSpec('fsdp'))
    whole = jax.NamedSharding(mesh, jax.sharding.PartitionSpec())
    places = jax.tree.map(lambda x: split if x.shape == (16, 8) else whole, made(1))
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, jax.device_put(made(1), places), {})
    checkpoints.wait()
    assert same(restored(checkpoints, checkpoints.newest()), made(1))
    found = checkpoints.restore(checkpoints.newest(), made(1), places, {})
    assert same(found, made(1))
    assert found.params['w'].sharding == split
    checkpoints.close()
