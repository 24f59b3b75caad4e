"""python -m gptjax.train --config=configs/NAME.py --workdir=DIR; and its verbs."""

import sys

from gptjax import command
from gptjax.train import verbs


def main() -> None:
    """One of the verbs, or a run of training."""
    verbs.run(sys.argv[1:])


if __name__ == '__main__':
    command.run(main)
