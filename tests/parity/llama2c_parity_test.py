"""stories260K in transformers: the text that llama2.c prints, and its own tables."""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

from gptjax.exchange import llama2c, workdir

GOLDEN = json.loads(
    (Path(__file__).parents[1] / 'golden' / 'stories260k.json').read_text()
)


def test_an_export_prints_what_llama2c_prints(real_data, tmp_path):
    workdir.import_model(real_data('stories260K/stories260K.bin'), tmp_path / 'workdir')
    workdir.export_model(tmp_path / 'workdir', tmp_path / 'folder')
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'folder')
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'folder')
    assert type(model).__name__ == 'LlamaForCausalLM'
    for case in GOLDEN['printed']:
        ids = tokenizer(case['prompt'], add_special_tokens=False).input_ids
        prompt = torch.tensor([[1, *ids]])
        made = model.generate(
            prompt, do_sample=False, max_length=case['steps'] + 1, eos_token_id=1
        )
        text = tokenizer.decode(made[0], skip_special_tokens=True)
        assert text.removeprefix(' ') == case['text']


def test_tables_of_positions_are_those_of_torch_but_for_roundings(real_data, measured):
    """As llama2.c's exporter makes them, and as they stand in its file."""
    path = real_data('stories260K/stories260K.bin')
    arch = llama2c.read(path)[0]
    powers = torch.arange(0, arch.H, 2).float() / arch.H
    angles = torch.outer(torch.arange(arch.T), 1 / 10_000.0**powers).float()
    theirs = angles.cos().numpy(), angles.sin().numpy()
    filed = np.fromfile(path, '<f4')[-arch.T * arch.H :].reshape(2, arch.T, -1)
    np.testing.assert_allclose(filed, theirs, rtol=0, atol=6e-8)
    ours = np.stack(llama2c.rotary(arch))
    exact = angles.double()
    right = np.stack([exact.cos().float().numpy(), exact.sin().float().numpy()])
    np.testing.assert_array_equal(ours, right)
    measured(
        f'llama2c tables of positions: {(ours != filed).sum()} of {ours.size} differ'
    )
