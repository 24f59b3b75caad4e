"""What the environment of a launcher says of the processes of a run."""

import pytest

from gptjax.train import distributed


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({'JAX_NUM_PROCESSES': '4', 'JAX_PROCESS_ID': '3'}, (None, 4, 3)),
        # An indexed Job of Kubernetes
        ({'JAX_NUM_PROCESSES': '4', 'JOB_COMPLETION_INDEX': '0'}, (None, 4, 0)),
        ({}, (None, None, None)),  # JAX asks the launcher itself
    ],
)
def test_an_address_and_a_number_make_a_process(monkeypatch, given, expected):
    """Mutation: the index of a pod is not read, or 0 counts as none."""
    for name in ('JAX_NUM_PROCESSES', 'JAX_PROCESS_ID', 'JOB_COMPLETION_INDEX'):
        monkeypatch.delenv(name, raising=False)
    for name, value in {'JAX_COORDINATOR_ADDRESS': 'a:1', **given}.items():
        monkeypatch.setenv(name, value)
    joined = []
    monkeypatch.setattr(distributed, '_join', lambda *told: joined.append(told))
    distributed.initialize(None, None, None)
    assert joined == [expected]


def test_without_a_launcher_a_process_is_alone(monkeypatch):
    for name, _ in distributed._LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(distributed, '_join', lambda *told: pytest.fail(str(told)))
    distributed.initialize(None, None, None)
