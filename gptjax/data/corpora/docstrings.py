"""The docstrings of the running CPython, read from its source files with `ast`.

No module of the standard library is imported to be read: importing has effects. What is
compiled into the interpreter has no source, and is asked through `inspect`.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
import functools
import importlib
import inspect
from pathlib import Path
import platform
import sys
import sysconfig
from typing import Any
import warnings

from gptjax import command

# Tests, private interiors, and what is not CPython's own text.
_LEFT_OUT = {'test', 'tests', 'idlelib', 'pydoc_data', 'ensurepip', 'site-packages'}
_LEFT_OUT |= {'dist-packages', '__pycache__', '__phello__'}

# Built-in modules whose contents are known under the name of another module.
_KNOWN_AS = {'builtins': '', 'posix': 'os.', '_collections': 'collections.'}
_KNOWN_AS |= {'_functools': 'functools.', '_io': 'io.', '_operator': 'operator.'}
_KNOWN_AS |= {'_codecs': 'codecs.', '_signal': 'signal.', '_weakref': 'weakref.'}


@dataclass(frozen=True)
class Entry:
    """One documented object: `name` is qualified, `signature` is '' or '(a, b=1)'."""

    name: str
    kind: str  # 'module', 'class' or 'function'
    signature: str
    docstring: str


@dataclass(frozen=True)
class Module:
    """The documented objects of a module, in the order of its source; itself first."""

    name: str
    source: str
    entries: tuple[Entry, ...]


def release() -> str:
    """'cpython-3.11.7': the first part of the source of every document from here."""
    return f'cpython-{platform.python_version()}'


@functools.cache
def modules() -> tuple[Module, ...]:
    """Every documented module: the built-in ones, then the standard library by path.

    Raises UserError where the interpreter comes without the sources of its library.
    """
    library = Path(sysconfig.get_path('stdlib'))
    found = [_built_in(name) for name in sorted(sys.builtin_module_names)]
    paths = [path.relative_to(library) for path in library.rglob('*.py')]
    for path in sorted(paths):
        if not _LEFT_OUT.intersection(path.parts):
            found.append(_parsed(library, path))
    if not any(module.name == 'textwrap' for module in found):
        raise command.UserError(
            f'{library} has no sources of the standard library, of which this corpus '
            'is made; use a CPython that comes with them.'
        )
    return tuple(module for module in found if module.entries)


def _parsed(library: Path, path: Path) -> Module:
    parts = path.with_suffix('').parts
    name = '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # invalid escapes in old sources
        try:
            tree = ast.parse((library / path).read_bytes())
        except SyntaxError:  # the broken examples that a library may carry
            tree = ast.Module(body=[], type_ignores=[])
    source = f'{release()}/Lib/{path.as_posix()}'
    return Module(name, source, tuple(_documented(tree, name)))


def _documented(node: Any, name: str) -> Iterator[Entry]:
    """The entries of a module or class and of what is defined in it, in order."""
    docstring = ast.get_docstring(node)
    if docstring and docstring.strip():
        if isinstance(node, ast.Module):
            yield Entry(name, 'module', '', docstring)
        elif isinstance(node, ast.ClassDef):
            bases = ', '.join(ast.unparse(base) for base in node.bases)
            yield Entry(name, 'class', f'({bases})' if bases else '', docstring)
        else:
            yield Entry(name, 'function', f'({ast.unparse(node.args)})', docstring)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for child in _definitions(node):
            yield from _documented(child, f'{name}.{child.name}')


def _definitions(node: ast.AST) -> Iterator[Any]:
    """Functions and classes in the body of `node`, also below `if` and `try`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child
        elif isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _definitions(child)


def _built_in(name: str) -> Module:
    module = importlib.import_module(name)
    entries = []
    if module.__doc__:
        entries.append(Entry(name, 'module', '', inspect.cleandoc(module.__doc__)))
    for path, thing in sorted(_members(module, name), key=lambda pair: pair[0]):
        docstring = inspect.cleandoc(thing.__doc__)
        kind = 'class' if inspect.isclass(thing) else 'function'
        entries.append(Entry(path, kind, _signature(thing, kind), docstring))
    return Module(name, f'{release()}/{name}', tuple(entries))


def _members(module: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Documented classes, functions and methods of a built-in module, once each."""
    prefix = _KNOWN_AS.get(name, f'{name}.')
    for key, thing in vars(module).items():
        if not isinstance(thing.__doc__, str) or key.endswith('hook'):
            continue  # a hook of sys may be anything by now
        if inspect.isclass(thing):
            if f'{thing.__module__}.' not in (f'{name}.', prefix):
                continue  # another module's
            yield prefix + key, thing
            for attribute, member in vars(thing).items():
                # Special methods of all types say the same: 'Return len(self).'
                named = inspect.isroutine(member) and not attribute.startswith('__')
                if named and isinstance(member.__doc__, str):
                    yield f'{prefix}{key}.{attribute}', member
        elif inspect.isroutine(thing):
            yield prefix + key, thing


def _signature(thing: Any, kind: str) -> str:
    if kind == 'class':
        return ''
    try:
        return str(inspect.signature(thing))
    except (ValueError, TypeError):  # compiled without one; the docstring may tell
        return ''
