"""Loading beside the training step on the CPU: how much faster, and what it waits.

A run of 6 layers of width 384 (context 256, batch 16), and one at nanoGPT's published
CPU setting. What a step consumes is what the run's records say; the wait for data is
what its ledger says of the time after the program was compiled.
"""

from collections.abc import Iterator
import itertools
from pathlib import Path
import statistics
import string
import tempfile
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from configs import shakespeare_char
from experiments.benchmarks import _data_loader
from gptjax.data import pipeline
from gptjax.data import rows as rows_lib
from gptjax.model import table as model_table
from gptjax.train import build, goodput, log, loop

# model: (preset and changes of it, rows of a batch, steps)
MODELS: dict[str, tuple[dict[str, Any], int, int]] = {
    '6 x 384': (dict(name='gpt2-mini', T=256, V=384), 16, 6),
    '4 x 128': (dict(name='gpt2-micro', T=64, V=384), 12, 200),
}


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / 'text.txt'
        letters = np.random.default_rng(0).choice(list(string.ascii_lowercase), 2**20)
        text.write_text(''.join(letters))
        for (model, loader), number in zip(
            itertools.product(MODELS, pipeline.LOADERS), itertools.count()
        ):
            workdir = Path(folder) / str(number)
            loop.train(build.build(_config(model, loader, text), workdir))
            consumed, waited = _told(workdir)
            made = f'{loader}, {model}'
            yield {
                'name': f'wait for data: {made}', 'value': waited, 'goal': 0.005,
                'direction': 'min', 'unit': 'of the step',
            }  # fmt: skip
            loaded = _loaded(model, loader, Path(folder))
            yield {
                'name': f'loader / what the step consumes: {made}',
                'value': loaded / consumed, 'goal': 200, 'direction': 'max',
                'unit': 'tokens/s', 'ours': loaded, 'peer': consumed,
            }  # fmt: skip


def _config(model: str, loader: str, text: Path) -> ConfigDict:
    preset, batch_size, steps = MODELS[model]
    config = shakespeare_char.get_config()
    config.model = model_table.preset(**preset)
    config.steps = steps
    config.data.update(path=str(text), batch_size=batch_size, loader=loader)
    config.data.build.tokenizer = dict(name='bytes')
    config.eval.rows = batch_size
    config.run.log_every = max(1, steps // 6)
    config.optimizer.warmup_steps = 1
    return config


def _told(workdir: Path) -> tuple[float, float]:
    """Tokens a second of the median record, and the share of time without a batch."""
    speeds = [record['tokens_per_second'] for record in log.read(workdir)]
    lines = goodput.lines(workdir)
    compiled = next(i for i, line in enumerate(lines) if 'compile' in line['seconds'])
    spent = goodput.account(lines[compiled + 1 :])['seconds']
    return statistics.median(speeds), spent['data'] / (spent['data'] + spent['step'])


def _loaded(model: str, loader: str, folder: Path) -> float:
    """Tokens a second of CPU time, in the shapes of the model."""
    preset, batch_size, _ = MODELS[model]
    file, _ = _data_loader._shard(folder)
    stream = rows_lib.Stream([file], [_data_loader.TOKENS], np.dtype('<u2'))
    made = rows_lib.TextRows(stream, preset['T'])
    found = pipeline.batches(
        made, seed=0, batch_size=batch_size, start_row=0, owned=None, loader=loader
    )
    speed = _data_loader._speed(found.__next__)
    found.close()
    return speed * 1e6
