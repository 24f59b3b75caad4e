"""The same pipeline on Apache Beam: another engine for the steps of `chain`.

What the steps do, the order of pairs in a reduction, and the writer of files are those
of the built-in runner, and so are the bytes of the result.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import json
from pathlib import Path
import shutil
import tempfile
from typing import Any

from gptjax import command
from gptjax.data import documents, extras, progress, storage
from gptjax.data.refine import chain, files, plans, records, report, runner, spill


def refine(
    output: str,
    flags: Sequence[str],
    *,
    path: str,
    read: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    licences: Sequence[str],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """`runner.refine` on Beam; `output` may be a folder of any file system of Beam.

    flags: of Beam, '--runner=FlinkRunner'. The raw files lie where workers find
    them too. A run that failed begins again from the start.
    Raises UserError as the runner does.
    """
    beam = extras.need('apache_beam', 'beam')
    filesystems = extras.need('apache_beam.io.filesystems', 'beam').FileSystems
    pipeline_options = extras.need('apache_beam.options.pipeline_options', 'beam')
    how: runner.Run = command.splat(runner.Run, 'run', run)
    settings = runner.settings(path, read, steps, licences, how.shards)
    plan = plans.make(settings)
    target = filesystems.join(output, 'manifest.json')
    if filesystems.exists(target):
        with filesystems.open(target) as file:
            manifest = json.load(file)
        plans.check(output, manifest['settings'], None, plan)
    else:
        made = chain.Chain(settings)
        if not filesystems.exists(output):
            filesystems.mkdirs(output)
        with beam.Pipeline(
            options=pipeline_options.PipelineOptions(list(flags))
        ) as pipeline:
            _build(pipeline, made, json.dumps(settings), plan['settings'], output)
        with filesystems.open(target) as file:
            manifest = json.load(file)
    progress.say(report.table(manifest))
    report.check_bad(output, manifest, how.most_bad)
    return manifest


def _build(
    pipeline: Any, made: chain.Chain, told: str, settings: Any, output: str
) -> None:
    import apache_beam as beam

    rejected, tallies = [], []

    def each(name: str, function: Any, given: Any, *arguments: Any, more: Any = ()):
        outputs = given | name >> beam.FlatMap(function, told, *arguments).with_outputs(
            'rejected', 'tally', *more, main='main'
        )
        rejected.append(outputs.rejected)
        tallies.append(outputs.tally)
        return outputs

    tasks = pipeline | 'tasks' >> beam.Create(made.parts()) | beam.Reshuffle()
    first = each('read', _read, tasks, more=('skipped',))
    kept = each('ids', _unique, first.main | 'by id' >> beam.GroupByKey()).main
    for number, (label, group) in enumerate(made.groups):
        streams = [f'pairs{index}' for index in range(len(group.rounds))]
        given = each(f'{label}: emit', _emit, kept, number, more=streams)
        last: list[Any] = []
        for index, stream in enumerate(streams):
            pairs = (given[stream], *last) | f'{label}: pairs {index}' >> beam.Flatten()
            grouped = pairs | f'{label}: sort {index}' >> beam.GroupByKey()
            name = f'{label}: round {index}'
            last = [grouped | name >> beam.FlatMap(_reduce, told, number, index)]
        joined = {
            'documents': given.main,
            'found': (*last,) | f'{label}: end' >> beam.Flatten(pipeline=pipeline),
        }
        found = joined | f'{label}: join' >> beam.CoGroupByKey()
        kept = each(label, _apply, found, number).main
    counts = tallies | 'all counts' >> beam.Flatten() | beam.CombinePerKey(sum)
    buckets = pipeline | 'buckets' >> beam.Create(
        [(n, None) for n in range(made.shards)]
    )
    rows = rejected | 'all rejected' >> beam.Flatten()
    written = (
        (
            buckets,
            kept | 'document' >> beam.Map(_to_bucket, 'documents'),
            rows | 'rejection' >> beam.Map(_to_bucket, 'rejected'),
        )
        | 'all' >> beam.Flatten()
        | 'by bucket' >> beam.GroupByKey()
        | 'write' >> beam.Map(_write, output)
    )
    bad = (
        (pipeline | 'one' >> beam.Create([(0, None)]), first.skipped)
        | 'all skipped' >> beam.Flatten()
        | 'to one' >> beam.GroupByKey()
        | 'write skipped' >> beam.Map(_write_bad, output)
    )
    pipeline | 'end' >> beam.Create([made.names]) | 'manifest' >> beam.Map(
        _finish, settings, output, beam.pvalue.AsList(counts),
        beam.pvalue.AsList(written), beam.pvalue.AsSingleton(bad),
    )  # fmt: skip


def _told(outcome: chain.Outcome, made: chain.Chain) -> Iterator[Any]:
    """A document, or what is noted of its rejection."""
    import apache_beam as beam

    if isinstance(outcome, documents.Document):
        key, body = records.document(outcome, made.shards)
        yield key[: records.HEAD], key[records.HEAD :] + body
    else:
        row = records.rejected(*outcome, made.shards)
        yield beam.pvalue.TaggedOutput('rejected', row)


def _counted(tally: chain.Tally) -> Iterator[Any]:
    import apache_beam as beam

    for key, n in tally.items():
        yield beam.pvalue.TaggedOutput('tally', (json.dumps(key), n))


def _document(value: bytes) -> documents.Document:
    return records.decode(value[32:])


def _read(units: list[str], given: str) -> Iterator[Any]:
    import apache_beam as beam

    made, tally = chain.load(given), chain.Tally()
    for found in made.read(units, tally):
        if isinstance(found, documents.Skipped):
            piece = beam.pvalue.TaggedOutput('skipped', (0, records.skipped(found)))
            yield piece
        else:
            yield from _told(made.segment(0, found, tally), made)
    yield from _counted(tally)


def _unique(found: tuple[bytes, Iterable[bytes]], given: str) -> Iterator[Any]:
    made, tally = chain.load(given), chain.Tally()
    first, *others = map(_document, sorted(found[1]))
    yield from _told(first, made)
    for outcome in made.unique(first, others, tally):
        yield from _told(outcome, made)
    yield from _counted(tally)


def _emit(found: tuple[bytes, bytes], given: str, number: int) -> Iterator[Any]:
    import apache_beam as beam

    made, tally = chain.load(given), chain.Tally()
    pairs = made.emit(number, _document(found[1]), tally)
    if isinstance(pairs, tuple):
        yield from _told(pairs, made)
    else:
        yield found
        for index, key, value in pairs:
            yield beam.pvalue.TaggedOutput(f'pairs{index}', (key, value))
    yield from _counted(tally)


def _reduce(
    found: tuple[bytes, Iterable[bytes]], given: str, number: int, index: int
) -> Iterator[Any]:
    made = chain.load(given)
    rounds = made.groups[number][1].rounds
    for key, value in rounds[index].reduce(found[0], iter(sorted(found[1]))):
        last = index == len(rounds) - 1
        yield (records.place(key, made.shards) if last else key), value


def _apply(
    found: tuple[bytes, Mapping[str, Iterable[bytes]]], given: str, number: int
) -> Iterator[Any]:
    made, tally = chain.load(given), chain.Tally()
    said = sorted(found[1]['found'])
    for value in found[1]['documents']:
        yield from _told(made.group(number, _document(value), said, tally), made)
    yield from _counted(tally)


def _to_bucket(record: spill.Record, what: str) -> tuple[int, Any]:
    return record[0][0] << 8 | record[0][1], (what, *record)


def _write(found: tuple[int, Iterable[Any]], output: str) -> tuple[int, Any]:
    """Writes the two files of a bucket; the records are sorted here."""
    bucket, values = found
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sorters = {
            what: spill.Sorter(folder / what) for what in ('documents', 'rejected')
        }
        for value in values:
            if value is not None:
                what, *record = value
                sorters[what].add(*record)
        partial, name = folder / 'partial', f'{bucket:05}.parquet'
        (folder / 'rejected').mkdir()
        kept = (_document(value) for _, value in sorters['documents'])
        rejected = (line for _, line in sorters['rejected'])
        written = {
            'documents': files.documents_file(partial, folder, name, kept),
            'rejected': files.rejected_file(
                partial, folder, f'rejected/{name}', rejected
            ),
        }
        for one in written.values():
            _copy(folder, output, one['file'])
    return bucket, written


def _write_bad(found: tuple[int, Iterable[Any]], output: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sorter = spill.Sorter(folder / 'skipped')
        for record in found[1]:
            if record is not None:
                sorter.add(*record)
        told = report.bad_file(folder, (line for _, line in sorter))
        _copy(folder, output, report.BAD)
    return told


def _finish(
    names: list[str], settings: Any, output: str, counts: Any, written: Any, bad: Any
) -> None:
    tally = chain.Tally({tuple(json.loads(key)): n for key, n in counts})
    ordered = [one for _, one in sorted(written)]
    manifest = report.manifest(settings, names, tally, ordered, bad)
    with tempfile.TemporaryDirectory() as scratch:
        storage.write_json(Path(scratch) / 'manifest.json', manifest)
        _copy(Path(scratch), output, 'manifest.json')


def _copy(folder: Path, output: str, name: str) -> None:
    from apache_beam.io.filesystems import FileSystems

    target = FileSystems.join(output, *name.split('/'))
    with (folder / name).open('rb') as source, FileSystems.create(target) as file:
        shutil.copyfileobj(source, file)
