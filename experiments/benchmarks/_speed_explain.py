"""The share of a step that `explain` gives to named stages: 6 layers of width 384."""

from collections.abc import Iterator
from pathlib import Path
import string
import tempfile
from typing import Any

import numpy as np

from configs import shakespeare_char
from gptjax.model import table as model_table
from gptjax.train import build, explain, loop


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / 'text.txt'
        letters = np.random.default_rng(0).choice(list(string.ascii_lowercase), 2**20)
        text.write_text(''.join(letters))
        config = shakespeare_char.get_config()
        config.model = model_table.preset('gpt2-mini', T=256, V=384)
        config.data.update(path=str(text), batch_size=16, loader='threads')
        config.data.build['tokenizer'] = dict(name='bytes')
        config.compute.scan_unroll = 6
        config.steps, config.optimizer.warmup_steps = 1, 0
        loop.train(build.build(config, Path(folder) / 'run'))
        found = explain.explain(Path(folder) / 'run')
    print(explain.text(found))
    named = (sum(of.values()) for part, of in found['stages'].items() if part)
    yield {
        'name': "explain: the step's time in named stages, 6 x 384",
        'value': sum(named), 'goal': 0.9, 'direction': 'max', 'unit': 'of the step',
    }  # fmt: skip
