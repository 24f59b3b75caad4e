"""Writes presidio.json: the cases of presidio's recognisers, (text, count, spans).

    python tests/golden/make_presidio.py PRESIDIO

PRESIDIO is a checkout of microsoft/presidio (MIT); nothing of it is run.
"""

import ast
import json
from pathlib import Path
import sys

FILES = {'card': 'credit_card', 'iban': 'iban', 'ssn': 'us_ssn', 'email': 'email',
         'ip': 'ip'}  # fmt: skip


def cases(file: Path):
    for node in ast.walk(ast.parse(file.read_text())):
        name = getattr(node.func, 'attr', '') if isinstance(node, ast.Call) else ''
        if name != 'parametrize':
            continue
        names = [one.strip() for one in node.args[0].value.split(',')]
        places = [i for i, n in enumerate(names) if 'position' in n or n[-4:] == '_res']
        for case in node.args[1].elts:
            if not isinstance(case.elts[0], ast.Constant):
                continue
            count, spans = map(ast.literal_eval, (case.elts[1], case.elts[places[0]]))
            yield [case.elts[0].value, count, spans]


def main() -> None:
    tests = Path(sys.argv[1]) / 'presidio-analyzer' / 'tests'
    told = {
        'source': 'microsoft/presidio 0aa9f8e44, presidio-analyzer/tests; MIT',
        **{
            kind: list(cases(tests / f'test_{name}_recognizer.py'))
            for kind, name in FILES.items()
        },
    }
    kinds = [
        f'"{kind}": ' + (json.dumps(value) if isinstance(value, str) else _lines(value))
        for kind, value in told.items()
    ]
    output = Path(__file__).with_name('presidio.json')
    output.write_text('{\n' + ',\n'.join(kinds) + '\n}\n')


def _lines(rows) -> str:
    return '[\n' + ',\n'.join(json.dumps(row) for row in rows) + '\n]'


if __name__ == '__main__':
    main()
