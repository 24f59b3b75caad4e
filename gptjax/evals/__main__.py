"""python -m gptjax.evals --workdir=DIR, and python -m gptjax.evals report ..."""

from collections.abc import Sequence
from pathlib import Path
import sys

from gptjax import command


def main() -> None:
    if sys.argv[1:2] == ['report']:
        _report(sys.argv[2:])
    else:
        _evaluate(sys.argv[1:])


def _evaluate(argv: Sequence[str]) -> None:
    parser = command.parser(
        'evals',
        'Evaluates the newest checkpoint of a workdir on held-out data and writes '
        'DIR/evals/DATASET.json.',
    )
    parser.epilog = '`python -m gptjax.evals report --help`: a page of all results.'
    add = parser.add_argument
    add('--workdir', type=Path, required=True, metavar='DIR', help='of a training run')
    add('--data', type=Path, metavar='DATASET', help='another one than it trained on')
    add('--trigram', action='store_true', help='text: count a trigram model to compare')
    add('--answers', type=int, metavar='N', help='chat: answer N held-out questions')
    add('--rewards', type=Path, metavar='DIR', help='judge them as that run does')
    flags = command.parse(parser, argv)

    from gptjax.evals import scores

    path, result = scores.run(**vars(flags))
    print(scores.table(result))
    print(f'\n{path}')


def _report(argv: Sequence[str]) -> None:
    parser = command.parser('evals report', 'Writes one HTML page about workdirs.')
    add = parser.add_argument
    add('--workdir', type=Path, required=True, action='append', metavar='DIR',
        help='may be repeated, in the order of training')  # fmt: skip
    add('--output', type=Path, required=True, metavar='FILE.html')
    add('--prompt', action='append', default=[], metavar='TEXT',
        help='for text models to continue; else held-out openings')  # fmt: skip
    flags = command.parse(parser, argv)

    from gptjax.evals import report

    beside = report.write(flags.workdir, flags.output, flags.prompt)
    print(f'{beside}\n\n{flags.output}'.lstrip())


if __name__ == '__main__':
    command.run(main)
