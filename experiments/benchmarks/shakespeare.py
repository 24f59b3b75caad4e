"""nanoGPT's published CPU setting on Tiny Shakespeare, held out as it holds out."""

from collections.abc import Iterator
import os
from pathlib import Path
import subprocess
import sys
import tempfile

from gptjax.train import log


def measure() -> Iterator[dict[str, object]]:
    """Needs GPTJAX_DATA; takes two minutes on two cores."""
    text = Path(os.environ['GPTJAX_DATA']) / 'tinyshakespeare' / 'input.txt'
    command = 'python -m gptjax.train --config=configs/shakespeare_char.py'
    with tempfile.TemporaryDirectory() as workdir:
        subprocess.run(
            [
                sys.executable, *command.split()[1:],
                f'--config.data.path={text}', f'--workdir={workdir}',
            ],
            check=True,
        )  # fmt: skip
        last = log.read(Path(workdir))[-1]
    yield dict(
        name='validation loss after 2,000 steps',
        value=last['eval_loss'],
        goal=1.80,
        direction='min',
        unit='nats',
        ours=last['eval_loss'],
        peer=1.88,
        command=command,
    )
