"""The methods by name, and the command that applies one to a corpus."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
import inspect
import json
import os
from pathlib import Path
from typing import Any

from gptjax import command
from gptjax.data import documents, progress, table
from gptjax.data.augment import back_translation, eda, parts, self_instruct
from gptjax.data.augment.endpoint import Endpoint

# Each yields new documents: of those of a corpus where it takes `found`, by an endpoint
# where it takes `ask`.
METHODS: dict[str, Callable[..., Iterator[documents.Document]]] = {
    'eda': eda.eda,
    'back_translation': back_translation.back_translation,
    'self_instruct': self_instruct.self_instruct,
}


def augment(
    *,
    corpus: Mapping[str, Any] | None,
    originals: bool,
    method: Mapping[str, Any],
    endpoint: Mapping[str, Any] | None,
    output: str,
) -> str:
    """Writes what a method makes into a .jsonl that the corpora read; says how much.

    corpus: as of a build; None for a method that needs none. originals: whether its
    documents are written too, before what is made of them. method: {'name': entry of
    METHODS, and its options}. endpoint: options of `Endpoint`, or None; its answers
    are kept in `output`.answers.jsonl. Raises UserError for wrong options.
    """
    options = dict(method)
    name = options.pop('name', None)
    make = command.lookup(METHODS, name, 'method')
    takes = inspect.signature(make).parameters
    for section, given, needed in (
        ('corpus', corpus, 'found' in takes),
        ('endpoint', endpoint, 'ask' in takes),
    ):
        if (given is not None) != needed:
            raise command.UserError(
                f'the method {name} {"needs" if needed else "has no use for"} '
                f'{section}; {"describe it" if needed else "set it to None"}.'
            )
    path = Path(output)
    raw = (corpus or {}).get('path')
    if raw and path.resolve().is_relative_to(Path(raw).resolve()):
        raise command.UserError(
            f'--output={output} is in corpus.path={raw}, which would then hold what is '
            'made of it; choose another.'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    also: dict[str, Any] = {}
    kept: Iterable[documents.Document] = ()
    if corpus is not None:
        also['found'] = _documents(corpus)
        kept = _documents(corpus) if originals else ()
    if endpoint is not None:
        answers = path.with_name(path.name + '.answers.jsonl')
        also['ask'] = command.splat(Endpoint, 'endpoint', endpoint, ledger=answers)
    made = command.splat(make, 'method', options, **also)
    counts = Counter[str]()
    partial = path.with_name(path.name + '.partial')
    with progress.stage(name) as advance, partial.open('w', encoding='utf-8') as file:
        for what, stream in (('originals', kept), ('made', made)):
            for document in stream:
                file.write(json.dumps(parts.record(document), sort_keys=True) + '\n')
                counts[what] += 1
                advance(1)
    os.replace(partial, path)
    return f'{path}: {counts["made"]:,} made, {counts["originals"]:,} originals'


def _documents(corpus: Mapping[str, Any]) -> Iterator[documents.Document]:
    for one in table.collect(corpus):
        if isinstance(one, documents.Document):
            yield one
        else:
            progress.say(f'warning: skipped {one.source}: {one.reason}')
