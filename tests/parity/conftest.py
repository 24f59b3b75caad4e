"""Runs beside torch, in an environment of its own (`make test-parity`)."""

import pytest
import torch
import transformers

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

_MEASURED: list[str] = []


@pytest.fixture
def measured(record_property):
    """Takes a line of what a test measured, for the report at the end."""
    return lambda line: record_property('measured', line)


def pytest_runtest_logreport(report):
    if report.when == 'call':
        _MEASURED.extend(v for k, v in report.user_properties if k == 'measured')


def pytest_terminal_summary(terminalreporter):
    if _MEASURED:
        terminalreporter.section('measured')
        for line in sorted(_MEASURED):
            terminalreporter.write_line(line)
