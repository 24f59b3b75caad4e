"""Checkpoints: Orbax writes the arrays, and a manifest says whether they are whole.

    checkpoints/00000100/state/          params and rest, by Orbax, in the background
    checkpoints/00000100/manifest.json   size and sha256 of every file, a digest of
                                         every array, and host state

Orbax has no checksum over array data: a flipped bit restores without a word. Here a
step restores if every file and array is what its manifest says.
"""

from collections.abc import Collection, Mapping, Sequence
import contextlib
import logging
from pathlib import Path
import shutil
import sys
import threading
import time
import types
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from gptjax import command, core, trees
from gptjax.train import folders, optim
from gptjax.train import manifest as manifest_lib
from gptjax.train import state as state_lib

# Bytes that have to be free for a save, for each of the state.
_RESERVE = 1.2
# Seconds that a process waits for the writes of the others; below the watchdog's limit,
# so that one whose disk fails does not look like a hang of all.
_OTHERS = 500


class Checkpoints(folders.Folders):
    """Saves run in the background, one at a time; see Folders for the options.

    failures: saves that fail one after another before a run ends.
    """

    def __init__(
        self,
        workdir: Path,
        keep: int,
        keep_every: int = 0,
        failures: int = 3,
        owner: bool = False,
    ):
        super().__init__(workdir, keep, keep_every, owner)
        self._failures = failures
        # Where a folder cannot be made in the background, the rest waits for minutes.
        options = ocp.AsyncOptions(
            timeout_secs=_OTHERS, create_directories_asynchronously=False
        )
        self._handler = _Handler(
            composite_options=ocp.CompositeOptions(async_options=options)
        )
        self._orbax = ocp.AsyncCheckpointer(self._handler, async_options=options)
        self._finisher: threading.Thread | None = None
        self._error = ''  # of the finisher; read once it has ended
        self._in_a_row = 0  # failures, of which the last one:
        self._failure, self._told = '', True
        for name in ('absl', 'asyncio'):
            logging.getLogger(name).addFilter(_is_news)

    def save(
        self,
        step: int,
        state: state_lib.State,
        host: Mapping[str, Any],
        pinned: Collection[int] = (),
    ) -> None:
        """Begins to save `state` and the JSON values `host`; returns once copied.

        Of other steps those in `pinned` stay, beside those that `keep` and `keep_every`
        name. What makes a save fail is told by `poll`.
        """
        self._collect()
        self._end_after(self._failures)
        try:
            self._make_room(state)
            self._orbax.save(
                self.path(step, '.partial') / 'state',
                args=_items(ocp.args.StandardSave, _parts(state)),
            )
        except Exception as error:
            self._discard(step)
            self._note(_why(step, error))
            return
        # While the state is there, which the next step overwrites; the sums are
        # fetched in the background.
        digests = trees.begin_digest(state)
        arrays = {
            name: {'shape': list(leaf.shape), 'dtype': str(leaf.dtype)}
            for name, leaf in trees.paths(state)
        }
        values = {'format': 1, 'step': step, 'host': dict(host), 'arrays': arrays}
        self._finisher = threading.Thread(
            target=self._finish, args=(values, digests, pinned)
        )
        self._finisher.start()

    def agreed(self, before: int | None = None) -> dict[str, Any] | None:
        """What `newest` finds on the first process, for all: they see one folder.

        UserError where it finds none that is whole, or another one does not see it.
        """
        if jax.process_count() == 1:
            return self.newest(before)
        step, fault = -1, None
        if self.first:
            try:
                found = self.newest(before)
                step = found['step'] if found else -1
            except command.UserError as error:
                step, fault = -2, error
        step = _of_first(step)
        if step == -2:
            raise fault or command.UserError('process 0 finds no whole checkpoint.')
        if step == -1:
            return None
        try:
            return manifest_lib.read(self.path(step))
        except manifest_lib.Damaged as error:
            raise command.UserError(
                f'process {jax.process_index()} does not see checkpoint {step} '
                f'({error}); --workdir has to be one folder that all hosts share.'
            ) from None

    def has(self, step: int | None) -> bool:
        """Whether a step is there, as the first process sees it."""
        found = step in self.steps()
        return found if jax.process_count() == 1 else bool(_of_first(found))

    def _make_room(self, state: state_lib.State) -> None:
        """Raises OSError where there is too little space, on all processes."""
        fault = ''
        if self.first:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.reap()
                needed = _RESERVE * sum(x.nbytes for x in jax.tree.leaves(state))
                free = shutil.disk_usage(self.folder).free
                if free < needed:
                    fault = (
                        f'{self.folder} has {free / 1e6:.1f} MB free, and a save '
                        f'takes {needed / 1e6:.1f} MB'
                    )
            except OSError as error:
                fault = str(error)
        if jax.process_count() > 1 and _of_first(bool(fault)) and not fault:
            fault = 'the first process cannot save'
        if fault:
            raise OSError(fault)

    def _finish(
        self,
        values: dict[str, Any],
        digests: dict[str, jax.Array],
        pinned: Collection[int],
    ) -> None:
        step = values['step']
        try:
            self._orbax.wait_until_finished()
            if self.first:
                for name, digest in trees.end_digest(digests).items():
                    values['arrays'][name]['digest'] = digest
                manifest_lib.write(self.path(step, '.partial'), values)
                self.name(step)
                with contextlib.suppress(OSError):  # the step itself is saved
                    self.delete_others(step, pinned)
            self._handler.writes = []  # they hold the copy of the state
        except Exception as error:  # told in the main thread
            self._error = _why(step, error)
            self._discard(step)

    def _discard(self, step: int) -> None:
        """Deletes what a failed save has written, once all its writers have ended.

        Orbax does not wait for those beside the one that failed, and TensorStore's make
        their folders again.
        """
        for write in self._handler.writes:
            with contextlib.suppress(Exception):
                write.result()
        self._handler.writes = []
        path = self.path(step, '.partial')
        for _ in range(20 if self.first else 0):
            shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.02)
            if not path.exists():
                break

    def poll(self) -> str | None:
        """What made the last save fail, if it did and was not told yet; never waits.

        Raises Failure (REQUEUE) once `failures` saves have failed one after another.
        """
        if self._finisher is not None and not self._finisher.is_alive():
            self._collect()
        self._end_after(self._failures)
        told, self._told = self._told, True
        return None if told else self._failure

    def wait(self) -> None:
        """Waits for the save that is under way; Failure if the last one failed."""
        self._collect()
        self._end_after(1)

    def close(self) -> None:
        """The same, at the end; an error that is on its way already says more."""
        self._collect()
        self._orbax.close()
        if sys.exc_info()[0] is None:
            self._end_after(1)

    def _collect(self) -> None:
        """Waits for the save that is under way, and notes whether it failed."""
        if self._finisher is not None:
            self._finisher.join()
            self._finisher = None
            self._in_a_row = self._in_a_row if self._error else 0
            if self._error:
                self._note(self._error)
            self._error = ''

    def _note(self, failure: str) -> None:
        self._failure, self._told = failure, False
        self._in_a_row += 1

    def _end_after(self, failures: int) -> None:
        if self._in_a_row >= failures:
            raise command.Failure(
                f'{self._failure}: {self._in_a_row} in a row, and what comes after the '
                'last good one would be lost; mend that, and start the run again.',
                command.REQUEUE,
            )

    def restore(
        self,
        manifest: Mapping[str, Any],
        shapes: state_lib.State,
        shardings: state_lib.State,
        start: Mapping[str, Any] = types.MappingProxyType({}),
    ) -> state_lib.State:
        """The state of a step, on any mesh, checked against the arrays' digests.

        start: `State.extra` at step 0, which has the values of a guard where the
            checkpoint is older, or of another window.

        Raises UserError for a step that has parameters alone, and Failure (REQUEUE)
        where the owner finds that arrays are not what was saved: the next start takes
        the step before.
        """
        if 'step' not in manifest['arrays']:
            raise command.UserError(
                f'{self.folder.parent} holds imported weights and no run that could '
                'go on; train in another workdir, with model.init_from set to this one.'
            )
        like = _like(shapes, shardings)
        guard, saved = like.extra.pop('guard', None), _guard(manifest, shardings.step)
        if saved:
            like.extra['guard'] = saved
        _check_names(manifest, like)
        found = self._orbax.restore(
            self.path(manifest['step']) / 'state',
            args=_items(ocp.args.StandardRestore, _parts(like)),
        )
        state = state_lib.State(params=found.params, **{'extra': {}, **found.rest})
        if 'ema' in found:
            whole = state.opt_state._replace(ema=found.ema)
            state = state._replace(opt_state=whole)
        self._check_arrays(manifest, state)
        if guard != saved:
            state.extra.pop('guard', None)
            state.extra.update({'guard': start['guard']} if guard else {})
        return state

    def restore_params(
        self, manifest: Mapping[str, Any], shapes: core.Params, shardings: core.Params
    ) -> core.Params:
        """The parameters alone, for all that does not train."""
        found = self._orbax.restore(
            self.path(manifest['step']) / 'state',
            args=_items(ocp.args.StandardRestore, {'params': _like(shapes, shardings)}),
        )
        self._check_arrays(manifest, {'params': found.params})
        return found.params

    def restore_ema(
        self, manifest: Mapping[str, Any], shapes: core.Params, shardings: core.Params
    ) -> core.Params:
        """The averages of the trained parameters alone, where it `has_ema`."""
        found = self._orbax.restore(
            self.path(manifest['step']) / 'state',
            args=_items(ocp.args.StandardRestore, {'ema': _like(shapes, shardings)}),
        )
        self._check_arrays(manifest, {'opt_state': {'ema': found.ema}})
        return found.ema

    def _check_arrays(self, manifest: Mapping[str, Any], tree: Any) -> None:
        step, saved = manifest['step'], manifest['arrays']
        for name, digest in trees.digest(tree).items():
            if saved[name]['digest'] == digest:
                continue
            fault = (
                f'array {name} of checkpoint {step} is not what was saved: digest '
                f'{digest}, expected {saved[name]["digest"]}'
            )
            if not self.owner:
                raise command.UserError(f'{fault}.')
            self.set_aside(step)
            again = 'the next start takes an older one'
            raise command.Failure(f'{fault}; {again}.', command.REQUEUE)


