"""python -m gptjax.exchange import|export|merge: models of other tools, in and out."""

import functools
import pathlib

from gptjax import command


def main() -> None:
    parser = command.parser(
        'exchange', 'Imports a model or an adapter, exports or merges a workdir.'
    )
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='VERB')
    add = verbs.add_parser(
        'import', help='a model or an adapter of others into a workdir'
    ).add_argument
    folder = functools.partial(add, type=pathlib.Path, metavar='DIR')
    what = 'a folder of Hugging Face or PEFT, or a .bin of llama2.c by its tokenizer'
    folder('--source', required=True, metavar='PATH', help=what)
    folder('--workdir', required=True, help='a new one')
    folder('--base', help='of an adapter: the workdir of the model that it is for')
    add = verbs.add_parser('export', help='a workdir as a model folder').add_argument
    folder = functools.partial(add, type=pathlib.Path, metavar='DIR')
    folder('--workdir', required=True)
    folder('--output', required=True, help='a new one')
    add(
        '--format',
        default='huggingface',
        choices=('huggingface', 'gguf', 'llama2c', 'peft'),
        help='peft: an adapter alone, which the others merge (default: %(default)s)',
    )
    add(
        '--dtype',
        default='float32',
        choices=('float32', 'bfloat16', 'float16'),
        help='of the weights; other than float32 rounds them (default: %(default)s)',
    )
    made = verbs.add_parser('merge', help='an adapter and its base as a whole workdir')
    folder = functools.partial(made.add_argument, type=pathlib.Path, metavar='DIR')
    folder('--workdir', required=True, help='of the adapter')
    folder('--output', required=True, help='a new one')
    flags = command.parse(parser)

    from gptjax.exchange import workdir

    if flags.verb == 'import':
        workdir.import_model(flags.source, flags.workdir, flags.base)
        print(f'imported {flags.source} into {flags.workdir}')
    elif flags.verb == 'merge':
        workdir.merge(flags.workdir, flags.output)
        print(f'merged {flags.workdir} into {flags.output}')
    else:
        workdir.export_model(flags.workdir, flags.output, flags.format, flags.dtype)
        print(f'exported {flags.workdir} to {flags.output}')


if __name__ == '__main__':
    command.run(main)
