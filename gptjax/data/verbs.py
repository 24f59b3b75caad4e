"""The commands of `python -m gptjax.data`: flags, then one call each."""

from collections.abc import Callable, Sequence
import shlex
from typing import Any

from gptjax import command

Argv = Sequence[str]


def build(argv: Argv) -> None:
    """Builds a dataset from a config, of a corpus or of raw files that are refined."""
    parser = command.parser(
        'data',
        'Builds a dataset: shards, a manifest and a card. A config with steps refines '
        'raw files into DIR/documents first.',
        True,
    )
    parser.epilog = (
        f'{parser.epilog}\n--explain=ID --output=DIR: what happened to a document.\n'
        + '\n'.join(f'{name:8} {one.__doc__}' for name, one in VERBS.items())
    )
    add = parser.add_argument
    add('--output', required=True, metavar='DIR', help='the folder to build it in')
    add('--runner', choices=('local', 'beam'), default='local',
        help='what runs the steps: processes here, or Apache Beam')  # fmt: skip
    add('--beam_options', default='', metavar="'--runner=...'", help='flags of Beam')
    flags = command.parse(parser, argv)

    from gptjax.data import build as build_lib
    from gptjax.data import progress

    options = flags.config.to_dict()
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
        options['corpus'] = {'name': 'refined', 'path': folder}
    elif flags.runner == 'beam':
        raise command.UserError('--runner=beam needs a config with steps.')
    if '://' in flags.output:
        progress.say(
            f'refined into {folder}; copy it to a disk, and build with '
            "corpus = dict(name='refined', path=...)."
        )
        return
    made = command.splat(build_lib.build, 'config', options, output=flags.output)
    print(made.summary())
    print(f'\n{made.folder / "manifest.json"}')


def _refine(flags: Any, folder: str, given: dict[str, Any]) -> dict[str, Any]:
    if flags.runner == 'beam':
        from gptjax.data.refine import beam

        more = {'output': folder, 'options': shlex.split(flags.beam_options)}
        return command.splat(beam.refine, 'config', given, **more)
    from gptjax.data.refine import runner

    return command.splat(runner.refine, 'config', given, output=folder)


def explain(argv: Argv) -> None:
    """what happened to a document: kept, changed, rejected, and where it is"""
    parser = command.parser('data', 'Says what happened to a document.')
    parser.add_argument('--explain', required=True, metavar='ID')
    parser.add_argument('--output', required=True, metavar='DIR', help='a dataset')
    flags = command.parse(parser, argv)

    from gptjax.data.refine import explain as explain_lib

    print(explain_lib.explain(flags.output, flags.explain))


def fetch(argv: Argv) -> None:
    """fetches addresses politely, into a WARC file"""
    parser = command.parser('data fetch', 'Fetches addresses into a WARC file.', True)
    parser.add_argument('--output', required=True, metavar='FILE.warc.gz')
    flags = command.parse(parser, argv)

    from gptjax.data.origin import fetch as fetch_lib

    options = flags.config.to_dict()
    command.splat(fetch_lib.fetch, 'config', options, output=flags.output)


def quality(argv: Argv) -> None:
    """trains a classifier of your own labels, for the step `quality`"""
    parser = command.parser('data quality', 'Trains a quality classifier.', True)
    parser.add_argument('--output', required=True, metavar='FILE.npz')
    flags = command.parse(parser, argv)

    from gptjax.data.clean import quality as quality_lib

    options = flags.config.to_dict()
    told = command.splat(quality_lib.train, 'config', options, output=flags.output)
    print(quality_lib.summary(told))


def augment(argv: Argv) -> None:
    """makes more fine-tuning data out of some"""
    parser = command.parser('data augment', 'Makes more data out of some.', True)
    parser.add_argument('--output', required=True, metavar='FILE.jsonl')
    flags = command.parse(parser, argv)

    from gptjax.data.augment import table

    options = flags.config.to_dict()
    print(command.splat(table.augment, 'config', options, output=flags.output))


def trace(argv: Argv) -> None:
    """the shards of a document, and the steps and checkpoints that saw it"""
    parser = command.parser('data trace', 'Says where a document is, and who saw it.')
    _data(parser)
    parser.add_argument('--document', metavar='ID')
    parser.add_argument('--source', metavar='NAME')
    _workdirs(parser)
    flags = command.parse(parser, argv)

    from gptjax.data import trace as trace_lib

    print(trace_lib.trace(flags.data, flags.document, flags.source, flags.workdir))


def remove(argv: Argv) -> None:
    """writes a dataset without some of its documents"""
    parser = command.parser('data remove', 'Writes a dataset without some documents.')
    _data(parser)
    for name, what in (('document', 'ID'), ('source', 'NAME'), ('licence', 'SPDX')):
        parser.add_argument(f'--{name}', action='append', default=[], metavar=what)
    parser.add_argument('--output', required=True, metavar='DIR')
    _workdirs(parser)
    flags = command.parse(parser, argv)

    from gptjax.data import ledger
    from gptjax.data import remove as remove_lib

    wanted = ledger.Wanted(flags.document, flags.source, flags.licence)
    print(remove_lib.remove(flags.data, wanted, flags.output, flags.workdir))


def diff(argv: Argv) -> None:
    """what came, went and changed between two versions of a dataset, and why"""
    parser = command.parser('data diff', 'Compares two versions of a dataset.')
    parser.add_argument('--old', required=True, metavar='DIR')
    parser.add_argument('--new', required=True, metavar='DIR')
    parser.add_argument('--output', metavar='FILE.json', help='all of it, as JSON')
    flags = command.parse(parser, argv)

    from pathlib import Path

    from gptjax.data import diff as diff_lib
    from gptjax.data import storage

    found = diff_lib.diff(flags.old, flags.new)
    print(diff_lib.text(found))
    if flags.output:
        storage.write_json(Path(flags.output), found)


def tfds(argv: Argv) -> None:
    """writes a dataset so that tfds.load reads it"""
    parser = command.parser('data tfds', 'Writes a dataset as a TensorFlow Dataset.')
    _data(parser)
    parser.add_argument('--data_dir', required=True, metavar='DIR', help='of TFDS')
    parser.add_argument('--name', required=True, help='in lower case, of the data set')
    flags = command.parse(parser, argv)

    from gptjax.data import tfds_folder

    print(tfds_folder.write(flags.data, flags.data_dir, flags.name))


def card(argv: Argv) -> None:
    """writes the data card of a dataset again"""
    parser = command.parser('data card', 'Writes the data card again.')
    _data(parser)
    flags = command.parse(parser, argv)

    from gptjax.data import card as card_lib

    print(card_lib.rewrite(flags.data))


def _data(parser: Any) -> None:
    parser.add_argument('--data', required=True, metavar='DIR', help='a built dataset')


def _workdirs(parser: Any) -> None:
    parser.add_argument(
        '--workdir', action='append', default=[], metavar='DIR', help='of a run'
    )


VERBS: dict[str, Callable[[Argv], None]] = {
    'fetch': fetch,
    'quality': quality,
    'augment': augment,
    'trace': trace,
    'remove': remove,
    'diff': diff,
    'tfds': tfds,
    'card': card,
}
