"""Checkpoints: Orbax writes the arrays, and a manifest says whether they are whole.

    checkpoints/00000100/state/          params and rest, by Orbax, in the background
    checkpoints/00000100/manifest.json   written last: size and sha256 of every file,
                                         a digest of every array, and host state

Orbax has no checksum over array data: a flipped bit restores without a word. Here a
step counts as saved once its manifest stands, and restores if every file matches it.
"""

from collections.abc import Iterable, Mapping
import json
import math
from pathlib import Path
import shutil
import sys
import threading
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gptjax import command, core, trees
from gptjax.data import storage
from gptjax.train import state as state_lib


class Checkpoints:
    """The checkpoints of one workdir; saves run in the background, one at a time."""

    def __init__(self, workdir: Path, keep: int):
        self._folder = workdir.absolute() / 'checkpoints'
        self._keep = keep
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._finisher: threading.Thread | None = None
        self._error: Exception | None = None

    def steps(self) -> list[int]:
        """The steps that have a manifest, oldest first."""
        return sorted(int(p.parent.name) for p in self._folder.glob('*/manifest.json'))

    def save(
        self, state: state_lib.State, host: Mapping[str, Any], pinned: int | None
    ) -> None:
        """Begins to save `state` and the JSON values `host`; returns once copied.

        Of other steps, `pinned` and the newest `keep` stay. Raises the error of
        the save before, if that one failed.
        """
        self.wait()
        step = int(state.step)
        folder = self._folder / f'{step:08d}'
        if jax.process_index() == 0 and folder.exists():
            shutil.rmtree(folder)  # left half-written by a run that was killed
        digests = trees.digest(state)
        arrays = {
            name: {
                'shape': list(leaf.shape),
                'dtype': str(leaf.dtype),
                'digest': digests[name],
            }
            for name, leaf in trees.paths(state)
        }
        self._orbax.save(
            folder / 'state',
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                rest=ocp.args.StandardSave(_rest(state)),
            ),
        )
        manifest = {'format': 1, 'step': step, 'host': dict(host), 'arrays': arrays}
        self._finisher = threading.Thread(
            target=self._finish, args=(folder, manifest, pinned)
        )
        self._finisher.start()

    def _finish(
        self, folder: Path, manifest: dict[str, Any], pinned: int | None
    ) -> None:
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                _write_manifest(folder, manifest)
                self._delete_others(manifest['step'], pinned)
        except Exception as error:  # raised again in the main thread, by wait()
            self._error = error

    def _delete_others(self, saved: int, pinned: int | None) -> None:
        """Keeps the newest up to `saved`; later ones are of a future given up."""
        kept = [step for step in self.steps() if step <= saved][-self._keep :]
        for step in self.steps():
            if step not in kept and step != pinned:
                folder = self._folder / f'{step:08d}'
                (folder / 'manifest.json').unlink()  # from here on it does not count
                shutil.rmtree(folder)

    def wait(self) -> None:
        """Waits until the save that is under way is complete, and raises its error."""
        if self._finisher is not None:
            self._finisher.join()
            self._finisher = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        self.wait()
        self._orbax.close()

    def newest(self) -> dict[str, Any] | None:
        """The manifest of the newest step whose files are all whole; None of no step.

        A damaged step is named on standard error and passed over; if all are, that is
        a UserError, not a fresh start.
        """
        steps = self.steps()
        for step in reversed(steps):
            manifest = self.whole(step)
            if manifest is not None:
                return manifest
        if steps:
            raise command.UserError(
                f'no checkpoint in {self._folder} is whole ({len(steps)} tried); '
                'restore the files, or start in another workdir.'
            )
        return None

    def restore(
        self,
        manifest: Mapping[str, Any],
        shapes: state_lib.State,
        shardings: state_lib.State,
    ) -> state_lib.State:
        """The state of a step, on any mesh, checked against the arrays' digests.

        Raises UserError for a step that has parameters alone.
        """
        if 'step' not in manifest['arrays']:
            raise command.UserError(
                f'{self._folder.parent} holds imported weights and no run that could '
                'go on; train in another workdir, with model.init_from set to this one.'
            )
        like = _like(shapes, shardings)
        ours = {(name, x.shape) for name, x in trees.paths(like)}
        saved = manifest['arrays'].items()
        theirs = {(name, tuple(entry['shape'])) for name, entry in saved}
        if others := sorted({name for name, _ in ours ^ theirs}):
            raise command.UserError(
                f'checkpoint {manifest["step"]} was written by a run with other arrays '
                f'({", ".join(others[:3])}{", ..." if len(others) > 3 else ""}); '
                'optimizer.name, optimizer.freeze, adapter and objective stay as they '
                'are in a workdir.'
            )
        found = self._orbax.restore(
            self._path(manifest['step']) / 'state',
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(like.params),
                rest=ocp.args.StandardRestore(_rest(like)),
            ),
        )
        state = state_lib.State(params=found.params, **{'extra': {}, **found.rest})
        _check_arrays(manifest, state)
        return state

    def restore_params(
        self, manifest: Mapping[str, Any], shapes: core.Params, shardings: core.Params
    ) -> core.Params:
        """The parameters alone, for all that does not train."""
        found = self._orbax.restore(
            self._path(manifest['step']) / 'state',
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(_like(shapes, shardings))
            ),
        )
        _check_arrays(manifest, {'params': found.params})
        return found.params

    def whole(self, step: int) -> dict[str, Any] | None:
        """The manifest of a step if it and all its files are whole, else None."""
        path = self._path(step) / 'manifest.json'
        try:
            manifest = storage.read_json(path)
            digest = manifest.pop('digest')
            fault = None
            if storage.json_digest(manifest) != digest:
                fault = 'manifest.json has changed since it was written'
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            fault = f'manifest.json cannot be read ({error!r})'
        fault = fault or self._fault(step, manifest['files'])
        if fault is not None:
            print(f'checkpoint {step} is damaged: {fault}', file=sys.stderr)
            return None
        return manifest

    def _path(self, step: int) -> Path:
        return self._folder / f'{step:08d}'

    def _fault(self, step: int, files: Mapping[str, Any]) -> str | None:
        """What is wrong with a step's files, or None."""
        for name, expected in files.items():
            path = self._path(step) / name
            if not path.is_file():
                return f'{name} is missing'
            if _fingerprint(path) != expected:
                return f'{name} has changed since it was written'
        return None


