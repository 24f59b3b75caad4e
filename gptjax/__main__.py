"""gptjax VERB ...: the same as python -m gptjax.VERB ..."""

import importlib
import sys

from gptjax import command

VERBS = {
    'data': 'builds a dataset from a corpus',
    'plan': 'tells memory, time and money of a run on chips that you do not have yet',
    'train': 'trains a model: pretraining, fine-tuning, preferences',
    'launch': 'starts the processes of a run, and again when one dies',
    'evals': 'evaluates a workdir; writes a report',
    'generate': 'continues a prompt on the terminal',
    'exchange': 'imports and exports models of other tools',
    'serve': 'serves an HTTP interface and a chat page',
}


def main() -> None:
    verb = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if verb in ('-h', '--help'):
        print('usage: gptjax VERB [FLAGS]    (gptjax VERB --help says more)\n')
        for name, what in VERBS.items():
            print(f'  {name:10}{what}')
        return
    command.run(lambda: _call(verb))


def _call(verb: str) -> None:
    command.lookup(VERBS, verb, 'verb')
    del sys.argv[1]
    importlib.import_module(f'gptjax.{verb}.__main__').main()


if __name__ == '__main__':
    main()
