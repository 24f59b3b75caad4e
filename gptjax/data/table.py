"""The corpora by name: each is a function of its options that yields documents."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gptjax import command
from gptjax.data import documents
from gptjax.data.corpora import (
    chat,
    labelled,
    pairs,
    python_docs,
    python_qa,
    text,
    tfds,
    translation,
)

Documents = Iterator[documents.Document | documents.Skipped]

CORPORA: dict[str, Callable[..., Documents]] = {
    'python_docs': python_docs.collect,
    'python_qa': python_qa.collect,
    'text': text.collect,
    'chat': chat.collect,
    'pairs': pairs.collect,
    'labelled': labelled.collect,
    'translation': translation.collect,
    'tfds': tfds.collect,
}


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