class _Handler(ocp.CompositeCheckpointHandler):
    """Orbax's, which keeps the writes that are under way."""

    writes: Sequence[Any] = ()

    async def async_save(self, *given: Any, **named: Any) -> Any:
        self.writes = []
        found = await super().async_save(*given, **named)
        self.writes = found or []
        return found


@ocp.args.register_with_handler(_Handler, for_save=True, for_restore=True)
class _Items(ocp.args.Composite):
    """What a handler of ours is given."""


def has_ema(manifest: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has averages of its parameters: see `optim.averaged`."""
    return any(name.startswith('opt_state/ema/') for name in manifest['arrays'])


def _of_first(value: int) -> int:
    """What the first of several processes gives; the others wait for it."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _is_news(record: logging.LogRecord) -> bool:
    """Orbax logs a traceback for each array that it fails to write; `poll` is short."""
    error = record.exc_info[1] if record.exc_info else ''
    return 'orbax' not in f'{record.pathname} {error}'


def _why(step: int, error: Exception) -> str:
    reason = ' '.join(str(error).split()) or repr(error)
    return f'the save of step {step} failed ({reason:.300})'


def _parts(state: Any) -> dict[str, Any]:
    """A state as what can be read alone: the parameters, their average, the rest."""
    parts, opt_state = {'params': state.params}, state.opt_state
    if isinstance(opt_state, optim.Averaged):
        parts['ema'] = opt_state.ema
        opt_state = opt_state._replace(ema=())
    rest = {'step': state.step, 'key': state.key, 'opt_state': opt_state}
    return {**parts, 'rest': {**rest, 'extra': state.extra} if state.extra else rest}


def _items(made: Any, parts: Mapping[str, Any]) -> _Items:
    return _Items(**{name: made(part) for name, part in parts.items()})


def _like(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        shapes,
        shardings,
    )


def _check_names(manifest: Mapping[str, Any], like: state_lib.State) -> None:
    ours = {(name, x.shape) for name, x in trees.paths(like)}
    saved = manifest['arrays'].items()
    theirs = {(name, tuple(entry['shape'])) for name, entry in saved}
    if others := sorted({name for name, _ in ours ^ theirs}):
        raise command.UserError(
            f'checkpoint {manifest["step"]} was written by a run with other arrays '
            f'({", ".join(others[:3])}{", ..." if len(others) > 3 else ""}); '
            'optimizer.name, freeze and ema, adapter and objective stay as they are '
            'in a workdir.'
        )


def _guard(manifest: Mapping[str, Any], place: Any) -> dict[str, Any] | None:
    """The arrays of a checkpoint's guard; old ones have none."""
    at = 'extra/guard/'
    return {
        name.removeprefix(at): jax.ShapeDtypeStruct(
            tuple(entry['shape']), jnp.dtype(entry['dtype']), sharding=place
        )
        for name, entry in manifest['arrays'].items()
        if name.startswith(at)
    } or None
