"""A run goes on on another mesh: the same bits restored, and the same losses.

Every mesh reads what every mesh wrote, and all of that is one state, bit for bit; so
one run a mesh, from another's checkpoint, tells the losses of all pairs.
"""

import contextlib
import shutil

import faults
import jax
import numpy as np
import pytest
import tiny_config

from gptjax import trees
from gptjax.train import build, checkpoint, log, loop, source
from gptjax.train import state as state_lib

MESHES = [  # data, fsdp, tensor
    (1, 1, 1),
    (2, 1, 1), (1, 2, 1), (1, 1, 2),
    (4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 2, 1),
    (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (2, 4, 1), (1, 2, 4),
]  # fmt: skip
SAVED, LOSSES = 5, 20
NAMES = ['x'.join(map(str, mesh)) for mesh in MESHES]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('meshes')
    (made / 'text.txt').write_text(tiny_config.text())
    return made


def config(folder, mesh):
    """The tiny config with heads for 8 devices, and dropout, which is drawn by row."""
    made = tiny_config.get_config()
    data, fsdp, tensor = mesh
    rules = 'fsdp_tensor' if tensor > 1 else 'fsdp' if fsdp > 1 else 'data'
    made.mesh = dict(data=data, fsdp=fsdp, tensor=tensor, rules=rules)
    made.model.N = made.model.K = 8
    made.model.H = 4
    made.model.dropout = 0.1
    made.data.path = str(folder / 'text.txt')
    made.steps = SAVED + LOSSES
    made.checkpoint = dict(every=SAVED, keep=LOSSES)
    return made


@pytest.fixture(scope='module')
def straight(folder):
    """(a run on one device, never interrupted; its state at SAVED, as it was; host)."""
    kept, save = {}, checkpoint.Checkpoints.save

    def noted(self, step, state, host, pinned=()):
        kept[step] = jax.tree.map(np.array, state), host
        save(self, step, state, host, pinned)

    run = build.build(config(folder, MESHES[0]), folder / 'straight')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, 'save', noted)
        assert loop.train(run)
    return run.workdir, *kept[SAVED]


def described(run):
    """(shapes, places, what is extra) of the state on the mesh of a run."""
    extra = source.extra(run)
    return *state_lib.shardings_of(
        run.boxed, run.optimizer, run.model.sharding, run.trained, extra
    ), extra


@pytest.fixture(scope='module')
def written(folder, straight):
    """For each mesh a workdir with the checkpoint that it wrote, and its run."""
    first, state, host = straight
    made = []
    for name, mesh in zip(NAMES, MESHES, strict=True):
        workdir = folder / f'by{name}'
        unlike = shutil.ignore_patterns('checkpoints', 'metrics.jsonl', 'goodput.jsonl')
        shutil.copytree(first, workdir, ignore=unlike)
        run = build.build(config(folder, mesh), first)
        _, places, _ = described(run)
        with contextlib.closing(checkpoint.Checkpoints(workdir, keep=1)) as checkpoints:
            checkpoints.save(SAVED, jax.device_put(state, places), host)
        made.append((workdir, run))
    return made


@pytest.mark.parametrize('reader', range(len(MESHES)), ids=NAMES)
def test_what_any_mesh_wrote_is_restored_bit_for_bit(straight, written, reader):
    """Each device's own part, of parameters and moments, by NumPy.

    Fails if a moment is restored as zero, if an array comes back rounded, and if it
    lies elsewhere than the mesh has it.
    """
    expected = dict(trees.paths(straight[1]))
    run = written[reader][1]
    shapes, places, extra = described(run)
    lie = [place for _, place in trees.paths(places)]
    for writer in range(reader, reader + faults.count(len(MESHES))):
        workdir, _ = written[writer % len(MESHES)]
        with contextlib.closing(checkpoint.Checkpoints(workdir, keep=1)) as checkpoints:
            state = checkpoints.restore(checkpoints.whole(SAVED), shapes, places, extra)
        found = trees.paths(state)
        assert [path for path, _ in found] == [*expected]
        for (path, leaf), place in zip(found, lie, strict=True):
            assert leaf.sharding.is_equivalent_to(place, leaf.ndim), path
            assert len(leaf.addressable_shards) == np.prod(MESHES[reader])
            for shard in leaf.addressable_shards:
                part = expected[path][shard.index]
                assert np.asarray(shard.data).dtype == part.dtype
                assert np.asarray(shard.data).tobytes() == part.tobytes(), path


@pytest.mark.parametrize('reader', range(len(MESHES)), ids=NAMES)
def test_the_next_20_losses_are_those_of_one_device(folder, straight, written, reader):
    """Whole runs, with dropout, from the checkpoint of another mesh.

    Fails if moments, the row of the stream or the key are not restored.
    """
    workdir, _ = written[(reader + 5) % len(MESHES)]
    moved = folder / f'on{NAMES[reader]}'
    shutil.copytree(workdir, moved)
    assert loop.train(build.build(config(folder, MESHES[reader]), moved))
    wanted = {r['step']: r['loss'] for r in log.read(straight[0]) if r['step'] > SAVED}
    found = {r['step']: r['loss'] for r in log.read(moved)}
    assert list(found) == list(wanted) == list(range(SAVED + 1, SAVED + LOSSES + 1))
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-5)
    apart = max(abs(found[step] / wanted[step] - 1) for step in wanted)
    print(f'{NAMES[reader]}: losses differ by at most {apart:.1e} relative')
