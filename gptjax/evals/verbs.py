"""The verbs of `python -m gptjax.evals`, and evaluation itself."""

from collections.abc import Sequence
from pathlib import Path

from gptjax import command


def run(argv: Sequence[str]) -> None:
    """One of the verbs, or an evaluation."""
    verb = {'report': _report, 'widths': _widths}.get(argv[0]) if argv else None
    verb(argv[1:]) if verb else _evaluate(argv)


def _evaluate(argv: Sequence[str]) -> None:
    parser = command.parser(
        'evals',
        'Evaluates the newest checkpoint of a workdir on held-out data and writes '
        'DIR/evals/DATASET.json.',
    )
    parser.epilog = 'See also: ... evals report (a page of results), ... evals widths.'
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


def _widths(argv: Sequence[str]) -> None:
    what = 'Trains a config at several widths, to see whether activations move alike.'
    parser = command.parser('evals widths', what, config=True)
    add = parser.add_argument
    add('--widths', default='128,256,512,1024', metavar='D,D,...')
    add('--steps', type=int, default=10, metavar='N')
    add('--seeds', type=int, default=1, metavar='N', help='models of each width')
    add('--html', type=Path, metavar='FILE', help='draws it')
    flags = command.parse(parser, argv)

    from gptjax.evals import widths

    print(widths.run(**vars(flags)))
