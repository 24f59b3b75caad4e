"""Chats beside transformers and TRL: ids, masks, and the loss of fine-tuning.

By published templates (ChatML, Llama 3, Gemma, Qwen 2.5 and 3) on 100 conversations
that people wrote and 100 that are hard on templates, each: tests/parity has them.
"""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import subprocess
import tempfile
from typing import Any

_TEST = 'tests/parity/chat_parity_test.py'


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'figures.json'
        environment = os.environ | {'GPTJAX_FIGURES': str(path), 'PYTHONPATH': '.'}
        command = [os.environ['GPTJAX_PEERS'], '-m', 'pytest', '-n0', '-q', _TEST]
        subprocess.run(command, env=environment, check=True)
        measured: list[dict[str, float]] = json.loads(path.read_text())
    chats = [one for one in measured if 'chats' in one]
    total = sum(one['chats'] for one in chats)
    yield {
        'name': f'chats of {total:.0f} by {len(chats)} published templates with the '
        'ids and the mask of transformers',
        'value': sum(one['chats_equal'] for one in chats) / total,
        'goal': 1.0, 'direction': 'max', 'unit': 'share',
    }  # fmt: skip
    yield {
        'name': "loss of fine-tuning, difference to TRL's SFTTrainer",
        'value': max(one['sft_loss'] for one in measured if 'sft_loss' in one),
        'goal': 1e-5, 'direction': 'min', 'unit': 'nats',
    }  # fmt: skip
