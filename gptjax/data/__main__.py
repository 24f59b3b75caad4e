"""`python -m gptjax.data --config=...` builds a dataset; see `--help` for the rest."""

import sys

from gptjax import command
from gptjax.data import verbs


def main() -> None:
    """The command that the first argument names, or a build."""
    first, argv = ''.join(sys.argv[1:2]), sys.argv[1:]
    if first in verbs.VERBS:
        verbs.VERBS[first](argv[1:])
    elif any(one.partition('=')[0] == '--explain' for one in argv):
        verbs.explain(argv)
    else:
        verbs.build(argv)


if __name__ == '__main__':
    command.run(main)
