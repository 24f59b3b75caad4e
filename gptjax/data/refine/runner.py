"""The built-in engine: a pipeline over processes, by sorting, with everything on disk.

Phases, each of them tasks that need nothing of one another:
- read: units of the input through the steps before the first group, to sorted files;
  a unit, which is a file of it, is never divided: cut a huge one
- documents: a bucket (a range of keys) of these, merged; what they give to the rounds
  of the next group
- round: pairs of a bucket, merged, reduced, and sorted for the round that follows
- documents again, joined with what the last round says of them, and so on; the last
  time they are written

A task's files appear by renames once they are on the disk, and a record of them last. A
run that is killed at any moment and started again goes on after the last finished task,
to the same bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
import errno
import itertools
import json
import os
from pathlib import Path
import shutil
from typing import Any

from gptjax import command
from gptjax.data import documents, progress, storage
from gptjax.data.refine import chain, files, plans, pool, records, report, spill

_SHARDS = 512  # each task reads files of all others

Options = Mapping[str, Any]
Range = tuple[str, int, int]  # of a file: path, begin, end


@dataclass(frozen=True)
class Run:
    """How a run goes.

    workers: processes. shards: files of the result, and parts in which it is made.
    most_bad: the share of the pieces that may be unreadable; beyond, the run failed.
    """

    workers: int
    shards: int
    most_bad: float

    def __post_init__(self) -> None:
        for name, least, most in (
            ('workers', 1, 1000), ('shards', 1, _SHARDS), ('most_bad', 0, 1)
        ):  # fmt: skip
            if not least <= (given := getattr(self, name)) <= most:
                raise command.UserError(
                    f'run.{name} is {given}; it needs to be {least} to {most}.'
                )


@dataclass(frozen=True)
class Phase:
    """A step of the run: what its tasks read, and of which group or round they are."""

    name: str
    title: str
    kind: str  # 'read', 'documents' or 'round'
    reads: tuple[tuple[str, str], ...] = ()  # (phase, stream)
    group: int = 0
    round: int = 0


def refine(
    output: Path | str,
    *,
    path: str,
    read: Options,
    steps: Sequence[Options],
    licences: Sequence[str],
    run: Options,
) -> dict[str, Any]:
    """Refines the raw files at `path` into the folder `output`; returns its manifest.

    read: {'name': entry of `table.READERS`, and its options}. steps: the same of
    `table.STEPS`, in order. licences: those that are allowed. run: see `Run`.

    A finished folder of the same settings and input is opened; one that was begun is
    finished. Raises UserError for wrong options, for another input or other settings
    than those that the folder was begun with, and, with everything written, where more
    than run.most_bad of the input could not be read.
    """
    output = Path(output)
    how: Run = command.splat(Run, 'run', run)
    given = settings(path, read, steps, licences, how.shards)
    plan = plans.make(given)
    with storage.lock(output):
        if not plans.finished(output, plan):
            _refine(output, json.dumps(given), plan, how.workers)
        shutil.rmtree(output / plans.WORK, ignore_errors=True)
        manifest = storage.read_json(output / 'manifest.json')
    progress.say(report.table(manifest))
    report.check_bad(output, manifest, how.most_bad)
    return manifest


def settings(
    path: str,
    read: Options,
    steps: Sequence[Options],
    licences: Sequence[str],
    shards: int,
) -> dict[str, Any]:
    """All that the result depends on: what `chain.Chain` is made of."""
    return {
        'path': path,
        'read': dict(read),
        'steps': [dict(step) for step in steps],
        'licences': list(licences),
        'shards': shards,
    }


def _refine(output: Path, given: str, plan: plans.Plan, workers: int) -> None:
    try:
        with pool.Pool(workers, chain.load, given) as processes:
            made = chain.load(given)
            plans.begin(output, plan)
            tally, written, skipped = _phases(output, given, made, processes)
        bad = report.bad_file(output, (line for _, line in spill.merge(skipped)))
        manifest = report.manifest(plan['settings'], made.names, tally, written, bad)
        plans.finish(output, plan, manifest)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise command.UserError(
            f'the disk of {output} is full; what is finished is kept, and the same '
            'command goes on from there once there is room.'
        ) from None


def phases(made: chain.Chain) -> Iterator[Phase]:
    """The phases of a chain in order."""
    yield Phase('read', 'reading', 'read')
    before: tuple[tuple[str, str], ...] = (('read', 'documents'),)
    rejected = [('read', 'rejected')]
    for number in range(len(made.groups) + 1):
        name = f'documents-{number}'
        label = made.groups[number][0] if number < len(made.groups) else None
        title = 'writing documents' if label is None else f'{label}: documents'
        if label is None:
            yield Phase(name, title, 'documents', (*before, *rejected), number)
            return
        yield Phase(name, title, 'documents', before, number)
        before = ((name, 'documents'),)
        rejected.append((name, 'rejected'))
        last: tuple[tuple[str, str], ...] = ()
        rounds = made.groups[number][1].rounds
        for index, one in enumerate(rounds):
            given = ((name, f'pairs-{index}'),) if one.emit is not None else ()
            phase = f'group-{number}-{index}'
            title = f'{label}: round {index + 1} of {len(rounds)}'
            yield Phase(phase, title, 'round', last + given, number, index)
            last = ((phase, 'pairs'),)
        before += last


def _phases(
    output: Path, given: str, made: chain.Chain, processes: pool.Pool
) -> tuple[chain.Tally, list[Any], list[Iterator[spill.Record]]]:
    """Runs what is not done yet; returns counts, files of the end, and bad pieces."""
    work, tally = output / plans.WORK, chain.Tally()
    streams: dict[tuple[str, str], dict[int, list[Range]]] = {}
    for phase in phases(made):
        folder = work / phase.name
        folder.mkdir(exist_ok=True)
        for left in (*folder.glob('*.partial'), *folder.glob('*.run')):
            left.unlink()
        parts = made.parts() if phase.kind == 'read' else [[]] * made.shards
        known = [storage.read_json(_record(folder, n)) for n in range(len(parts))]
        tasks = [
            (given, str(output), phase, number, parts[number], {
                read: streams.get(read, {}).get(number, []) for read in phase.reads
            })
            for number, record in enumerate(known) if record is None
        ]  # fmt: skip
        sizes = [len(part) or 1 for part in parts]
        what = 'files' if phase.kind == 'read' else 'parts'
        with progress.stage(phase.title, sum(sizes), what) as advance:
            advance(sum(n for n, one in zip(sizes, known, strict=True) if one))
            for number, record in processes.run(_task, tasks):
                known[number] = record
                advance(sizes[number])
        for number, record in enumerate(known):
            tally.update({tuple(key): n for *key, n in record['tally']})
            for stream, ranges in record['streams'].items():
                buckets = streams.setdefault((phase.name, stream), {})
                path = str(folder / f'{number:05}.{stream}')
                for bucket, begin, end in ranges:
                    buckets.setdefault(bucket, []).append((path, begin, end))
        for source, stream in phase.reads:
            streams.pop((source, stream), None)
            for left in (work / source).glob(f'*.{stream}'):
                left.unlink()
    skipped = streams.get(('read', 'skipped'), {}).get(0, [])
    return tally, [record['files'] for record in known], _opened(skipped)


def _record(folder: Path, task: int) -> Path:
    return folder / f'{task:05}.json'


def _opened(ranges: Sequence[Range]) -> list[Iterator[spill.Record]]:
    found = [spill.read(Path(path), begin, end) for path, begin, end in ranges]
    return found or [iter(())]


class _Task:
    """One task: what it reads, and the streams that it writes."""

    def __init__(
        self, made: chain.Chain, output: Path, phase: Phase, number: int,
        units: Sequence[str], reads: Mapping[tuple[str, str], Sequence[Range]],
    ):  # fmt: skip
        self.made, self.output, self.phase, self.number = made, output, phase, number
        self.units, self.reads = units, reads
        self.stem = output / plans.WORK / phase.name / f'{number:05}'
        self.tally: chain.Tally = chain.Tally()
        self.files: dict[str, Any] = {}
        self.sorters: dict[str, spill.Sorter] = {}
        self.streams: dict[str, list[list[int]]] = {}

    def sorter(self, stream: str, share: int = 1) -> spill.Sorter:
        """The sorter of a stream; `share` of them hold records at the same time."""
        if stream not in self.sorters:
            path = self.stem.with_name(f'{self.stem.name}.{stream}')
            self.sorters[stream] = spill.Sorter(path, spill.MEMORY // share)
        return self.sorters[stream]

    def incoming(
        self, stream: str, *more: Iterator[spill.Record]
    ) -> Iterator[spill.Record]:
        """The records for this bucket, of the streams whose name begins so."""
        found = [
            one
            for (_, name), ranges in self.reads.items()
            if name.startswith(stream)
            for one in _opened(ranges)
        ]
        return spill.merge([*found, *more])

    def reject(self, outcome: chain.Rejected) -> None:
        """Takes note of a rejection."""
        record = records.rejected(*outcome, self.made.shards)
        self.sorter('rejected', 8).add(*record)

    def write(self, stream: str, found: Iterator[spill.Record]) -> None:
        """Writes a stream that is ascending already."""
        path = self.stem.with_name(f'{self.stem.name}.{stream}')
        self.streams[stream] = spill.write(path, found)

    def finish(self) -> dict[str, Any]:
        """Writes what is sorted, then the record that the task is done."""
        for stream, sorter in self.sorters.items():
            self.write(stream, iter(sorter))
            sorter.close()
        record = {
            'files': self.files,
            'streams': self.streams,
            'tally': [[*key, n] for key, n in sorted(self.tally.items())],
        }
        storage.write_json(_record(self.stem.parent, self.number), record)
        return record


def _task(
    given: str, output: str, phase: Phase, number: int, *what: Any
) -> tuple[int, dict[str, Any]]:
    """Runs a task, in whatever process; returns its number and record."""
    task = _Task(chain.load(given), Path(output), phase, number, *what)
    {'read': _read, 'documents': _documents, 'round': _round}[phase.kind](task)
    return number, task.finish()


def _read(task: _Task) -> None:
    made = task.made
    for found in made.read(task.units, task.tally):
        if isinstance(found, documents.Skipped):
            task.sorter('skipped', 8).add(*records.skipped(found))
            continue
        outcome = made.segment(0, found, task.tally)
        if isinstance(outcome, documents.Document):
            record = records.document(outcome, made.shards)
            task.sorter('documents').add(*record)
        else:
            task.reject(outcome)


def _round(task: _Task) -> None:
    group = task.made.groups[task.phase.group][1]
    last = task.phase.round == len(group.rounds) - 1
    bucketed = records.place if last else records.scatter
    grouped = itertools.groupby(task.incoming('pairs'), lambda record: record[0])
    for key, found in grouped:
        values = (value for _, value in found)
        for after, value in group.rounds[task.phase.round].reduce(key[2:], values):
            task.sorter('pairs').add(bucketed(after, task.made.shards), value)


def _documents(task: _Task) -> None:
    made, number = task.made, task.phase.group
    kept = _kept(task)
    if number < len(made.groups):
        task.write('documents', _given(task, kept))
        return
    name = f'{task.number:05}.parquet'
    partial = _partial(task, 'documents')
    task.files['documents'] = files.documents_file(partial, task.output, name, kept)
    own = task.sorters.pop('rejected', None)
    rejected = task.incoming('rejected', *(() if own is None else (iter(own),)))
    lines = (line for _, line in rejected)
    (task.output / 'rejected').mkdir(exist_ok=True)
    partial, name = _partial(task, 'rejected'), f'rejected/{name}'
    task.files['rejected'] = files.rejected_file(partial, task.output, name, lines)


def _partial(task: _Task, stream: str) -> Path:
    return task.stem.with_name(f'{task.stem.name}.{stream}.{os.getpid()}.partial')


def _kept(task: _Task) -> Iterator[documents.Document]:
    """The documents of a bucket after the group before, in order; others are noted."""
    pairs = itertools.groupby(task.incoming('pairs'), lambda record: record[0])
    head, values = next(pairs, (b'\xff' * 19, iter(())))
    same = itertools.groupby(
        task.incoming('documents'), lambda record: record[0][: records.HEAD]
    )
    for key, found in same:
        document = records.decode(next(found)[1])
        if task.phase.group == 0:
            others = (records.decode(body) for _, body in found)
            for other in task.made.unique(document, others, task.tally):
                task.reject(other)
        while head < key:
            head, values = next(pairs, (b'\xff' * 19, iter(())))
        said = [value for _, value in values] if head == key else []
        outcome: chain.Outcome = document
        if task.phase.group > 0:
            outcome = task.made.group(task.phase.group - 1, document, said, task.tally)
        if isinstance(outcome, documents.Document):
            yield outcome
        else:
            task.reject(outcome)


def _given(task: _Task, kept: Iterator[documents.Document]) -> Iterator[spill.Record]:
    """The documents as records; what they give to the rounds is taken on the way."""
    made, number = task.made, task.phase.group
    share = sum(one.emit is not None for one in made.groups[number][1].rounds) or 1
    for document in kept:
        pairs = made.emit(number, document, task.tally)
        if isinstance(pairs, tuple):
            task.reject(pairs)
            continue
        for index, key, value in pairs:
            record = records.scatter(key, made.shards)
            task.sorter(f'pairs-{index}', share).add(record, value)
        yield records.document(document, made.shards)
