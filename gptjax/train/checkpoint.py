"""Checkpoints: Orbax writes the arrays, and a manifest says whether they are whole.

    checkpoints/00000100/state/          params and rest, by Orbax, in the background
    checkpoints/00000100/manifest.json   written last: size and sha256 of every file,
                                         a digest of every array, and host state

Orbax has no checksum over array data: a flipped bit restores without a word. Here a
step counts as saved once its manifest stands, and restores if every file matches it.
"""

from collections.abc import Mapping
from pathlib import Path
import shutil
import sys
import threading
from typing import Any

import jax
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
        rest = {'step': state.step, 'key': state.key, 'opt_state': state.opt_state}
        self._orbax.save(
            folder / 'state',
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                rest=ocp.args.StandardSave(rest),
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
                manifest['files'] = {
                    str(path.relative_to(folder)): _fingerprint(path)
                    for path in sorted((folder / 'state').rglob('*'))
                    if path.is_file()
                }
                manifest['digest'] = storage.json_digest(manifest)
                storage.write_json(folder / 'manifest.json', manifest)
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
        """The state of a step, on any mesh, checked against the arrays' digests."""
        like = _like(shapes, shardings)
        rest = {'step': like.step, 'key': like.key, 'opt_state': like.opt_state}
        found = self._orbax.restore(
            self._path(manifest['step']) / 'state',
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(like.params),
                rest=ocp.args.StandardRestore(rest),
            ),
        )
        state = state_lib.State(params=found.params, **found.rest)
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
