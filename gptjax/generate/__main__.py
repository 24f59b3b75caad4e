"""python -m gptjax.generate: continues a prompt, on standard output alone."""

import pathlib

from gptjax import command


def main() -> None:
    parser = command.parser('generate', 'Continues a prompt with a trained model.')
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
    flags = command.parse(parser)

    from gptjax.generate import terminal
    from gptjax.train import build

    settings = vars(flags)
    trained = build.load(settings.pop('workdir'))
    terminal.complete(trained, **settings)


if __name__ == '__main__':
    command.run(main)
