"""The folders of a workdir's checkpoints: which are whole, which stay, which go.

    checkpoints/00000100/            a step that was saved: state/ and manifest.json
    checkpoints/00000200.partial/    a save under way, or what a dead one left
    checkpoints/00000050.corrupt/    a step that was found damaged

A step gets its name when it is complete and on the disk, and loses it before it is
deleted: a kill or a power cut leaves it whole or none.
"""

from collections.abc import Collection, Iterable, Mapping
import contextlib
from pathlib import Path
import shutil
from typing import Any

import jax

from gptjax import command
from gptjax.train import log, manifest


class Folders:
    """The checkpoints of one workdir, without what is in them.

    keep: the newest so many stay, and every step that is a multiple of `keep_every`, if
        that is not 0.
    owner: this run holds the workdir (see claim.py), on all its processes: damaged
        steps are set aside, and what dead writers left is deleted.

    `damaged` counts the steps that were found so.
    """

    def __init__(
        self, workdir: Path, keep: int, keep_every: int = 0, owner: bool = False
    ):
        self.damaged = 0
        self.folder = workdir.absolute() / 'checkpoints'
        self.owner, self.first = owner, jax.process_index() == 0
        self._keep, self._keep_every = keep, keep_every
        if owner and self.first:
            self.reap()

    def path(self, step: int, suffix: str = '') -> Path:
        return self.folder / f'{step:08d}{suffix}'

    def steps(self, suffix: str = '') -> list[int]:
        """The steps that were saved, oldest first, whether or not they are whole."""
        names = (path.name for path in self.folder.glob(f'*{suffix}'))
        stems = (name.removesuffix(suffix) for name in names)
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def newest(self, before: int | None = None) -> dict[str, Any] | None:
        """The manifest of the newest step that is whole; None if there is no step.

        before: of the steps before that one.

        A damaged step is named on standard error and passed over; the owner sets it
        aside. If none of some is left, that is a UserError, not a fresh start, which
        only a reader may make `before` a step.
        """
        steps = [step for step in self.steps() if before is None or step < before]
        for tried, step in enumerate(reversed(steps)):
            if (found := self.whole(step)) is not None:
                for damaged in steps[len(steps) - tried :]:
                    self.set_aside(damaged)
                return found
        count = len(self.steps() + self.steps('.corrupt'))
        if count and (self.owner or before is None):
            which = '' if before is None else f' before step {before}'
            raise command.UserError(
                f'no checkpoint{which} in {self.folder} is whole (there are {count}); '
                'restore the files, or start in another workdir.'
            )
        return None

    def whole(self, step: int) -> dict[str, Any] | None:
        """The manifest of a step if it and all its files are whole, else None."""
        try:
            return manifest.check(self.path(step))
        except manifest.Damaged as fault:
            self.damaged += 1
            log.say(f'checkpoint {step} is damaged: {fault}')
            return None

    def set_aside(self, step: int) -> None:
        """Takes its name from a damaged step, if this is the process to do so."""
        if self.owner and self.first:
            corrupt = self.path(step, '.corrupt')
            shutil.rmtree(corrupt, ignore_errors=True)
            self.path(step).rename(corrupt)
            log.say(f'checkpoint {step} is {corrupt.name} from now on')

    def name(self, step: int) -> None:
        """Gives its name to a step that is complete, in the place of an older one."""
        if self.path(step).exists():
            self.path(step).rename(self.path(step, '.old.partial'))
        self.path(step, '.partial').rename(self.path(step))
        manifest.sync(self.folder)
        self.reap()

    def amend(self, step: int, host: Mapping[str, Any]) -> None:
        """Other values of the host for a step that is whole, if the disk takes them."""
        if self.first:
            with contextlib.suppress(OSError):
                manifest.amend(self.path(step), host=dict(host))

    def delete_others(self, saved: int, pinned: Collection[int]) -> None:
        """Keeps what is to stay up to `saved`, which is whole and stays.

        Later steps are of a future given up.
        """
        steps = [step for step in self.steps() if step <= saved]
        kept = {*steps[-self._keep :], *(step for step in steps if step in pinned)}
        if self._keep_every:
            kept |= {step for step in steps if step % self._keep_every == 0}
        self._delete(step for step in self.steps() if step not in kept)
        for step in self.steps('.corrupt'):
            if step < min(kept):
                shutil.rmtree(self.path(step, '.corrupt'))

    def drop_after(self, step: int) -> None:
        """Deletes the steps after one from which a run begins anew."""
        if self.first:
            self._delete(later for later in self.steps() if later > step)

    def _delete(self, steps: Iterable[int]) -> None:
        for step in steps:
            self.path(step).rename(self.path(step, '.old.partial'))
        self.reap()

    def reap(self) -> None:
        """Deletes what writers have left that are dead, or have failed."""
        for path in self.folder.glob('*.partial'):
            shutil.rmtree(path, ignore_errors=True)
