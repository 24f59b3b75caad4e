"""How many faults a test makes, and the parents of runs that suffer them."""

import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any


def count(full: int) -> int:
    """`full`, or the share of it that GPTJAX_FAULTS_SHARE says; at least 1."""
    return max(1, round(full * float(os.environ.get('GPTJAX_FAULTS_SHARE', '1'))))


def told(script: str, root: Path) -> Any:
    """What `python SCRIPT ROOT` prints as its last line, which is JSON.

    Such a parent has no JAX backend yet, as the process of a test has: it may fork.
    """
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, script, str(root)],
        env={**os.environ, 'PYTHONPATH': paths},
        stdout=subprocess.PIPE,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0
    return json.loads(done.stdout.splitlines()[-1])
