"""python -m gptjax.plan --config=... --target=v5e-16,v5p-128; plan compare."""

import json
from pathlib import Path
import sys

from gptjax import command


def main() -> None:
    if sys.argv[1:2] == ['compare']:
        return _compare(sys.argv[2:])
    parser = command.parser(
        'plan',
        'Plans a pretraining run before a chip is rented: memory, time of a step,\n'
        'days and money on each target, by the best mesh, microbatches and remat\n'
        'policy that fit. The best is compiled ahead of time where its compiler is\n'
        'installed. After a run: ... plan compare WORKDIR.',
        config=True,
    )
    add = parser.add_argument
    what = 'such as v5e-16, v5p-128 (cores), v5e-256x2 (two slices), h100-8, cpu'
    add('--target', required=True, metavar='NAME,NAME', help=what)
    add('--json', action='store_true', help='one line of JSON')
    add('--html', type=Path, metavar='FILE', help='draws it')
    add('--analytic', action='store_true', help='compiles nothing')
    flags = command.parse(parser)
    html = flags.html
    if html and (html.is_dir() or not html.parent.is_dir()):
        raise command.UserError(f'--html={html} is no file of a folder that is there.')

    from gptjax.plan import page, plans, report

    names = [name for name in map(str.strip, flags.target.split(',')) if name]
    try:
        made = plans.make(flags.config, names, not flags.analytic)
    except plans.NothingFits as none:
        if flags.json:
            print(report.json(none.plans))
        raise
    print(report.json(made.plans) if flags.json else report.text(made))
    if html:
        html.write_text(page.page(made))


def _compare(argv: list[str]) -> None:
    parser = command.parser('plan compare', 'Sets a plan against what a run has done.')
    parser.add_argument('workdir', type=Path, metavar='WORKDIR')
    parser.add_argument('--target', default='cpu', metavar='NAME', help='it ran on')
    parser.add_argument('--json', action='store_true', help='one line of JSON')
    flags = command.parse(parser, argv)

    from gptjax.plan import compare

    found = compare.compare(flags.workdir, flags.target)
    print(json.dumps(found) if flags.json else compare.text(found))


if __name__ == '__main__':
    command.run(main)
