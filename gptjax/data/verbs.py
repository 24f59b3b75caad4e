"""The commands of `python -m gptjax.data`: flags, then one call each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
import shlex
from typing import Any

from gptjax import command

_DATA = {'--data': dict(required=True, metavar='DIR', help='a built dataset')}
_WORKDIR = {'--workdir': dict(action='append', default=[], metavar='DIR')}


def _output(metavar: str) -> dict[str, dict[str, Any]]:
    return {'--output': dict(required=True, metavar=metavar)}


def _build(flags: Any) -> str | None:
    from gptjax.data import build

    options = flags.config.to_dict()
    if 'path' in (tokenizer := options['tokenizer']):
        _check_exists('tokenizer', tokenizer['path'])
    if 'steps' in options:
        folder = f'{flags.output}/documents'
        names = [
            n for n in ('path', 'read', 'steps', 'licences', 'run') if n in options
        ]
        given = {name: options.pop(name) for name in names}
        if not _refine(flags, folder, given)['documents']:
            raise command.UserError(
                f'no document is left in {folder}; the table above says why.'
            )
        if '://' in flags.output:
            return (
                f'{folder}: copy it to a disk, and build with '
                "corpus = dict(name='refined', path=...)"
            )
        options['corpus'] = {'name': 'refined', 'path': folder}
    elif flags.runner == 'beam':
        raise command.UserError('--runner=beam needs a config with steps.')
    made = command.splat(build.build, 'config', options, output=flags.output)
    return f'{made.summary()}\n\n{made.folder / "manifest.json"}'


def _check_exists(section: str, path: str) -> None:
    """Before the documents are refined, which may take days."""
    if not path or not Path(path).exists():
        raise command.UserError(
            f'{section}.path is {path!r}, which does not exist; set '
            f'--config.{section}.path=DATASET.'
        )


def _refine(flags: Any, folder: str, given: dict[str, Any]) -> dict[str, Any]:
    if flags.runner == 'beam':
        from gptjax.data.refine import beam

        more = {'output': folder, 'flags': shlex.split(flags.beam_options)}
        return command.splat(beam.refine, 'config', given, **more)
    from gptjax.data.refine import runner

    return command.splat(runner.refine, 'config', given, output=folder)


def _explain(flags: Any) -> str:
    from gptjax.data.refine import explain

    return explain.explain(flags.output, flags.explain)


def _splat(function: Callable[..., Any], flags: Any) -> Any:
    options = flags.config.to_dict()
    return command.splat(function, 'config', options, output=flags.output)


def _fetch(flags: Any) -> None:
    from gptjax.data.origin import fetch

    _splat(fetch.fetch, flags)


def _quality(flags: Any) -> str:
    from gptjax.data.clean import quality

    return quality.summary(_splat(quality.train, flags))


def _augment(flags: Any) -> str:
    from gptjax.data.augment import table

    return _splat(table.augment, flags)


def _trace(flags: Any) -> str:
    from gptjax.data import trace

    return trace.trace(flags.data, flags.document, flags.source, flags.workdir)


def _remove(flags: Any) -> str:
    from gptjax.data import ledger, remove

    wanted = ledger.Wanted(flags.document, flags.source, flags.licence)
    return remove.remove(flags.data, wanted, flags.output, flags.workdir)


def _diff(flags: Any) -> str:
    from gptjax.data import diff, storage

    found = diff.diff(flags.old, flags.new)
    if flags.output is not None:
        storage.write_json(Path(flags.output), found)
    return diff.text(found)


def _tfds(flags: Any) -> str:
    from gptjax.data import tfds_folder

    return tfds_folder.write(flags.data, flags.data_dir, flags.name)


def _card(flags: Any) -> str:
    from gptjax.data import card

    return card.rewrite(flags.data)


@dataclass(frozen=True)
class Verb:
    """A command: what it does, its flags with options of argparse, and its call."""

    does: str
    call: Callable[[Any], str | None]
    flags: Mapping[str, dict[str, Any]]
    config: bool = False


BUILD = Verb(
    'builds a dataset; with steps in its config, of raw files that it refines first',
    _build,
    {
        '--output': dict(
            required=True, metavar='DIR', help='the folder to build it in'
        ),
        '--runner': dict(
            choices=('local', 'beam'), default='local',
            help='what runs the steps: processes here, or Apache Beam',
        ),
        '--beam_options': dict(default='', help="flags of Beam, '--runner=...'"),
    },
    True,
)  # fmt: skip
EXPLAIN = Verb(
    'says what happened to a document', _explain,
    {'--explain': dict(required=True, metavar='ID'), **_output('DIR')},
)  # fmt: skip
VERBS = {
    'fetch': Verb(
        'fetches addresses politely, into a WARC file',
        _fetch, _output('FILE.warc.gz'), True,
    ),
    'quality': Verb(
        'trains a classifier of your own labels, for the step `quality`',
        _quality, _output('FILE.npz'), True,
    ),
    'augment': Verb(
        'makes more fine-tuning data out of some',
        _augment, _output('FILE.jsonl'), True,
    ),
    'trace': Verb(
        'tells the shards of a document, and the steps and checkpoints that saw it',
        _trace,
        {**_DATA, '--document': dict(metavar='ID'), '--source': {}, **_WORKDIR},
    ),
    'remove': Verb(
        'writes a dataset without some of its documents',
        _remove,
        {
            **_DATA, **_output('DIR'), **_WORKDIR,
            **{
                f'--{name}': dict(action='append', default=[])
                for name in ('document', 'source', 'licence')
            },
        },
    ),
    'diff': Verb(
        'tells what came, went and changed between two versions, and why',
        _diff,
        {
            '--old': dict(required=True, metavar='DIR'),
            '--new': dict(required=True, metavar='DIR'),
            '--output': dict(metavar='FILE.json', help='all of it'),
        },
    ),
    'tfds': Verb(
        'writes a dataset so that tfds.load reads it',
        _tfds,
        {**_DATA, '--data_dir': dict(required=True), '--name': dict(required=True)},
    ),
    'card': Verb('writes the data card again', _card, _DATA),
}  # fmt: skip


def run(argv: Sequence[str]) -> None:
    """The verb that the first argument names, or a build, or what --explain asks."""
    name, *rest = argv if argv and argv[0][:1] != '-' else ('', *argv)
    if name:
        command.lookup(VERBS, name, 'verb')
    verb = VERBS.get(name, BUILD)
    if not name and any(one.partition('=')[0] == '--explain' for one in argv):
        verb = EXPLAIN
    does = f'{verb.does[0].upper()}{verb.does[1:]}.'
    parser = command.parser(f'data {name}'.strip(), does, verb.config)
    if verb is BUILD:
        parser.epilog = f'{parser.epilog}\n--explain=ID --output=DIR {EXPLAIN.does}.\n'
        parser.epilog += '\n'.join(f'{n:8} {one.does}' for n, one in VERBS.items())
    for flag, options in verb.flags.items():
        parser.add_argument(flag, **options)
    told = verb.call(command.parse(parser, rest))
    if told is not None:
        print(told)
