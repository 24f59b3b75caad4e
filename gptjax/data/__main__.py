"""`python -m gptjax.data --config=...` builds a dataset; `--help` tells the rest."""

import sys

from gptjax import command
from gptjax.data import verbs


def main() -> None:
    """One of the verbs, or a build."""
    verbs.run(sys.argv[1:])


if __name__ == '__main__':
    command.run(main)
