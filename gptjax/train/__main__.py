"""python -m gptjax.train --config=configs/NAME.py --workdir=DIR; and ... show"""

from collections.abc import Sequence
from pathlib import Path
import sys

from gptjax import command


def main() -> None:
    show = sys.argv[1:2] == ['show']
    _show(sys.argv[2:]) if show else _train(sys.argv[1:])


def _train(argv: Sequence[str]) -> None:
    parser = command.parser(
        'train',
        'Trains a model, from the newest checkpoint in the workdir. Ctrl-C saves and '
        'exits with code 130; the same command goes on. See also: ... train show.',
        config=True,
    )
    parser.add_argument('--workdir', required=True, type=Path, metavar='DIR')
    parser.add_argument(
        '--allow_config_change',
        action='store_true',
        help='go on although the config differs from the one of the workdir',
    )
    group = parser.add_argument_group(
        'several processes', 'Found from the environment on TPU pods and under Slurm.'
    )
    group.add_argument('--coordinator', metavar='HOST:PORT', help='of process 0')
    group.add_argument('--process_count', type=int, metavar='N')
    group.add_argument('--process_id', type=int, metavar='I')
    flags = command.parse(parser, argv)

    from gptjax.train import distributed

    distributed.initialize(flags.coordinator, flags.process_count, flags.process_id)

    from gptjax.train import build, loop

    run = build.build(flags.config, flags.workdir, flags.allow_config_change)
    if not loop.train(run):
        sys.exit(130)


def _show(argv: Sequence[str]) -> None:
    what = 'Shows the weights of a config, where they lie, their operations and bytes.'
    parser = command.parser('train show', what, config=True)
    flags = command.parse(parser, argv)

    from gptjax.train import distributed, show

    distributed.simulate(getattr(flags.config, 'mesh', {}))
    print(show.text(flags.config))


if __name__ == '__main__':
    command.run(main)
