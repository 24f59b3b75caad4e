"""Every family against transformers and llama.cpp, with weights drawn anew.

Runs `make test-parity`, which needs the environment of the extra `parity`, and reports
the worst of all cases; the log says what each of them measured.
"""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import subprocess
import tempfile
from typing import Any

COMMAND = 'make benchmark AREA=parity'
# name of a figure: (what it is, goal, which is better, unit)
FIGURES = {
    'logits': ('logits against transformers, largest difference', 1e-4, 'min', ''),
    'gradients': ('gradients against transformers, relative', 1e-3, 'min', ''),
    'exported': ('exports in transformers, largest difference', 1e-4, 'min', ''),
    'greedy': ('prompts of 100 with equal 64 greedy tokens', 100, 'max', 'prompts'),
    'gguf': ('logits against llama.cpp, largest difference', 1e-4, 'min', ''),
}


def measure() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'figures.json'
        environment = os.environ | {'GPTJAX_FIGURES': str(path)}
        subprocess.run(['make', 'test-parity'], env=environment, check=True)
        measured: list[dict[str, float]] = json.loads(path.read_text())
    for name, (what, goal, direction, unit) in FIGURES.items():
        values = [figures[name] for figures in measured if name in figures]
        yield {
            'name': f'{what}, worst of {len(values)}',
            'value': max(values) if direction == 'min' else min(values),
            'goal': goal,
            'direction': direction,
            'unit': unit,
            'command': COMMAND,
        }
