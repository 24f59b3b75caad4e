"""What every command line shares: one kind of error, flags, and config files.

A mistake of the user is a `UserError`: it names what it got, what it needs and what to
change, and ends the command with exit code 2 and no traceback.
"""

import argparse
import ast
from collections.abc import Callable, Mapping, Sequence
import difflib
import importlib.util
import inspect
import os
import sys
from typing import Any


class UserError(ValueError):
    """A mistake in what the user gave: shown as one message, exit code 2."""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A closing clause for an unknown name: the nearest known one, or all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (
        f'did you mean {near[0]!r}?' if near else f'known: {", ".join(sorted(known))}.'
    )


def lookup(table: Mapping[str, Any], name: str, what: str) -> Any:
    """The entry `name` of a table of `what`s, or a UserError with the nearest name."""
    if name not in table:
        raise UserError(f'unknown {what} {name!r}; {did_you_mean(name, list(table))}')
    return table[name]


def splat(
    constructor: Callable[..., Any],
    section: str,
    options: Mapping[str, Any],
    **also: Any,
) -> Any:
    """`constructor(**options, **also)`, where every option must be a parameter of it.

    Raises UserError for an option that is unknown or missing. There are no defaults in
    sections: what a run does stands in its config.
    """
    parameters = inspect.signature(constructor).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [name for name in parameters if name not in also]
    for name in options:
        if name not in known and not open_ended:
            raise UserError(
                f'unknown option {section}.{name}; {did_you_mean(name, known)}'
            )
    missing = [
        name
        for name, p in parameters.items()
        if name in known
        and name not in options
        and p.default is p.empty
        and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if missing:
        raise UserError(
            f'{section} lacks {", ".join(missing)}; add it to the config file.'
        )
    return constructor(**options, **also)


def parser(
    prog: str, description: str, config: bool = False
) -> argparse.ArgumentParser:
    """The parser of `python -m gptjax.PROG`; with `config`, it takes a config file."""
    made = argparse.ArgumentParser(
        prog=f'python -m gptjax.{prog}',
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if config:
        made.add_argument(
            '--config',
            required=True,
            metavar='FILE.py[:ARG]',
            help='a Python file with get_config()',
        )
        made.epilog = (
            '--config.SECTION.NAME=VALUE overrides a setting of the config file.'
        )
    return made


def parse(
    made: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parses flags; with `config`, `flags.config` becomes the ConfigDict."""
    argv = list(sys.argv[1:] if argv is None else argv)
    overrides = [a for a in argv if a.startswith('--config.')]
    flags = made.parse_args([a for a in argv if not a.startswith('--config.')])
    if hasattr(flags, 'config'):
        flags.config = load_config(flags.config, overrides)
    elif overrides:
        made.error(f'{overrides[0]}: this command takes no config')
    return flags


def load_config(path: str, overrides: Sequence[str] = ()) -> Any:
    """The ConfigDict of `FILE.py[:ARG]`, with `--config.a.b=value` overrides applied.

    Raises UserError for a missing file, an unknown setting or a value of another type.
    """
    file, _, argument = path.partition(':')
    if not os.path.isfile(file):
        raise UserError(
            f'no config file {file!r}; the known-good ones are in configs/.'
        )
    spec = importlib.util.spec_from_file_location('gptjax_config', file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(
        0, os.getcwd()
    )  # a config may build on another: `from configs import x`
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, 'get_config'):
            raise UserError(f'{file} has no get_config(); a config file defines one.')
        config = module.get_config(*([argument] if argument else []))
    finally:
        sys.path.pop(0)
    for override in overrides:
        _apply(config, override)
    return config


def _apply(config: Any, override: str) -> None:
    name, equals, text = override.removeprefix('--config.').partition('=')
    if not equals:
        raise UserError(f'{override} has no value; write --config.{name}=VALUE.')
    *sections, last = name.split('.')
    node = config
    for depth, section in enumerate([*sections, last]):
        if not isinstance(node, Mapping) and not hasattr(node, 'keys'):
            raise UserError(
                f'{".".join(sections[:depth])} is a value, not a section of settings.'
            )
        if section not in node:
            raise UserError(
                f'unknown setting {name!r}; {did_you_mean(name, _names(config))}'
            )
        if depth < len(sections):
            node = node[section]
    if hasattr(node[last], 'keys'):
        raise UserError(
            f'{name} is a section; set one of {", ".join(node[last].keys())}.'
        )
    node[last] = _parse_as(node[last], text, name)


def _names(config: Any, prefix: str = '') -> list[str]:
    names: list[str] = []
    for key, value in config.items():
        names += (
            _names(value, f'{prefix}{key}.')
            if hasattr(value, 'keys')
            else [prefix + key]
        )
    return names


def _parse_as(old: Any, text: str, name: str) -> Any:
    """`text` as a value of the type of `old`; where that is None, any literal."""
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        lowered = {'true': True, 'false': False, 'none': None}
        value = lowered.get(text.lower(), text)
    if old is None or value is None:
        return value
    if isinstance(old, float) and type(value) is int:
        return float(value)
    if type(value) is not type(old):
        raise UserError(
            f'{name} is {text!r}, which is not {type(old).__name__}; it was {old!r}.'
        )
    return value


def run(main: Callable[[], Any]) -> None:
    """Runs an entry point: a UserError is one message and exit code 2, Ctrl-C 130."""
    try:
        main()
    except UserError as error:
        print(f'gptjax: {error}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone: `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
