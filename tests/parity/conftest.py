"""Runs beside torch, in an environment of its own (`make test-parity`)."""

import json
import os
from pathlib import Path

import pytest
import torch
import transformers

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

_MEASURED: list[tuple[str, dict[str, float]]] = []


@pytest.fixture
def measured(record_property):
    """Takes a line of what a test measured, for the report at the end, and numbers.

    The numbers go by name into the file that GPTJAX_FIGURES names, if it does.
    """

    def take(line: str, **figures: float) -> None:
        record_property('measured', (line, {k: float(v) for k, v in figures.items()}))

    return take


def pytest_runtest_logreport(report):
    if report.when == 'call':
        _MEASURED.extend(v for k, v in report.user_properties if k == 'measured')


def pytest_terminal_summary(terminalreporter):
    if not _MEASURED:
        return
    terminalreporter.section('measured')
    for line, _ in sorted(_MEASURED):
        terminalreporter.write_line(line)
    if 'GPTJAX_FIGURES' in os.environ:
        figures = [numbers for _, numbers in _MEASURED]
        Path(os.environ['GPTJAX_FIGURES']).write_text(json.dumps(figures))
