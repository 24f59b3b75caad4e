"""The verbs of `python -m gptjax.train`, and training itself."""

from collections.abc import Sequence
import json
from pathlib import Path
import sys

from gptjax import command


def run(argv: Sequence[str]) -> None:
    """One of the verbs, or a run of training."""
    verbs = {
        'show': _show,
        'sample': _sample,
        'replay': _replay,
        'goodput': _goodput,
        'explain': _explain,
    }
    verb = verbs.get(argv[0]) if argv else None
    verb(argv[1:]) if verb else _train(argv)


def _train(argv: Sequence[str]) -> None:
    parser = command.parser(
        'train',
        'Trains a model, from the newest checkpoint in the workdir. Ctrl-C or SIGTERM '
        'saves and exits with code 75; the same command goes on. See also: ... train '
        'show, ... train sample.',
        config=True,
    )
    parser.add_argument('--workdir', required=True, type=Path, metavar='DIR')
    parser.add_argument(
        '--allow_config_change',
        action='store_true',
        help='go on although the config differs from the one of the workdir',
    )
    parser.add_argument(
        '--profile',
        metavar='A:B',
        help='trace steps A to B into DIR/profile, for TensorBoard and xprof',
    )
    group = parser.add_argument_group(
        'several processes', 'Found from the environment on TPU pods and under Slurm.'
    )
    group.add_argument('--coordinator', metavar='HOST:PORT', help='of process 0')
    group.add_argument('--process_count', type=int, metavar='N')
    group.add_argument('--process_id', type=int, metavar='I')
    flags = command.parse(parser, argv)

    from gptjax.train import distributed, profile

    steps = profile.parse(flags.profile) if flags.profile else None
    distributed.initialize(flags.coordinator, flags.process_count, flags.process_id)

    from gptjax.train import build, loop, phases

    with distributed.leaving():
        run = build.build(flags.config, flags.workdir, flags.allow_config_change)
        trace = profile.Profile(*steps, run.workdir, run.steps) if steps else None
        done = loop.train(run, phases.process_age(), trace)
    if not done:
        sys.exit(command.REQUEUE)


def _show(argv: Sequence[str]) -> None:
    what = 'Shows the arrays of a config, where they lie, their operations and bytes.'
    parser = command.parser('train show', what, config=True)
    parser.add_argument(
        '--mesh',
        default='',
        metavar='AXIS=N,...',
        help='such as fsdp=4,tensor=2 in place of the config; rules=... where the '
        'forms of these axes are not all',
    )
    flags = command.parse(parser, argv)

    from gptjax.train import distributed, show

    if flags.mesh:
        show.remesh(flags.config, flags.mesh)
    distributed.simulate(getattr(flags.config, 'mesh', {}))
    print(show.text(flags.config))


def _sample(argv: Sequence[str]) -> None:
    what = 'Answers prompts several times each, scores the answers, keeps the best.'
    parser = command.parser('train sample', what, config=True)
    parser.add_argument('--output', required=True, type=Path, metavar='FILE.jsonl')
    flags = command.parse(parser, argv)

    from gptjax.train import sample

    print(sample.sample(flags.config, flags.output))


def _replay(argv: Sequence[str]) -> None:
    what = (
        'Does a step of a run once more, and shows what it read. Exits with code 77 '
        'where it does not come out as it did.'
    )
    parser = command.parser('train replay', what)
    parser.add_argument('--workdir', required=True, type=Path, metavar='DIR')
    parser.add_argument('--step', required=True, type=int, metavar='N')
    flags = command.parse(parser, argv)

    from gptjax.train import replay

    replay.replay(flags.workdir, flags.step)


def _goodput(argv: Sequence[str]) -> None:
    what = 'Shows where the time of a run went: into steps, or what else.'
    parser = command.parser('train goodput', what)
    parser.add_argument('--workdir', required=True, type=Path, metavar='DIR')
    parser.add_argument('--json', action='store_true', help='one line of JSON')
    flags = command.parse(parser, argv)

    from gptjax.train import goodput

    found = goodput.account(goodput.lines(flags.workdir))
    print(json.dumps(found) if flags.json else goodput.text(flags.workdir, found))


def _explain(argv: Sequence[str]) -> None:
    what = (
        'Shows where a step of a run spends its time and memory, and how far it is '
        'from what the machine can: compiles and runs it anew, from config and data.'
    )
    parser = command.parser('train explain', what)
    parser.add_argument('--workdir', required=True, type=Path, metavar='DIR')
    parser.add_argument('--json', action='store_true', help='one line of JSON')
    flags = command.parse(parser, argv)

    from gptjax.train import explain

    found = explain.explain(flags.workdir)
    print(json.dumps(found) if flags.json else explain.text(found))
