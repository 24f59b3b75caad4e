"""What every command line shares: one kind of error, flags, and config files.

A mistake of the user is a `UserError`: it names what it got, what it needs and what to
change, and ends the command with exit code 2 and no traceback.
"""

import argparse
import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import difflib
import importlib.util
import inspect
import math
import os
import pathlib
import signal
import sys
import threading
import time
import types
from typing import Any, Union, get_args, get_origin

from gptjax import platforms

# What a command ends with. Schedulers start a job again on REQUEUE and on HANG.
DONE, USAGE, REQUEUE, HANG, NUMERICS = 0, 2, 75, 76, 77

# What asks a command to stop; the last is what Slurm can send before a time limit.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_TOGETHER = 1.0  # seconds: timeout(1) and launchers may send one request twice
_UNWINDING = 5.0  # seconds for a main thread that may be in a compiler


class Failure(Exception):
    """Ends a command with one message and the exit code `code`."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class UserError(ValueError):
    """A mistake in what the user gave: shown as one message, exit code 2."""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A closing clause for an unknown name: the nearest known one, or all of them.

    What holds the name as one of its words is nearer than what is spelled alike.
    """
    near = [one for one in known if name in one.split('_')]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near:
        return f'known: {", ".join(sorted(known))}.'
    return f'did you mean {" or ".join(map(repr, near))}?'


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

    Raises UserError for an option that is unknown, missing or, where the parameter is
    annotated with int, float, str or bool (or None besides), of another type. There are
    no defaults in sections: what a run does stands in its config.
    """
    parameters = _signature(constructor).parameters
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
    for name, value in options.items():
        if name in parameters:
            check_type(f'{section}.{name}', value, parameters[name].annotation)
    return constructor(**options, **also)


def check_type(name: str, value: Any, needed: Any) -> None:
    """Raises UserError where the `value` of a setting is not of the type `needed`.

    needed: int, float, str or bool, or a union of one of them with None; anything else
    is not checked. A float may be given as an int; a bool is no int.
    """
    union = isinstance(needed, types.UnionType) or get_origin(needed) is Union
    allowed = set(get_args(needed)) if union else {needed}
    plain = allowed - {types.NoneType}
    if len(plain) != 1 or not plain <= {int, float, str, bool}:
        return
    if float in plain:
        allowed.add(int)
    fits = isinstance(value, tuple(allowed))
    if not fits or (isinstance(value, bool) and bool not in allowed):
        (kind,) = plain
        raise UserError(
            f'{name} is {value!r}, of type {type(value).__name__}; it needs to be '
            f'{kind.__name__}{" or None" if types.NoneType in allowed else ""}.'
        )


Range = tuple[str, Callable[[float], bool]]
ABOVE_0: Range = 'above 0', lambda x: 0 < x < math.inf
LEAST_0: Range = 'at least 0', lambda x: 0 <= x < math.inf


def check_ranges(
    section: str, options: Mapping[str, Any], ranges: Mapping[str, Range]
) -> None:
    """Raises UserError for a number that is not in the range of its name."""
    for name, value in options.items():
        if name not in ranges or not isinstance(value, int | float):
            continue
        needed, fits = ranges[name]
        if not fits(value):
            raise UserError(f'{section}.{name} is {value!r}; it needs to be {needed}.')


def _signature(constructor: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(constructor, eval_str=True)
    except (NameError, AttributeError, TypeError):  # a name for type checkers alone
        return inspect.signature(constructor)


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
    """Parses flags and prepares the platform, before anything imports JAX.

    With `config`, `flags.config` becomes the ConfigDict.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    overrides = [a for a in argv if a.startswith('--config.')]
    flags = made.parse_args([a for a in argv if not a.startswith('--config.')])
    platforms.prepare()
    if hasattr(flags, 'config'):
        flags.config = load_config(flags.config, overrides)
    elif overrides:
        made.error(f'{overrides[0]}: this command takes no config')
    return flags


def load_config(path: str, overrides: Sequence[str] = ()) -> Any:
    """The ConfigDict of `FILE.py[:ARG]`, with `--config.a.b=value` overrides applied.

    A config may build on another, `from configs import x`: `configs` is looked for in
    the folders above the file, then in the working directory.
    Raises UserError for a missing file, an argument that it does not take, an unknown
    setting or a value of another type; what the file itself raises is passed on.
    """
    file, _, argument = path.partition(':')
    if not os.path.isfile(file):
        raise UserError(
            f'no config file {file!r}; the known-good ones are in configs/.'
        )
    spec = importlib.util.spec_from_file_location('gptjax_config', file)
    if spec is None or spec.loader is None:
        raise UserError(f'{file} is not a Python file; a config file ends in .py.')
    module = importlib.util.module_from_spec(spec)
    above = [str(folder) for folder in pathlib.Path(file).resolve().parents]
    roots = [folder for folder in above if os.path.isdir(f'{folder}/configs')][:1]
    roots.append(os.getcwd())
    sys.path[:0] = roots
    try:
        spec.loader.exec_module(module)
        config = _call(module, file, argument)
    finally:
        for root in roots:
            sys.path.remove(root)
    for override in overrides:
        _apply(config, override)
    return config