_CHUNK = 1 << 26  # bytes of a parameter in one file


def write_params(
    folder: Path, leaves: Iterable[tuple[str, jax.Array]], host: Mapping[str, Any]
) -> None:
    """Writes a checkpoint of parameters alone, as `restore_params` reads it.

    folder: of the step, which is made.
    leaves: (path, parameter), of which one at a time is held: Orbax, which takes whole
        trees, needs 2.0 to 2.4 times their bytes.

    The format is Orbax's without its database of chunks: one Zarr array (version 2) a
    parameter, uncompressed.
    """
    params = folder / 'state' / 'params'
    params.mkdir(parents=True)
    arrays: dict[str, Any] = {}
    tree: dict[str, Any] = {}
    for path, leaf in leaves:
        name = f'params/{path}'
        arrays[name] = {
            'shape': list(leaf.shape),
            'dtype': str(leaf.dtype),
            'digest': trees.digest({name: leaf})[name],
        }
        keys = path.split('/')
        tree[str(tuple(keys))] = {
            'key_metadata': [{'key': key, 'key_type': 2} for key in keys],
            'value_metadata': {
                'value_type': 'jax.Array',
                'skip_deserialize': False,
                'write_shape': list(leaf.shape),
            },
        }
        _write_zarr(params / '.'.join(keys), np.asarray(leaf))
        del leaf  # or the next one is made while this one is still held
    metadata = {
        'tree_metadata': tree,
        'use_ocdbt': False,
        'use_zarr3': False,
        'store_array_data_equal_to_fill_value': True,
        'custom_metadata': None,
    }
    (params / '_METADATA').write_text(json.dumps(metadata))
    handler = ocp.StandardCheckpointHandler
    items = {'params': f'{handler.__module__}.{handler.__qualname__}'}
    (folder / 'state' / '_CHECKPOINT_METADATA').write_text(
        json.dumps({'item_handlers': items})
    )
    step = int(folder.name)
    _write_manifest(
        folder, {'format': 1, 'step': step, 'host': dict(host), 'arrays': arrays}
    )


def _write_zarr(folder: Path, array: np.ndarray) -> None:
    """One array, cut along its first axis into files of about `_CHUNK` bytes."""
    folder.mkdir()
    rows = max(1, _CHUNK * len(array) // max(1, array.nbytes))
    rows = min(rows, len(array))
    described = {
        'zarr_format': 2,
        'shape': list(array.shape),
        'chunks': [rows, *array.shape[1:]],
        'dtype': array.dtype.str,
        'compressor': None,
        'fill_value': None,
        'filters': None,
        'order': 'C',
        'dimension_separator': '.',
    }
    (folder / '.zarray').write_text(json.dumps(described))
    for number in range(math.ceil(len(array) / rows)):
        part = np.ascontiguousarray(array[number * rows : (number + 1) * rows])
        with (folder / '.'.join([str(number), *'0' * (array.ndim - 1)])).open(
            'wb'
        ) as f:
            f.write(part.data)
            f.write(bytes((rows - len(part)) * (part.nbytes // len(part))))


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """The last file of a step: with it, the step counts as saved."""
    manifest['files'] = {
        str(path.relative_to(folder)): _fingerprint(path)
        for path in sorted((folder / 'state').rglob('*'))
        if path.is_file()
    }
    manifest['digest'] = storage.json_digest(manifest)
    storage.write_json(folder / 'manifest.json', manifest)


def _rest(state: Any) -> dict[str, Any]:
    """All of a state but the parameters; most have nothing extra."""
    rest = {'step': state.step, 'key': state.key, 'opt_state': state.opt_state}
    return {**rest, 'extra': state.extra} if state.extra else rest


def _like(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        shapes,
        shardings,
    )


def _check_arrays(manifest: Mapping[str, Any], tree: Any) -> None:
    for name, digest in trees.digest(tree).items():
        if manifest['arrays'][name]['digest'] != digest:
            raise command.UserError(
                f'array {name} of checkpoint {manifest["step"]} is not what was saved: '
                f'digest {digest}, expected {manifest["arrays"][name]["digest"]}.'
            )


def _fingerprint(path: Path) -> dict[str, Any]:
    return {'size': path.stat().st_size, 'sha256': storage.file_digest(path)}
