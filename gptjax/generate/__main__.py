"""python -m gptjax.generate: continues a prompt; and ... generate read."""

from collections.abc import Sequence
import pathlib
import sys

from gptjax import command
from gptjax.generate import options


def main() -> None:
    _read(sys.argv[2:]) if sys.argv[1:2] == ['read'] else _complete(sys.argv[1:])


def _complete(argv: Sequence[str]) -> None:
    what = 'Continues a prompt, or translates it. See also: ... generate read.'
    parser = command.parser('generate', what)
    add = parser.add_argument
    add('--workdir', type=pathlib.Path, required=True, help='of a training run')
    add('--prompt', required=True, help='- reads standard input')
    add('--chat', action='store_true', help='the prompt is what the user says')
    add('--max_tokens', type=int, default=256, metavar='N')
    add('--temperature', type=float, default=1.0, metavar='X', help='0 is greedy')
    add('--top_k', type=int, default=0, metavar='K', help='0 is off')
    add('--top_p', type=float, default=1.0, metavar='P', help='1 is off')
    add('--seed', type=int, default=0)
    add('--stop', action='append', default=[], metavar='TEXT', help='may be repeated')
    options.add(parser)
    flags = command.parse(parser, argv)

    from gptjax.generate import terminal
    from gptjax.train import build

    settings = vars(flags)
    terminal.complete(build.load(settings.pop('workdir')), **settings)


def _read(argv: Sequence[str]) -> None:
    parser = command.parser(
        'generate read',
        'Prints a line of JSON for each text: the class by a classifier, the reward by '
        'a reward model, the words behind the masks by a masked LM.',
    )
    add = parser.add_argument
    add('--workdir', type=pathlib.Path, required=True, help='of a training run')
    add('--text', action='append', default=[], help='may be repeated')
    add('--text_pair', action='append', default=[], help='beside each --text')
    add('--input', type=pathlib.Path, metavar='FILE', help='one text a line')
    add('--embed', metavar='POOL', help='print embeddings instead: mean or cls')
    flags = command.parse(parser, argv)

    from gptjax.generate import terminal
    from gptjax.train import build

    trained = build.load(flags.workdir)
    terminal.read(trained, flags.text, flags.text_pair, flags.input, flags.embed)


if __name__ == '__main__':
    command.run(main)
