"""The language reference and the docstrings that every CPython carries (PSF-2.0).

One document for each topic of `help()` and for each module of the standard library. A
module is held out here and in python_qa, or in neither, if the fraction is the same.
"""

from collections.abc import Iterator
import importlib

from gptjax import command
from gptjax.data import documents
from gptjax.data.corpora import docstrings

LICENCE = 'PSF-2.0'
_SHORTEST = 200  # characters; below are codecs and shims that say next to nothing


def collect() -> Iterator[documents.Document]:
    """Documents of the running interpreter: the same for the same release of CPython.

    Raises UserError where the interpreter comes without its library or its topics.
    """
    try:
        topics = importlib.import_module('pydoc_data.topics').topics
    except ImportError:
        raise command.UserError(
            'this interpreter has no pydoc_data.topics, the language reference of '
            'which this corpus is made; use a CPython with its whole library.'
        ) from None
    source = f'{docstrings.release()}/Lib/pydoc_data/topics.py'
    for name, text in sorted(topics.items()):
        yield _document(f'topic:{name}', source, text.strip() + '\n')
    for module in docstrings.modules():
        text = layout(module)
        if len(text) >= _SHORTEST:
            yield _document(module.name, module.source, text, unit=module.name)


def _document(
    name: str, source: str, text: str, unit: str | None = None
) -> documents.Document:
    identity = documents.stable_id(f'python_docs:{name}')
    return documents.Document(identity, source, LICENCE, text=text, unit=unit)


def layout(module: docstrings.Module) -> str:
    """The module's name, then for each object 'name(signature)' and its docstring."""
    parts = []
    for entry in module.entries:
        title = f'class {entry.name}' if entry.kind == 'class' else entry.name
        parts.append(f'{title}{entry.signature}\n\n{entry.docstring.strip()}\n')
    return '\n'.join(parts)
