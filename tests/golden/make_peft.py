"""Writes peft.npz: what PEFT makes of adapters over the bases of cases.py.

    .venv-parity/bin/python tests/golden/make_peft.py

Of each adapter it holds adapter_config.json as PEFT writes it, names and shapes of the
tensors (weights.py makes them) and the logits.
"""

import json
from pathlib import Path
import sys
import tempfile
from typing import Any

import numpy as np
import peft
import safetensors.numpy
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden import cases, folder, oracle, weights

SEED = 0
_LLAMA = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'up_proj', 'gate_proj', 'down_proj']
# The case of the base, and the options of LoraConfig.
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    'gpt2': (
        'gpt2',
        dict(
            r=4,
            lora_alpha=6,
            target_modules=['c_attn', 'c_proj'],
            fan_in_fan_out=True,
        ),
    ),
    'gpt2-classes': (
        'gpt2-classes',
        dict(
            r=2,
            lora_alpha=4,
            target_modules=['c_fc'],
            fan_in_fan_out=True,
            modules_to_save=['score'],
        ),
    ),
    'llama': ('llama', dict(r=3, lora_alpha=5, use_rslora=True, target_modules=_LLAMA)),
    'llama-patterns': (
        'llama-groups-4',
        dict(
            r=4,
            lora_alpha=8,
            target_modules=['q_proj', 'v_proj', 'down_proj'],
            rank_pattern={'v_proj': 2, 'layers.1.self_attn.q_proj': 5},
            alpha_pattern={'down_proj': 3},
            modules_to_save=['lm_head'],
        ),
    ),
    'bert': ('bert', dict(r=2, lora_alpha=3, target_modules=['query', 'dense'])),
}


def base(name: str, path: Path) -> None:
    """The folder of a case's base, of seeded weights."""
    with np.load(Path(__file__).with_name('families.npz')) as stored:
        meta = json.loads(str(stored[f'{name}/meta']))
    folder.write(path, meta['config'], meta['shapes'], SEED)


def tensors(shapes: dict[str, Any]) -> dict[str, np.ndarray]:
    """The seeded weights of an adapter, of which `up` is smaller."""
    return {
        name: weights.tensor(name, shape, SEED)
        * np.float32(0.25 if 'lora_B' in name else 1)
        for name, shape in shapes.items()
    }


def logits(loaded: Any, name: str) -> np.ndarray:
    """Logits of a loaded model for the batch of a case, at real tokens or of rows."""
    case = cases.CASES[name]
    batch = cases.inputs(name, SEED)
    with torch.no_grad():
        found = loaded(**oracle.arguments(case.model, batch)).logits.numpy()
    return found if found.ndim == 2 else found[batch['segments'] > 0]


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    stored = {}
    for key, (name, options) in ADAPTERS.items():
        with tempfile.TemporaryDirectory() as made:
            place = Path(made)
            base(name, place / 'base')
            model = cases.CASES[name].model
            blank = oracle.load(model, place / 'base')
            config = peft.LoraConfig(**options)
            peft.get_peft_model(blank, config).save_pretrained(place / 'adapter')
            path = place / 'adapter' / 'adapter_model.safetensors'
            shapes = {
                tensor: list(value.shape)
                for tensor, value in safetensors.numpy.load_file(path).items()
            }
            safetensors.numpy.save_file(tensors(shapes), path, {'format': 'pt'})
            loaded = peft.PeftModel.from_pretrained(
                oracle.load(model, place / 'base'), place / 'adapter'
            )
            described = json.loads((path.parent / 'adapter_config.json').read_text())
            before = logits(oracle.load(model, place / 'base'), name)
            after = logits(loaded.eval(), name)
        described['base_model_name_or_path'] = 'somewhere'
        meta = {'base': name, 'config': described, 'shapes': shapes}
        stored[f'{key}/meta'] = np.array(json.dumps(meta))
        stored[f'{key}/logits'] = after
        print(f'{key:16} moves logits by {np.abs(after - before).max():.2f}')
    versions = f'peft {peft.__version__}, transformers {transformers.__version__}'
    path = Path(__file__).with_name('peft.npz')
    np.savez_compressed(path, versions=versions, **stored)
    print(path, path.stat().st_size, 'bytes,', versions)


if __name__ == '__main__':
    main()
