"""python -m gptjax.evals --workdir=DIR, or a verb: report, widths."""

import sys

from gptjax import command
from gptjax.evals import verbs


def main() -> None:
    verbs.run(sys.argv[1:])


if __name__ == '__main__':
    command.run(main)
