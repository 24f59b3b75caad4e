"""Writes families.npz: what `transformers` makes of every case of cases.py.

    make golden        (in a virtual environment of its own: torch and transformers)

Of weights it holds names and shapes (weights.py makes them), of gradients a norm and a
few products with random vectors (weights.summary).
"""

import json
from pathlib import Path
import sys
import tempfile

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden import cases, oracle, weights

SEED = 0


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    stored = {}
    for name in cases.CASES:
        with tempfile.TemporaryDirectory() as folder:
            truth = oracle.truth(name, SEED, Path(folder))
        meta = {'config': truth.config, 'shapes': truth.shapes}
        stored[f'{name}/meta'] = np.array(json.dumps(meta))
        for key, array in truth.outputs.items():
            stored[f'{name}/{key}'] = array
        if name in cases.GRADIENTS:
            stored[f'{name}/gradients'] = np.stack(
                [weights.summary(*item) for item in truth.gradients.items()]
            )
        for key, array in cases.inputs(name, SEED).items():
            stored[f'{name}/inputs/{key}'] = array.astype(np.int8)
        spread = {k: f'{np.abs(v).max():.2f}' for k, v in truth.outputs.items()}
        print(f'{name:20} largest: {spread}')
    versions = f'torch {torch.__version__}, transformers {transformers.__version__}'
    path = Path(__file__).with_name('families.npz')
    np.savez_compressed(path, versions=versions, seed=SEED, **stored)
    print(path, path.stat().st_size, 'bytes,', versions)


if __name__ == '__main__':
    main()
