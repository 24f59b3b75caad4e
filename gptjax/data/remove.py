"""A dataset without some of its documents, out of its shards: no raw text is read.

All other documents keep their tokens, their order and their split. The tokenizer stays:
one that was trained on the documents may know words of theirs, and only a build from
the raw text makes it anew.
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses
from pathlib import Path
import shutil
from typing import Any

from gptjax import command
from gptjax.data import (
    build,
    dataset,
    documents,
    ledger,
    progress,
    shards,
    storage,
    trace,
)

_COUNTS = ('documents', 'bytes', 'tokens')


def remove(
    data: Path | str,
    wanted: ledger.Wanted,
    output: Path | str,
    workdirs: Sequence[Path | str],
) -> str:
    """Writes the dataset `data` without what is `wanted`; says which runs learned it.

    output: a folder of its own. One that a kill left unfinished is finished. Of what is
    removed it holds counts, and of documents that were named, the keys of their ids; it
    does not hold the refined documents, and a tokenizer as it was.
    workdirs: runs that are looked through, as `trace` does.

    Raises UserError where the dataset has no such document, or no other one.
    """
    built, output = dataset.open(data), Path(output)
    if not wanted:
        raise command.UserError(
            'remove needs one of --source=NAME, --document=ID and --licence=X.'
        )
    found = ledger.find(built, wanted)
    left = built.manifest['splits']['train']['documents']
    if left == sum(entry.split == 'train' for entry in found):
        raise command.UserError(
            f'without {wanted} the train split of {built.folder} would be empty.'
        )
    made = without(built, wanted, output)
    told = made.manifest['removed'][-1]
    lines = [
        f'{output}: {told["documents"]:,} documents removed, {told["bytes"]:,} bytes '
        f'and {told["tokens"]:,} tokens of text',
    ]
    if 'vocab_size' in made.manifest['plan']['settings']['tokenizer']:
        lines.append(
            'the tokenizer is as it was, trained on them too; build from the raw text '
            'for a new one'
        )
    for seen in trace.runs(built, found, workdirs):
        affected = 'affected' if seen.affected else 'not affected'
        affected = 'not known' if seen.unknown and not seen.affected else affected
        lines.append(f'\n{affected}: {seen}')
    return '\n'.join(lines)


def without(
    built: dataset.Dataset, wanted: ledger.Wanted, output: Path
) -> dataset.Dataset:
    """Builds the dataset without what is wanted, or opens it where it was built."""
    said = {'from': built.manifest['digest'], 'wanted': _said(wanted)}
    plan = {'settings': {**built.manifest['plan']['settings'], 'removed': said}}
    with storage.lock(output):
        build.begun_in(output, plan['settings'])
        if not (output / 'manifest.json').exists():
            (output / build.PROGRESS).mkdir(exist_ok=True)
            storage.write_json(output / build.PROGRESS / 'plan.json', plan)
            manifest = _write(built, wanted, output) | {'plan': plan}
            manifest['removed'][-1] |= said
            shutil.copytree(
                built.folder / 'tokenizer', output / 'tokenizer', dirs_exist_ok=True
            )
            build.finish(output, manifest)
        shutil.rmtree(output / build.PROGRESS, ignore_errors=True)
        return dataset.open(output)


def _said(wanted: ledger.Wanted) -> list[list[str]]:
    """What was asked for, as the manifest says it: an id only by its key."""
    named = [
        ['document', documents.key(identity).hex()] for identity in wanted.documents
    ]
    named += [['source', source] for source in wanted.sources]
    return named + [['licence', licence] for licence in wanted.licences]


def _write(
    built: dataset.Dataset, wanted: ledger.Wanted, output: Path
) -> dict[str, Any]:
    """Writes the shards that are not there yet, and returns the manifest."""
    before = {k: v for k, v in built.manifest.items() if k != 'digest'}
    size = before['plan']['settings']['shard_tokens']
    gone: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
    splits = {}
    for split in before['splits']:
        writer = shards.Writer(
            output, output / build.PROGRESS, split, before['dtype'], size
        )
        there = writer.documents
        with progress.stage(f'writing {split}') as advance:
            for entry, encoded, label in shards.read(built, split):
                advance(1)
                if wanted.fits(entry):
                    gone.update(documents=1, bytes=entry.bytes, tokens=entry.tokens)
                elif there:
                    there -= 1
                else:
                    writer.append(dataclasses.asdict(entry), encoded, label)
        writer.close()
        splits[split] = writer.summary()
    removed = [*before.get('removed', ()), dict(gone)]
    return {**before, 'splits': splits, 'removed': removed}
