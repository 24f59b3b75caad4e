"""Does the learning rate of width 128 hold at width 512, on Python's documentation?

Question: under muP, is the best learning rate at width 512 within a factor of 2 of that
at width 128?
Baseline: the standard parametrization at width 512, 2 layers, 150 steps of 4 rows of
          256 tokens, AdamW with a cosine.
Change:   model.base_D = 128: hidden weights, their updates and logits scale with width.
Command:  python -m experiments.2026_11_mup DATASET [FOLDER], where DATASET is
          configs/data/python_docs.py as built, and finished runs are in FOLDER.
Verdict:  yes: it is 4e-3 at both, and the loss at width 512 is 0.09 lower. Of the
          standard parametrization at width 512 only the two lowest rates were measured;
          both are worse than muP's best, by 0.17 and more. One seed each.
"""

import json
from pathlib import Path
import sys
import tempfile
from typing import Any

from ml_collections import ConfigDict

from configs.demo import pretrain

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
# base_D, D
MODELS = {'width 128': (128, 128), 'muP': (128, 512), 'standard': (0, 512)}

# Nats a token on held-out rows, after 153,600; 2 cores, jax 0.10.2, commit 700d217.
RESULT: dict[str, Any] = {
    'width 128': {1e-3: 4.302, 2e-3: 4.021, 4e-3: 3.919, 8e-3: 4.290, 1.6e-2: 4.670},
    'muP': {1e-3: 4.083, 2e-3: 3.854, 4e-3: 3.828, 8e-3: 4.228, 1.6e-2: 4.826},
    'standard': {1e-3: 4.077, 2e-3: 3.996},
}


def get_config(
    base_D: int = 128, D: int = 512, learning_rate: float = 4e-3
) -> ConfigDict:
    config = pretrain.get_config()
    config.steps = 150
    config.model.update(D=D, F=4 * D, N=D // 64, K=D // 64, base_D=base_D)
    config.data.loader = 'threads'
    config.optimizer.learning_rate = learning_rate
    config.optimizer.warmup_steps = 15
    config.optimizer.final_learning_rate = learning_rate / 100
    config.checkpoint.every = config.eval.every = config.run.log_every = 10_000
    return config


def measure(data: str, *given: Any) -> float:
    """The loss on held-out rows after the last step, in nats a token."""
    from gptjax.train import build, loop

    config = get_config(*given)
    config.data.path = data
    with tempfile.TemporaryDirectory() as folder:
        loop.train(build.build(config, Path(folder)))
        lines = (Path(folder) / 'metrics.jsonl').read_text().splitlines()
    return float(json.loads(lines[-1])['eval_loss'])


def main() -> None:
    data, folder = sys.argv[1], Path([*sys.argv, '.'][2])
    known = folder / 'mup.json'
    found: dict[str, float] = json.loads(known.read_text()) if known.exists() else {}
    for name, model in MODELS.items():
        for rate in RATES:
            label = f'{name} {rate:g}'
            if label not in found:
                found[label] = measure(data, *model, rate)
                known.write_text(json.dumps(found))
            print(label, round(found[label], 4), flush=True)


if __name__ == '__main__':
    main()
