"""python -m gptjax.launch local --processes=N -- COMMAND: a run that is kept going."""

import sys

from gptjax import command


def main() -> None:
    argv = sys.argv[1:]
    cut = argv.index('--') if '--' in argv else len(argv)
    parser = command.parser(
        'launch local',
        'Starts COMMAND as N processes of one run on this machine, and all of them\n'
        'again, from the newest checkpoint, when one has died, hangs or was asked to\n'
        'stop. SIGTERM and Ctrl-C let them save; the exit code is 75.',
    )
    parser.usage = (
        'python -m gptjax.launch local --processes=N [--restarts=3] -- COMMAND\n'
        '       COMMAND: python -m gptjax.train --config=... --workdir=DIR'
    )
    add = parser.add_argument
    add('where', choices=['local'], help='this machine')
    add('--processes', type=int, required=True, metavar='N', help='1 is supervised too')
    more = 'in a row without a newer checkpoint in the --workdir of COMMAND'
    add('--restarts', type=int, default=3, metavar='N', help=more)
    flags = command.parse(parser, argv[:cut])
    if not argv[cut + 1 :]:
        raise command.UserError('no command; write -- and the command to start last.')
    if flags.processes < 1 or flags.restarts < 0:
        raise command.UserError('--processes is at least 1, --restarts at least 0.')

    from gptjax.launch import local

    job = local.Supervisor(argv[cut + 1 :], flags.processes, flags.restarts)
    sys.exit(job.run())


if __name__ == '__main__':
    command.run(main)
