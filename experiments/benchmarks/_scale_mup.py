"""muP: activations of models of 128 to 1,024 move alike; and the best learning rate."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from configs.demo import pretrain
from gptjax.evals import widths

WIDTHS = (128, 256, 512, 1024)
MUON = dict(name='muon', momentum=0.95, nesterov=True, adam_ratio=1.0)


def rows() -> Iterator[dict[str, Any]]:
    for name, changes in (('AdamW', {}), ('Muon', MUON)):
        config = pretrain.get_config()
        config.model.base_D = WIDTHS[0]
        config.optimizer.update(learning_rate=1e-3, warmup_steps=0, **changes)
        found, losses = widths.changes(config, WIDTHS, steps=10)
        print(widths.text(found, losses))
        for activation, slopes in widths.slopes(found).items():
            yield {
                'name': f'muP, {name}: {activation}, power of the width, 10 steps',
                'value': max(map(abs, slopes)), 'goal': 0.1, 'direction': 'min',
                'unit': 'power',
            }  # fmt: skip
    losses = import_module('experiments.2026_11_mup').RESULT
    best = {name: min(of, key=of.get) for name, of in losses.items()}
    apart = best['muP'] / best['width 128']
    yield {
        'name': 'muP: best learning rate at width 512 / at 128',
        'value': max(apart, 1 / apart), 'goal': 2.0, 'direction': 'min',
        'unit': 'times', 'ours': best['muP'], 'peer': best['width 128'],
        'command': 'python -m experiments.2026_11_mup DATASET',
    }  # fmt: skip
