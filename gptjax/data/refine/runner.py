"""The built-in engine: a pipeline over processes, by sorting, with everything on disk.

Phases, each of them tasks that need nothing of one another:
- read: units of the input through the steps before the first group, to sorted files
- documents: a bucket (a range of keys) of these, merged; what they give to the rounds
  of the next group
- round: pairs of a bucket, merged, reduced, and sorted for the round that follows
- documents again, joined with what the last round says of them, and so on; the last
  time they are written

A task's files appear by renames, and a record of them last. A run that is killed at any
moment and started again goes on after the last finished task, to the same bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
import itertools
import os
from pathlib import Path
import pickle
import shutil
from typing import Any

from gptjax import command
from gptjax.data import documents, progress, storage
from gptjax.data.refine import chain, files, plans, pool, records, report, spill

_BUCKETS = 512  # files that may be open at once bound the shards

Options = Mapping[str, Any]


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
        if self.workers < 1:
            raise command.UserError(
                f'run.workers is {self.workers}; it needs to be >= 1.'
            )
        if not 1 <= self.shards <= _BUCKETS:
            raise command.UserError(
                f'run.shards is {self.shards}; it needs to be 1 to {_BUCKETS}.'
            )
        if not 0 <= self.most_bad <= 1:
            raise command.UserError(
                f'run.most_bad is {self.most_bad}; it is a share, 0 to 1.'
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
            made = chain.Chain(given)
            plans.begin(output, plan)
            with pool.Pool(how.workers) as workers:
                tallies, written = _phases(output, given, made, workers)
            skipped = _streams(output / plans.WORK, (('read', 'skipped'),), 0)
            bad = report.bad_file(output, (line for _, line in spill.merge(skipped)))
            manifest = report.manifest(
                plan['settings'], made.names, tallies, written, bad
            )
            plans.finish(output, plan, manifest)
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


def phases(made: chain.Chain) -> Iterator[Phase]:
    """The phases of a chain in order."""
    yield Phase('read', 'reading', 'read')
    before: tuple[tuple[str, str], ...] = (('read', 'documents'),)
    for number in range(len(made.groups) + 1):
        name = f'documents-{number}'
        label = made.groups[number][0] if number < len(made.groups) else None
        title = 'writing documents' if label is None else f'{label}: documents'
        yield Phase(name, title, 'documents', before, number)
        before = ((name, 'documents'),)
        if label is None:
            return
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
    output: Path, given: Options, made: chain.Chain, workers: pool.Pool
) -> tuple[chain.Tally, list[dict[str, Any]]]:
    """Runs what is not done yet; returns all counts, and the files of the end."""
    work, pickled = output / plans.WORK, pickle.dumps(given)
    tally: chain.Tally = chain.Tally()
    done: list[dict[str, Any]] = []
    for phase in phases(made):
        folder = work / phase.name
        folder.mkdir(exist_ok=True)
        for pattern in ('*.partial', '*.run'):
            for left in folder.glob(pattern):
                left.unlink()
        count = made.tasks if phase.kind == 'read' else made.shards
        known = [storage.read_json(_record(folder, task)) for task in range(count)]
        missing = [task for task, record in enumerate(known) if record is None]
        tasks = [(pickled, str(output), phase, task) for task in missing]
        what = 'keys' if phase.kind == 'round' else 'documents'
        with progress.stage(phase.title, what=what) as advance:
            for record in known:
                advance(0 if record is None else record['count'])
            for record in workers.run(_task, tasks):
                advance(record['count'])
        done = [storage.read_json(_record(folder, task)) for task in range(count)]
        for record in done:
            tally.update({tuple(key): n for *key, n in record['tally']})
        for source, stream in phase.reads:
            for path in (work / source).glob(f'*.{stream}'):
                path.unlink()
    return tally, [record['files'] for record in done]


def _record(folder: Path, task: int) -> Path:
    return folder / f'{task:05}.json'


def _streams(
    work: Path, reads: Sequence[tuple[str, str]], bucket: int
) -> list[Iterator[spill.Record]]:
    """What the tasks of other phases wrote for a bucket."""
    found: list[Iterator[spill.Record]] = [iter(())]
    for source, stream in reads:
        for path in sorted((work / source).glob('*.json')):
            streams = storage.read_json(path)['streams']
            for part, begin, end in streams.get(stream, ()):
                if part == bucket:
                    found.append(spill.read(path.with_suffix(f'.{stream}'), begin, end))
    return found


class _Task:
    """One task: what it reads, and the streams that it writes."""

    def __init__(self, made: chain.Chain, output: Path, phase: Phase, number: int):
        self.made, self.output, self.phase, self.number = made, output, phase, number
        self.work = output / plans.WORK
        self.stem = self.work / phase.name / f'{number:05}'
        self.tally: chain.Tally = chain.Tally()
        self.count = 0
        self.files: dict[str, Any] = {}
        self.sorters: dict[str, spill.Sorter] = {}
        self.streams: dict[str, list[list[int]]] = {}

    def sorter(self, stream: str, share: int = 1) -> spill.Sorter:
        """The sorter of a stream; `share` of them hold records at the same time."""
        if stream not in self.sorters:
            path = self.stem.with_name(f'{self.stem.name}.{stream}')
            self.sorters[stream] = spill.Sorter(path, spill.MEMORY // share)
        return self.sorters[stream]

    def incoming(self, stream: str) -> Iterator[spill.Record]:
        """The records for this bucket, of the streams whose name begins so."""
        reads = [one for one in self.phase.reads if one[1].startswith(stream)]
        return spill.merge(_streams(self.work, reads, self.number))

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
            'count': self.count,
            'files': self.files,
            'streams': self.streams,
            'tally': [[*key, n] for key, n in sorted(self.tally.items())],
        }
        storage.write_json(_record(self.stem.parent, self.number), record)
        return record


def _task(pickled: bytes, output: str, phase: Phase, number: int) -> dict[str, Any]:
    """Runs a task, in whatever process; returns its record."""
    task = _Task(chain.load(pickled), Path(output), phase, number)
    {'read': _read, 'documents': _documents, 'round': _round}[phase.kind](task)
    return task.finish()


def _read(task: _Task) -> None:
    made = task.made
    for found in made.read(task.number, task.tally):
        if isinstance(found, documents.Skipped):
            task.sorter('skipped', 8).add(*records.skipped(found))
            continue
        task.count += 1
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
        task.count += 1
        for after, value in group.rounds[task.phase.round].reduce(key[2:], values):
            task.sorter('pairs').add(bucketed(after, task.made.shards), value)


def _documents(task: _Task) -> None:
    made, number = task.made, task.phase.group
    kept = _kept(task)
    if number < len(made.groups):
        task.write('documents', _given(task, kept))
        return
    path = task.output / f'{task.number:05}.parquet'
    task.files['documents'] = {
        'file': path.name,
        **files.documents_file(_partial(task, 'documents'), path, kept),
    }
    earlier = [(p.name, 'rejected') for p in phases(made) if p != task.phase]
    found = [*_streams(task.work, earlier, task.number)]
    found += [iter(task.sorters['rejected'])] if 'rejected' in task.sorters else []
    path = task.output / 'rejected' / path.name
    path.parent.mkdir(exist_ok=True)
    lines = (line for _, line in spill.merge(found))
    task.files['rejected'] = {
        'file': f'rejected/{path.name}',
        **files.rejected_file(_partial(task, 'rejected'), path, lines),
    }


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
        task.count += 1
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
