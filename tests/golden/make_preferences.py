"""Writes preferences.json: TRL's preference losses and their gradients.

    PYTHONPATH=. .venv-parity/bin/python tests/golden/make_preferences.py

Gradients are of the sums of log-probabilities, chosen answers before rejected ones.
"""

from importlib import metadata
import json
from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden import trl_preferences

SEED = 0


def main() -> None:
    losses = trl_preferences.all_of(SEED)
    stored = {'trl': metadata.version('trl'), 'seed': SEED, 'losses': losses}
    path = Path(__file__).with_name('preferences.json')
    path.write_text(json.dumps(stored) + '\n')
    print(path, path.stat().st_size, 'bytes')


if __name__ == '__main__':
    main()