def _call(module: types.ModuleType, file: str, argument: str) -> Any:
    if not hasattr(module, 'get_config'):
        raise UserError(f'{file} has no get_config(); a config file defines one.')
    arguments = [argument] if argument else []
    signature = inspect.signature(module.get_config)
    try:
        signature.bind(*arguments)
    except TypeError:
        taken = ', '.join(signature.parameters) or 'no argument'
        got = repr(argument) if argument else 'none'
        raise UserError(
            f'get_config of {file} takes {taken}, and got {got}; write '
            f'--config={file}{":ARG" if signature.parameters else ""}.'
        ) from None
    return module.get_config(*arguments)


def _apply(config: Any, override: str) -> None:
    name, equals, text = override.removeprefix('--config.').partition('=')
    if not equals:
        raise UserError(f'{override} has no value; write --config.{name}=VALUE.')
    *sections, last = name.split('.')
    node = config
    for depth, section in enumerate([*sections, last]):
        inside = _section(node)
        if inside is None:
            raise UserError(
                f'{".".join(sections[:depth])} is a value, not a section of settings.'
            )
        if section not in inside:
            raise UserError(
                f'unknown setting {name!r}; {did_you_mean(name, _names(config))}'
            )
        if depth < len(sections):
            node = inside[section]
    below = _section(inside[last])
    if below is not None:
        raise UserError(f'{name} is a section; set one of {", ".join(below)}.')
    node[last] = _parse_as(node[last], text, name)


def _section(node: Any) -> Any:
    """Settings by name, as a mapping, or None for a value.

    A tuple of sections that say their name is a section too: they are called by that,
    and the second of one name NAME-2.
    """
    if hasattr(node, 'keys'):
        return node
    named = isinstance(node, tuple) and all(
        isinstance(one, Mapping) and 'name' in one for one in node
    )
    if not named or not node:
        return None
    names = [one['name'] for one in node]
    return {label: node[i] for i, label in enumerate(numbered(names))}


def numbered(names: Sequence[str]) -> list[str]:
    """The names, of which the second of one name is NAME-2, the third NAME-3."""
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [
        name if count == 1 else f'{name}-{count}'
        for name, count in zip(names, counts, strict=True)
    ]


def _names(config: Any, prefix: str = '') -> list[str]:
    names: list[str] = []
    for key, value in (_section(config) or {}).items():
        inside = _names(value, f'{prefix}{key}.')
        names += inside or [prefix + key]
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
    if old is None:
        return value
    if isinstance(old, float) and type(value) is int:
        return float(value)
    if type(value) is not type(old):
        raise UserError(
            f'{name} is {text!r}, which is not {type(old).__name__}; it was {old!r}.'
        )
    return value


def run(main: Callable[[], Any]) -> None:
    """Runs an entry point, which ends by one message and an exit code of the table.

    SIGTERM and Ctrl-C are 75, within 5 s wherever they find it: what is finished is
    kept, and the same command does the rest.
    """
    try:
        with heeding(_interrupt, _end_soon):
            main()
    except UserError as error:
        print(f'gptjax: {error}', file=sys.stderr)
        sys.exit(USAGE)
    except Failure as failure:
        print(f'gptjax: {failure}', file=sys.stderr)
        sys.exit(failure.code)
    except KeyboardInterrupt:
        sys.exit(REQUEUE)
    except BrokenPipeError:  # the reader of our output has gone: `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    finally:  # what is torn down from here on ends without a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def heeding(
    handler: Callable[[int, types.FrameType | None], None],
    asked: Callable[[str], None],
) -> Iterator[None]:
    """Calls `asked`, in a thread, with the name of the first of SIGNALS that comes.

    handler: `passed`, or another of this module, for the main thread, where it may
    have to wait for a compiler. A second signal, a second later, ends the process at
    once. Nothing in another thread than the main one: the system has handlers there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # The system writes the number of a signal into a pipe, whatever Python does.
    out, into = os.pipe()
    os.set_blocking(into, False)
    wakeup = signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    threading.Thread(target=_heed, args=(out, asked), daemon=True).start()
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one or signal.SIG_DFL)
        signal.set_wakeup_fd(wakeup)
        os.close(into)  # which ends the thread


def _heed(out: int, asked: Callable[[str], None]) -> None:
    first = None
    while read := os.read(out, 1):
        number, now = read[0], time.monotonic()
        # What has handlers of its own, as the server, is left to them.
        if number not in SIGNALS or signal.getsignal(number) not in _OURS:
            continue
        if first is None:
            first, name = now, signal.Signals(number).name
            threading.Thread(target=asked, args=[name], daemon=True).start()
        elif now - first > _TOGETHER and number != signal.SIGUSR1:
            os._exit(128 + number)
    os.close(out)


def passed(signum: int, frame: types.FrameType | None) -> None:
    """A handler that leaves it all to `heeding`."""


def _interrupt(signum: int, frame: types.FrameType | None) -> None:
    while frame is not None:  # these lose what is raised in them: once more, later
        if frame.f_code.co_name in ('_xla_gc_callback', '__del__'):
            threading.Timer(0.01, os.kill, [os.getpid(), signum]).start()
            return
        frame = frame.f_back
    for number in SIGNALS:  # what is unwound is not interrupted
        signal.signal(number, passed)
    raise KeyboardInterrupt


_OURS = (passed, _interrupt)


def _end_soon(name: str) -> None:
    time.sleep(_UNWINDING)
    os._exit(REQUEUE)
