"""Corpora, steps and readers by name: each is a function of its options."""

from collections.abc import Callable, Iterator, Mapping
import functools
from typing import Any

from gptjax import command
from gptjax.data import decontaminate, documents
from gptjax.data.clean import table as clean
from gptjax.data.corpora import own, python_docs, python_qa, refined, tfds
from gptjax.data.dedup import table as dedup
from gptjax.data.filters import table as filters
from gptjax.data.origin import table as origin
from gptjax.data.privacy import table as privacy
from gptjax.data.read import table as read

Documents = Iterator[documents.Document | documents.Skipped]

CORPORA: dict[str, Callable[..., Documents]] = {
    'python_docs': python_docs.collect,
    'python_qa': python_qa.collect,
    **{kind: functools.partial(own.collect, kind) for kind in own.CONTENT},
    'tfds': tfds.collect,
    'refined': refined.collect,
}

STEPS: dict[str, Callable[..., Any]] = {
    **read.STEPS,
    **clean.STEPS,
    **filters.STEPS,
    **dedup.STEPS,
    **privacy.STEPS,
    **origin.STEPS,
    'decontaminate': decontaminate.decontaminate,
}

# `READERS[name](path, **options)` has `units()`, the names of independent pieces, and
# `read(unit)`, which yields documents and skipped pieces.
READERS: dict[str, Callable[..., Any]] = dict(read.READERS)


def collect(corpus: Mapping[str, Any]) -> Documents:
    """The documents of `corpus` = {'name': ..., options}; a name may be 'tfds:...'.

    Raises UserError for an unknown corpus or option.
    """
    if 'name' not in corpus:
        raise command.UserError(f'corpus lacks a name; known: {", ".join(CORPORA)}.')
    options = dict(corpus)
    name, colon, dataset = options.pop('name').partition(':')
    if colon:
        options['dataset'] = dataset
    return command.splat(command.lookup(CORPORA, name, 'corpus'), 'corpus', options)
