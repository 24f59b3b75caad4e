"""Each family against `transformers` on the same weights, by way of its folder."""

import json
from pathlib import Path

from golden import cases, folder, ours
import numpy as np
import pytest

from gptjax.exchange import huggingface


@pytest.fixture(scope='module')
def golden():
    """Made by tests/golden/make_families.py, with torch; it holds the versions."""
    with np.load(Path(__file__).parents[1] / 'golden' / 'families.npz') as file:
        return dict(file)


@pytest.mark.parametrize('name', cases.CASES)
def test_logits_and_gradients_equal_those_of_transformers(golden, name, tmp_path):
    meta = json.loads(str(golden[f'{name}/meta']))
    folder.write(tmp_path, meta['config'], meta['shapes'], int(golden['seed']))
    arch, params = huggingface.load(tmp_path)
    prefix = f'{name}/inputs/'
    inputs = {k.removeprefix(prefix): v for k, v in golden.items() if prefix in k}
    too = name in cases.GRADIENTS
    outputs, slopes = ours.run(arch, params, inputs, cases.CASES[name].outputs, too)

    truth = {key: golden[f'{name}/{key}'] for key in outputs}
    assert max(np.abs(value).max() for value in truth.values()) > 1  # 1e-4 of something
    assert ours.distance(outputs, truth) <= 1e-4
    if too:
        summaries = dict(zip(meta['shapes'], golden[f'{name}/gradients'], strict=True))
        error, worst = ours.gradient_distance(ours.named(arch, slopes), summaries)
        assert error <= 1e-3, worst
