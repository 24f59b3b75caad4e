"""python -m gptjax.serve: an OpenAI-compatible server with a chat page."""

from collections.abc import Callable
import pathlib
from typing import Any

from gptjax import command
from gptjax.generate import options


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
    add(
        '--adapter',
        action='append',
        default=[],
        metavar='NAME=DIR',
        help='an adapter over the workdir, as a model of that name; may be repeated',
    )
    add('--host', default='127.0.0.1', help='127.0.0.1 lets only this machine in')
    add('--port', type=int, default=8000, help='0 takes any that is free')
    options.add(parser)
    flags = command.parse(parser)

    from gptjax.serve import server
    from gptjax.train import build, start

    def adapter(given: str) -> tuple[str, Callable[[Any], Any]]:
        name, _, folder = given.partition('=')
        if not (name and folder):
            raise command.UserError(f'--adapter={given}: it needs to be NAME=DIR.')
        workdir = pathlib.Path(folder)
        return name, lambda base: start.adapters(workdir, base.workdir, base.model)

    adapters = [adapter(given) for given in flags.adapter]
    how = {name: getattr(flags, name) for name in options.NAMES}
    server.run(build.load, flags.workdir, flags.host, flags.port, adapters, how)


if __name__ == '__main__':
    command.run(main)
