"""latest.json: what stays, what is replaced, and what no hardware here can measure."""

import json

import pytest

from experiments.benchmarks import __main__ as benchmarks

ROW = dict(goal=1.0, direction='min', unit='s', command='make benchmark')


@pytest.fixture
def latest(tmp_path, monkeypatch):
    path = tmp_path / 'latest.json'
    monkeypatch.setattr(benchmarks, 'LATEST', path)
    return lambda: {row['name']: row for row in json.loads(path.read_text())}


def test_a_row_without_a_value_is_neither_met_nor_missed(latest, capsys):
    benchmarks.record('speed', [{**ROW, 'name': 'a', 'value': None}], whole=True)
    assert latest()['a']['met'] is None
    assert 'not measured' in capsys.readouterr().out


def test_what_was_measured_elsewhere_stays(latest):
    """Mutation: a null row that replaces the one that a GPU gave."""
    benchmarks.record('speed', [{**ROW, 'name': 'a', 'value': 0.5}])
    benchmarks.record('speed', [{**ROW, 'name': 'a', 'value': None}], whole=True)
    assert latest()['a']['value'] == 0.5
    benchmarks.record('speed', [{**ROW, 'name': 'a', 'value': 2.0}])
    assert latest()['a']['met'] is False


def test_a_part_leaves_the_other_rows_and_a_whole_area_does_not(latest):
    both = [{**ROW, 'name': name, 'value': 0.5} for name in 'ab']
    benchmarks.record('speed', both, whole=True)
    benchmarks.record('speed', [{**ROW, 'name': 'b', 'value': 0.6}])
    assert [latest()[name]['value'] for name in 'ab'] == [0.5, 0.6]
    benchmarks.record('data', both, whole=True)
    assert len(latest()) == 2
    benchmarks.record('speed', both[:1], whole=True)
    assert {row['area'] for row in latest().values()} == {'speed', 'data'}
