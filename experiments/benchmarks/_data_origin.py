"""Licences and opt-outs: how many of the published cases are judged right.

Needs license_texts and python_peps under GPTJAX_DATA.
"""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import re
import tarfile
from typing import Any

from gptjax.data.origin import detect, optout, site, spdx, texts, web

GOLDEN = Path(__file__).parents[2] / 'tests' / 'golden'


def rows() -> Iterator[dict[str, Any]]:
    data = Path(os.environ['GPTJAX_DATA'])
    licences = _files(data / 'license_texts' / 'licenses.tar.gz', '---\n')
    snippets = json.loads((GOLDEN / 'licence_snippets.json').read_text())['snippets']
    right = sum(_snippet(*one) for one in snippets)
    yield _row("Licence: dolma's snippets", right, len(snippets), 'right')
    yield _row('Licence: texts', sum(map(_text, licences)), len(licences), 'right')
    peps = _files(data / 'python_peps' / 'peps.tar.gz', '')
    found = sum(detect.from_text(pep) is not None for pep in peps)
    yield _row('Licence: PEPs that name one', found / len(peps), 0.95, 'of all')
    cases = json.loads((GOLDEN / 'opt_outs.json').read_text())
    right = sum(map(_site, cases['sites'])) + sum(map(_page, cases['pages']))
    total = len(cases['sites']) + len(cases['pages'])
    yield _row('Opt-out: RFC 9309, ai.txt, TDMRep, noai', right, total, 'right')


def _row(name: str, value: float, goal: float, unit: str) -> dict[str, Any]:
    return dict(name=name, value=value, goal=goal, direction='max', unit=unit)


def _files(path: Path, beginning: str) -> list[str]:
    """The texts of an archive that begin so."""
    with tarfile.open(path) as archive:
        files = [archive.extractfile(one) for one in archive if one.isfile()]
        found = [file.read().decode() for file in files if file is not None]
    return [text for text in found if text.startswith(beginning)]


def _snippet(html: str, kind: str, version: str) -> bool:
    name = {'publicdomain/zero': 'CC0'}.get(kind, f'CC-{kind.upper()}')
    found = detect.from_html(html)
    return found is not None and found[0] == f'{name}-{version}'


def _text(file: str) -> bool:
    _, head, body = file.split('---\n', 2)
    match = re.search(r'spdx-id: (\S+)', head)
    assert match is not None
    filled = body.replace('[year]', '1998-2003').replace('[fullname]', 'A & B, Inc.')
    return texts.identify(filled) == [spdx.parse(match[1])]


def _site(case: dict[str, Any]) -> bool:
    def ask(url: str, first: int) -> web.Answer:
        there = url.endswith(case['file'])
        body = case['content'].encode()[:first] if there else b''
        return web.Answer(url, 200 if there else 404, '', [], body, {})

    asked = site.Site('http://example.org', [case['agent']], ask)
    return asked.refusal(f'http://example.org{case["path"]}') == case['refusal']


def _page(case: dict[str, Any]) -> bool:
    asked = optout.from_headers(case['headers']) or optout.from_html(case['html'])
    return asked == case['asked']
