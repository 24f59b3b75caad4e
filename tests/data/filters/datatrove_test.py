"""Decisions and first reasons against those of datatrove, recorded."""

import hashlib
import json
from pathlib import Path

from golden import filters_pages
import pytest

STORED = json.loads(Path(filters_pages.__file__).with_name('filters.json').read_text())


@pytest.fixture(scope='module')
def pages():
    made = filters_pages.make(STORED['count'], STORED['seed'])
    digest = hashlib.sha256('\0'.join(made).encode()).hexdigest()
    assert digest == STORED['pages'], 'other pages: make the file anew'
    return made


@pytest.mark.parametrize('name', filters_pages.STEPS)
def test_decisions_are_those_of_datatrove(name, pages):
    """They are datatrove's with our splitters: a change of these moves them too."""
    judge = filters_pages.ours()[name]
    found = [filters_pages.short(judge(text)) for text in pages]
    assert found == STORED['decisions'][name]


def test_each_rule_decides_about_some_page():
    reasons = {reason for found in STORED['decisions'].values() for reason in found}
    assert reasons >= set(filters_pages.REASONS.values())
