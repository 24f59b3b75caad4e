"""From a corpus to a dataset: collect, tokenizer, shards, manifest.

Each finished piece appears by an atomic rename. A build that is killed at any moment
and run again goes on after the last finished piece and ends with the same bytes.
Documents are streamed, in a pass for each stage: memory holds a shard of each split and
a batch of documents.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
import hashlib
import json
import os
from pathlib import Path
import shutil
from typing import Any

from gptjax import command
from gptjax.data import (
    card,
    croissant,
    dataset,
    documents,
    ledger,
    progress,
    shards,
    storage,
    table,
)
from gptjax.data import split as split_lib
from gptjax.text import table as text_table
from gptjax.text import tokenizer as tokenizer_lib

RAW = 'raw.json'  # in a dataset that `ensure` built: what the raw text was
PROGRESS = '.progress'  # the records of an unfinished build, in its folder
_BATCH = 1 << 20  # characters that are tokenized together
_NAMED = 20  # skipped pieces that are named; beyond, they are counted

Options = Mapping[str, Any]


def build(
    output: Path | str,
    *,
    corpus: Options,
    tokenizer: Options,
    held_out: Options,
    shard_tokens: int,
) -> dataset.Dataset:
    """Builds a dataset in the folder `output`, finishes one begun there, or opens it.

    corpus: {'name': entry of `table.CORPORA`, and its options}.
    tokenizer: options of `gptjax.text.table.make`; it is trained on the train split.
    held_out: {'fraction': share of validation, 'by': 'document' or 'tail'}.
    shard_tokens: the least number of tokens of a shard; the last one has what is left.

    Raises UserError for wrong options or sources, for an empty split, for a folder that
    holds something else, and where the documents are not those that it was begun with.
    """
    output = Path(output)
    settings = {
        'corpus': dict(corpus),
        'tokenizer': dict(tokenizer),
        'held_out': dict(held_out),
        'shard_tokens': shard_tokens,
    }
    if shard_tokens < 1:
        raise command.UserError(f'shard_tokens is {shard_tokens}; it needs to be >= 1.')
    with storage.lock(output):
        begun = begun_in(output, settings)
        plan = {'settings': _portable(settings), **_collect(corpus, held_out)}
        if begun is not None:
            _check_unchanged(output, begun, plan)
        work = output / PROGRESS
        if not (output / 'manifest.json').exists():
            work.mkdir(exist_ok=True)
            storage.write_json(work / 'plan.json', plan)
        made = _tokenizer(output, plan, corpus, tokenizer)
        if not (output / 'manifest.json').exists():
            finish(output, _write(output, plan, corpus, made))
        shutil.rmtree(work, ignore_errors=True)
        return dataset.open(output)


def finish(output: Path, manifest: dict[str, Any]) -> None:
    """Writes the counts, the cards and, last of all, the manifest of a dataset."""
    made = dataset.Dataset(output, manifest)
    manifest |= ledger.roll_up(made) | {'diversity': card.diversity_of(made)}
    manifest = json.loads(json.dumps(manifest, sort_keys=True))  # as it is read again
    manifest['digest'] = storage.json_digest(manifest)
    card.write(dataset.Dataset(output, manifest))
    storage.write_json(output / 'manifest.json', manifest)
    rows = [one for one in manifest['sources'] if one['licence'] == 'unknown']
    if rows:
        progress.say(
            f'warning: the licence of {sum(one["documents"] for one in rows):,} '
            'documents is unknown; mixtures and data.licences refuse them'
        )


def ensure(path: str, workdir_data: Path | str, spec: Options) -> dataset.Dataset:
    """The dataset at `path`, or, where that is raw text, one that is built of it.

    The raw text is built once, in the folder `workdir_data`, with `spec`: the sections
    corpus (without its path), tokenizer, held_out and shard_tokens of `build`.

    A file RAW beside the manifest remembers the path and the names, sizes and times of
    the raw files. While they are as they were, or the path is the same and nothing is
    there any more, the finished dataset is opened and no text is read. Otherwise the
    text is read again, and it must be the text that the dataset was built of.
    Raises UserError as `build` and `dataset.open` do.
    """
    raw, output = Path(path), Path(workdir_data)
    if path and (raw / 'manifest.json').exists():
        return dataset.open(raw)
    if 'corpus' not in spec:
        raise command.UserError('data.build lacks corpus; add it to the config file.')
    options = {**spec, 'corpus': {**spec['corpus'], 'path': path}}
    seen = {
        'path': path,
        'files': storage.listing(raw) if path and raw.exists() else None,
    }
    if (output / 'manifest.json').exists() and _remembered(output / RAW, seen):
        finished = dataset.open(output)
        _check_settings(output, finished.manifest['plan'], options)
        return finished
    if seen['files'] is None:
        raise command.UserError(
            f'data.path is {path!r}, which does not exist; set it to a built dataset '
            '(python -m gptjax.data) or to raw text.'
        )
    if (raw / PROGRESS).exists():
        raise command.UserError(
            f'{path} holds a dataset whose build was interrupted; run the command that '
            'builds it again.'
        )
    built = command.splat(build, 'data.build', options, output=output)
    with storage.lock(output):
        storage.write_json(output / RAW, seen)
    return built


def _remembered(record: Path, seen: Options) -> bool:
    """Whether the raw text is what it was, or was at the same path and is gone."""
    try:
        before = storage.read_json(record)
    except ValueError:  # damaged: as if it were not there
        before = None
    if not isinstance(before, dict):
        return False
    same = 'path' if seen['files'] is None else 'files'
    return before.get(same) == seen[same]


def _portable(settings: Options) -> dict[str, Any]:
    """Settings without paths: another path to the same content is the same build."""
    kept = {
        name: {k: v for k, v in value.items() if k != 'path'}
        if isinstance(value, dict)
        else value
        for name, value in settings.items()
    }
    return json.loads(json.dumps(kept))


def begun_in(output: Path, settings: Options) -> dict[str, Any] | None:
    """The plan of the build that `output` holds, finished or not; None of none.

    Raises UserError where it holds one of other settings, or something else.
    """
    if (output / 'manifest.json').exists():
        begun = dataset.open(output).manifest['plan']
    else:
        begun = storage.read_json(output / PROGRESS / 'plan.json')
    if begun is None:
        others = {path.name for path in output.iterdir()} - {
            PROGRESS,
            croissant.REFINED,
        }
        if others:
            raise command.UserError(
                f'{output} is not empty ({min(others)}) and holds no dataset; choose '
                'an output folder of its own.'
            )
        return None
    _check_settings(output, begun, settings)
    return begun


def _check_settings(output: Path, begun: Options, settings: Options) -> None:
    before, now = storage.flat(begun['settings']), storage.flat(_portable(settings))
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise command.UserError(
                f'{output} holds a build with {name}={before.get(name)!r}, and this '
                f'one has {now.get(name)!r}; delete the folder or choose another.'
            )


def _check_unchanged(output: Path, begun: Options, now: Options) -> None:
    if begun['documents_sha256'] != now['documents_sha256']:
        raise command.UserError(
            f'the documents of the corpus are not those that {output} was begun with '
            f'({begun["documents"]:,} documents of {begun["characters"]:,} characters '
            f'then, {now["documents"]:,} of {now["characters"]:,} now); delete the '
            'folder or choose another.'
        )


def _documents(corpus: Options) -> Iterator[documents.Document]:
    for found in table.collect(corpus):
        if isinstance(found, documents.Document):
            yield found


def _collect(corpus: Options, held_out: Options) -> dict[str, Any]:
    """One pass over the corpus: what it holds, and the digest of it."""
    skipped: Counter[str] = Counter()
    count = 0
    labels: set[str] = set()
    weighted = False
    digest, kind = hashlib.sha256(), None
    tally = command.splat(split_lib.Tally, 'held_out', held_out)
    with progress.stage('collecting') as advance:
        for found in table.collect(corpus):
            if isinstance(found, documents.Skipped):
                skipped[found.reason] += 1
                if skipped[found.reason] <= _NAMED:
                    progress.say(f'warning: skipped {found.source}: {found.reason}')
                continue
            kind = kind or found.kind
            if found.kind != kind:
                raise command.UserError(
                    f'{found.source} is of kind {found.kind} in a corpus of {kind}.'
                )
            digest.update(hashlib.sha256(found.content()).digest())
            tally.add(found)
            if found.label is not None:
                labels.add(found.label)
            weighted = weighted or found.weighted
            count += 1
            advance(1)
    for reason, number in skipped.items():
        progress.say(f'warning: skipped in all: {number:,} of {reason}')
    if kind is None:
        raise command.UserError(
            f'corpus {corpus["name"]!r} has no documents'
            f'{" that could be read" if skipped else ""}; check its options.'
        )
    tally.check()
    return {
        'kind': kind,
        'documents': count,
        'characters': tally.characters,
        'documents_sha256': digest.hexdigest(),
        'labels': _ordered(labels),
        'mask': '<f4' if weighted else dataset.MASK,
        'skipped': dict(skipped),
        'refined': _refined(corpus),
    }


def _refined(corpus: Options) -> dict[str, Any] | None:
    """What was done to the documents before, where `gptjax.data.refine` made them."""
    if corpus['name'] != 'refined':
        return None
    return storage.read_json(Path(corpus['path']) / 'manifest.json')


def _ordered(labels: set[str]) -> list[str]:
    """Labels in the order of their ids: by number where all are, else by name."""
    return sorted(labels, key=int if all(map(str.isdecimal, labels)) else None)


def _tokenizer(
    output: Path, plan: Options, corpus: Options, options: Options
) -> tokenizer_lib.Tokenizer:
    """The tokenizer of the build: made once, and again where it is made from files."""
    folder = output / 'tokenizer'
    if folder.exists() and 'path' not in options:
        return text_table.load(folder)

    def texts() -> Iterator[str]:
        for name, part in _parts(_documents(corpus), plan):
            if name == 'train':
                yield from part.texts()

    if 'name' not in options:
        raise command.UserError(
            'tokenizer lacks a name; add it to the config file, '
            "e.g. tokenizer = dict(name='bytes')."
        )
    progress.say(f'tokenizer: {options["name"]}')
    made = text_table.make(texts, **options)
    if not folder.exists():
        partial = output / PROGRESS / 'tokenizer'
        shutil.rmtree(partial, ignore_errors=True)
        made.save(partial)
        os.replace(partial, folder)
    elif made.digest != text_table.load(folder).digest:
        raise command.UserError(
            f'{output} was begun with another tokenizer than the one that '
            f'{options["path"]} has now; delete the folder or choose another.'
        )
    return made


def _parts(
    found: Iterable[documents.Document], plan: Options
) -> Iterator[tuple[str, documents.Document]]:
    """The parts of the documents with their splits, in order."""
    held_out = plan['settings']['held_out']
    split = split_lib.Split(**held_out, characters=plan['characters'])
    for document in found:
        yield from split(document)


def _write(
    output: Path, plan: Options, corpus: Options, tokenizer: tokenizer_lib.Tokenizer
) -> dict[str, Any]:
    """Writes the shards that are not there yet, and returns the manifest."""
    dtype = '<u2' if tokenizer.vocab_size <= 2**16 else '<u4'
    size = plan['settings']['shard_tokens']
    writers = {
        name: shards.Writer(
            output, output / PROGRESS, name, dtype, size, plan['labels'], plan['mask']
        )
        for name in split_lib.SPLITS
    }
    there = {name: writer.documents for name, writer in writers.items()}
    digest = hashlib.sha256()
    batch: list[tuple[str, documents.Document]] = []

    def flush() -> None:
        encoded = shards.encode(tokenizer, [document for _, document in batch])
        for (name, document), tokens in zip(batch, encoded, strict=True):
            writers[name].add(document, tokens)
        batch.clear()

    def digested(advance: Any) -> Iterator[documents.Document]:
        for document in _documents(corpus):
            digest.update(hashlib.sha256(document.content()).digest())
            yield document
            advance(1)

    characters = 0
    with progress.stage('writing shards', plan['documents']) as advance:
        for name, part in _parts(digested(advance), plan):
            if there[name] > 0:
                there[name] -= 1
                continue
            batch.append((name, part))
            characters += part.size
            if characters >= _BATCH:
                flush()
                characters = 0
        flush()
    if digest.hexdigest() != plan['documents_sha256']:
        raise command.UserError(
            f'the corpus changed while {output} was built of it; delete the folder and '
            'build it again.'
        )
    for writer in writers.values():
        writer.close()
    return _manifest(plan, tokenizer, dtype, writers)


def _manifest(
    plan: Options,
    tokenizer: tokenizer_lib.Tokenizer,
    dtype: str,
    writers: Mapping[str, shards.Writer],
) -> dict[str, Any]:
    kept = ('settings', 'documents', 'characters', 'documents_sha256')
    return {
        'format': dataset.FORMAT,
        'kind': plan['kind'],
        **({'labels': plan['labels']} if plan['labels'] else {}),
        **({'mask': plan['mask']} if plan['mask'] != dataset.MASK else {}),
        'dtype': dtype,
        'plan': {key: plan[key] for key in kept},
        'tokenizer': {
            'name': tokenizer.name,
            'digest': tokenizer.digest,
            'vocab_size': tokenizer.vocab_size,
        },
        'splits': {name: writer.summary() for name, writer in writers.items()},
        'skipped': plan['skipped'],
        **({'refined': plan['refined']} if plan['refined'] else {}),
    }
