"""Writes filters.json: what datatrove decides about the pages of filters_pages.py.

    PYTHONPATH=. .venv-parity/bin/python tests/golden/make_filters.py

With our word and sentence splitters in the place of spaCy's. Of texts that are left it
holds a digest.
"""

import hashlib
from importlib import metadata
import json
from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden import filters_oracle, filters_pages

COUNT, SEED = 500, 7


def main() -> None:
    pages = filters_pages.make(COUNT, SEED)
    decisions = {
        name: [filters_pages.short(filters_oracle.tell(judge, page)) for page in pages]
        for name, judge in filters_oracle.made().items()
    }
    stored = {
        'datatrove': metadata.version('datatrove'),
        'count': COUNT,
        'seed': SEED,
        'pages': hashlib.sha256('\0'.join(pages).encode()).hexdigest(),
        'decisions': decisions,
    }
    path = Path(__file__).with_name('filters.json')
    path.write_text(json.dumps(stored) + '\n')
    print(path, path.stat().st_size, 'bytes')


if __name__ == '__main__':
    main()
