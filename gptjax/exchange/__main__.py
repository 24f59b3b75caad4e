"""python -m gptjax.exchange import|export: models of other tools, in and out."""

import pathlib

from gptjax import command


def main() -> None:
    parser = command.parser(
        'exchange', 'Imports a model into a workdir, or exports a workdir.'
    )
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='VERB')
    add = verbs.add_parser(
        'import', help='a model of others into a workdir'
    ).add_argument
    add(
        '--source',
        type=pathlib.Path,
        required=True,
        metavar='PATH',
        help='a folder of Hugging Face, or a .bin of llama2.c beside its tokenizer',
    )
    add('--workdir', type=pathlib.Path, required=True, metavar='DIR', help='a new one')
    add = verbs.add_parser('export', help='a workdir as a model folder').add_argument
    add('--workdir', type=pathlib.Path, required=True, metavar='DIR')
    add('--output', type=pathlib.Path, required=True, metavar='DIR', help='a new one')
    add(
        '--format',
        default='huggingface',
        choices=('huggingface', 'gguf', 'llama2c'),
        help='default: %(default)s',
    )
    add(
        '--dtype',
        default='float32',
        choices=('float32', 'bfloat16', 'float16'),
        help='of the weights; other than float32 rounds them (default: %(default)s)',
    )
    flags = command.parse(parser)

    from gptjax.exchange import workdir

    if flags.verb == 'import':
        workdir.import_model(flags.source, flags.workdir)
        print(f'imported {flags.source} into {flags.workdir}')
    else:
        workdir.export_model(flags.workdir, flags.output, flags.format, flags.dtype)
        print(f'exported {flags.workdir} to {flags.output}')


if __name__ == '__main__':
    command.run(main)
