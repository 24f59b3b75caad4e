"""python -m gptjax.serve: an OpenAI-compatible server with a chat page."""

import pathlib

from gptjax import command


def main() -> None:
    parser = command.parser(
        'serve', 'Serves trained models to OpenAI clients and on a chat page.'
    )
    add = parser.add_argument
    add(
        '--workdir',
        type=pathlib.Path,
        action='append',
        required=True,
        help='of a training run; repeated, each is a model named as its folder',
    )
    add('--host', default='127.0.0.1', help='127.0.0.1 lets only this machine in')
    add('--port', type=int, default=8000, help='0 takes any that is free')
    flags = command.parse(parser)

    from gptjax.serve import server
    from gptjax.train import build

    server.run(build.load, flags.workdir, flags.host, flags.port)


if __name__ == '__main__':
    command.run(main)
