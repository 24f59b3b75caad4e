"""What products in 8 bits cost in quality, on characters of Shakespeare.

Question: how much worse is a model whose layers multiply in int8 forward, or in fp8?
Baseline: configs/shakespeare_char.py with 2 layers of width 64, for 300 steps.
Change:   compute.products is 'int8' or 'fp8'; the same seeds, so the same weights to
          begin with and the same batches.
Command:  GPTJAX_DATA=DIR python -m experiments.2026_11_low_precision [KIND ...]
Verdict:  no cost is seen. Beside plain float32 with the same seed, the loss of int8 is
          0.011 nats lower in the mean of three seeds, that of fp8 0.001 higher, and
          pairs spread by 0.016 and 0.017: a cost of less than 0.04 would be hidden. Of
          deeper models and longer runs this says nothing.
"""

import json
import os
from pathlib import Path
import sys
import tempfile

from ml_collections import ConfigDict

from configs import shakespeare_char
from gptjax.model import table as model_table

SEEDS = (0, 1, 2)

# The loss on the held-out tenth after the last step, in nats a character, by seed.
RESULT = {
    'commit': '5d7a0ff, before it was committed',
    'hardware': '2 cores, AMD EPYC, jax 0.10.2',
    'tokens': 300 * 12 * 64,
    'runs': {
        'plain': {0: 2.3931, 1: 2.3909, 2: 2.3920},
        'int8': {0: 2.3998, 1: 2.3651, 2: 2.3789},
        'fp8': {0: 2.4075, 1: 2.3974, 2: 2.3731},
    },
}


def get_config(products: str = 'int8') -> ConfigDict:
    config = shakespeare_char.get_config()
    config.steps = 300
    config.model = model_table.preset('gpt2-micro', T=64, V=384, L=2, D=64)
    config.compute.scan_unroll = 2
    config.compute.products = products
    config.checkpoint.every = config.eval.every = 300
    return config


def measure(products: str, seed: int) -> float:
    """The loss on the held-out tenth, in nats a character."""
    from gptjax.train import build, loop

    config = get_config(products)
    config.seed = seed
    config.data.path = f'{os.environ["GPTJAX_DATA"]}/tinyshakespeare/input.txt'
    config.data.loader = 'threads'
    with tempfile.TemporaryDirectory() as folder:
        loop.train(build.build(config, Path(folder)))
        lines = (Path(folder) / 'metrics.jsonl').read_text().splitlines()
    return float(json.loads(lines[-1])['eval_loss'])


def main() -> None:
    for seed in SEEDS:
        for kind in sys.argv[1:] or ('plain', 'int8', 'fp8'):
            print(kind, seed, round(measure(kind, seed), 4), flush=True)


if __name__ == '__main__':
    main()
