"""data.json of a workdir: which datasets its run has read, and in which order.

began_with  the workdir whose weights it began with, at which step, and its data.json
trained_on  a part for each time that data or batches changed: the step and the row of
            the stream where it begins, batch_size, T, seed, packing, longer, whether
            answers are rows by themselves (feedback), the counts of what was too long,
            and the datasets, of which a mixture says how they were mixed

A step n (from 1) of a part reads the rows of the stream from
row + (n - 1 - step) * batch_size on. A part after bad steps has `skips`, (first, end)
of rows: a batch that would begin in there begins at the end, see `stretches`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptjax.data import dataset, storage

FILE = 'data.json'


def record(
    workdir: Path,
    began_with: tuple[Path, int] | None,
    datasets: Sequence[dataset.Dataset],
    part: Mapping[str, Any],
) -> None:
    """Adds to a workdir's lineage what its run reads from now on, if that is new.

    began_with: a workdir and the step of its checkpoint; it counts at step 0 alone.
    part: all but the datasets. What was to be read later is given up.
    """
    known = storage.read_json(workdir / FILE)
    if known is None or not part['step']:
        known = {'began_with': _beginning(*began_with) if began_with else None}
    parts = [one for one in known.get('trained_on', ()) if one['step'] < part['step']]
    new = {
        **part,
        'datasets': [
            {
                'path': str(built.folder),
                'digest': built.content,
                'sources': built.manifest['sources'],
            }
            for built in datasets
        ],
    }
    if not parts or _constant(parts[-1]) != _constant(new):
        parts.append(new)
    storage.write_json(workdir / FILE, {**known, 'trained_on': parts})


def _constant(part: Mapping[str, Any]) -> dict[str, Any]:
    """What of a part does not change from step to step, wherever the data lie."""
    kept = {k: v for k, v in part.items() if k not in ('step', 'row')}
    digests = [one['digest'] for one in part['datasets']]
    return {**kept, 'datasets': digests}


def _beginning(workdir: Path, step: int) -> dict[str, Any]:
    return {
        'workdir': str(workdir),
        'step': step,
        'data': storage.read_json(workdir / FILE),
    }


def stretches(
    row: int, size: int, count: int, skips: Sequence[Sequence[int]]
) -> Iterator[tuple[int, int, int]]:
    """(first batch, its first row, batches) of what is read without a gap.

    That is `count` batches of `size` rows from `row` on.
    """
    done = 0
    for first, end in sorted(map(tuple, skips)):
        batches = min(max(-(-(first - row) // size), 0), count - done)
        if batches:
            yield done, row, batches
            done, row = done + batches, row + batches * size
        if first <= row < end:
            row = end
    if done < count:
        yield done, row, count - done


def read(workdir: Path) -> dict[str, Any] | None:
    """A workdir's lineage; None of one that has none, as of imported weights."""
    return storage.read_json(workdir / FILE)


def sources(known: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The rows of `sources` of all datasets of a lineage, each dataset once.

    With the data of the workdirs that it began with.
    """
    seen = set()
    while known is not None:
        for part in known['trained_on']:
            for one in part['datasets']:
                if one['digest'] not in seen:
                    seen.add(one['digest'])
                    yield from one['sources']
        began = known['began_with']
        known = began['data'] if began else None


def complete(known: Mapping[str, Any] | None) -> bool:
    """Whether all that the weights learned from is known: back to a random start."""
    while known is not None:
        if known['began_with'] is None:
            return True
        known = known['began_with']['data']
    return False
