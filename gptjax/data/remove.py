"""A dataset without some of its documents, out of its shards: no raw text is read.

All other documents keep their tokens, their order and their split. The tokenizer stays:
one that was trained on the documents may know words of theirs, and only a build from
the raw text makes it anew.
"""

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


def remove(
    data: Path | str,
    wanted: ledger.Wanted,
    output: Path | str,
    workdirs: Sequence[Path | str],
) -> str:
    """Writes the dataset `data` without what is `wanted`; says which runs learned it.

    output: a folder of its own. One that a kill left unfinished is finished. Of what is
    removed it holds counts, and of documents that were named, the keys of their ids; it
    does not hold the refined documents, and a tokenizer as it was. What was left out
    as a duplicate of a removed document stays out.
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
    said = {'from': built.manifest['digest'], 'wanted': _said(wanted, found)}
    gone = {
        'documents': len({entry.id for entry in found}),
        'bytes': sum(entry.bytes for entry in found),
        'tokens': sum(entry.tokens for entry in found),
    }
    _build(built, wanted, output, said, gone)
    lines = [
        f'{output}: {gone["documents"]:,} documents removed, {gone["bytes"]:,} bytes '
        f'and {gone["tokens"]:,} tokens of text',
    ]
    if 'vocab_size' in built.manifest['plan']['settings']['tokenizer']:
        lines.append(
            'the tokenizer is as it was, trained on them too; build from the raw text '
            'for a new one'
        )
    for seen in trace.runs(built, found, workdirs):
        affected = 'affected' if seen.affected else 'not affected'
        affected = 'not known' if seen.unknown and not seen.affected else affected
        lines.append(f'\n{affected}: {seen}')
    return '\n'.join(lines)


def _said(
    wanted: ledger.Wanted, found: Sequence[ledger.Entry]
) -> list[tuple[str, str]]:
    """What was asked for, as the manifest says it: an id only by its key."""
    keys = {entry.id: documents.key(entry.id).hex() for entry in found}
    return [
        (kind, keys.get(name, name) if kind == 'document' else name)
        for kind, name in wanted.named
    ]


def _build(
    built: dataset.Dataset,
    wanted: ledger.Wanted,
    output: Path,
    said: dict[str, Any],
    gone: dict[str, int],
) -> None:
    """Builds the dataset without what is wanted, unless that was built before."""
    before = {k: v for k, v in built.manifest.items() if k != 'digest'}
    plan = {'settings': {**before['plan']['settings'], 'removed': said}}
    work = output / build.PROGRESS
    with storage.lock(output):
        build.begun_in(output, plan['settings'])
        if not (output / 'manifest.json').exists():
            work.mkdir(exist_ok=True)
            storage.write_json(work / 'plan.json', plan)
            splits = {s: _split(built, s, wanted, output) for s in before['splits']}
            removed = [*before.get('removed', ()), {**gone, **said}]
            tokenizer = built.folder / 'tokenizer'
            shutil.copytree(tokenizer, output / 'tokenizer', dirs_exist_ok=True)
            made = {'plan': plan, 'splits': splits, 'removed': removed}
            build.finish(output, {**before, **made})
        shutil.rmtree(work, ignore_errors=True)


def _split(
    built: dataset.Dataset, split: str, wanted: ledger.Wanted, output: Path
) -> dict[str, Any]:
    """Writes the shards of a split that are not there yet; its part of the manifest."""
    size = built.manifest['plan']['settings']['shard_tokens']
    dtype = built.manifest['dtype']
    writer = shards.Writer(
        output, output / build.PROGRESS, split, dtype, size, mask=built.mask
    )
    there = writer.documents
    with progress.stage(f'writing {split}') as advance:
        for entry, encoded, label in shards.read(built, split):
            advance(1)
            if wanted.fits(entry):
                continue
            if there:
                there -= 1
            else:
                writer.append(dataclasses.asdict(entry), encoded, label)
    writer.close()
    return writer.summary()
