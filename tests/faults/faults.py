"""How many faults a test makes."""

import os


def count(full: int) -> int:
    """`full`, or the share of it that GPTJAX_FAULTS_SHARE says; at least 1."""
    return max(1, round(full * float(os.environ.get('GPTJAX_FAULTS_SHARE', '1'))))
