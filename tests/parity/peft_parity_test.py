"""Adapters through PEFT itself, in both directions."""

import dataclasses
import json

from golden import cases, make_peft, oracle
import jax
import jax.numpy as jnp
import numpy as np
import peft as theirs
import pytest
import tiny
import tiny_family
import torch

from gptjax import trees
from gptjax.exchange import huggingface, peft
from gptjax.model import lora, transformer
from gptjax.train import adapter as adapter_lib

# PEFT asks transformers in words that are deprecated there.
pytestmark = pytest.mark.filterwarnings('ignore::FutureWarning')
AUTO = {'bert': 'AutoModelForMaskedLM', 'bart': 'AutoModelForSeq2SeqLM'}


@pytest.mark.parametrize('stable', [False, True])
@pytest.mark.parametrize(
    'family', ['gpt2', 'llama', 'mistral', 'qwen2', 'qwen3', 'mixtral', 'bert', 'bart']
)
def test_peft_loads_ours_onto_the_exported_base(family, stable, tmp_path, measured):
    """Every matrix of the family; queries, keys and values have own factors."""
    arch = tiny_family.arch(family, D=24, H=6)
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    params = tiny_family.params(model)
    flat = dict(trees.paths(params))
    train = ['norm/scale'] if 'norm/scale' in flat else []
    section = adapter_lib.Adapter(
        R=3,
        alpha=5.0,
        rank_stabilised=stable,
        # Of experts and of heads that are tied, PEFT has other ideas.
        targets=[p for p in flat if lora.adaptable(p) and not p.startswith('head')],
        train=train,
        base='float32',
    )
    boxed = transformer.abstract(model)
    shapes = jax.eval_shape(
        lambda: section.start(boxed, tiny.sharding(), 0, lambda: params)
    )
    rng = np.random.default_rng(0)
    if family == 'gpt2':
        shapes.pop('norm', None)  # half a module is no module
        section = dataclasses.replace(section, train=[])
    own = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype), shapes
    )
    settings = {'pad_token_id': cases.PAD}
    huggingface.save(arch, params, tmp_path / 'base', settings=settings)
    (tmp_path / 'adapter').mkdir()
    peft.write(
        tmp_path / 'adapter', arch, peft.Adapter(own, section, ''), base_name=None
    )

    blank = oracle.load(AUTO.get(family, 'AutoModelForCausalLM'), tmp_path / 'base')
    loaded = theirs.PeftModel.from_pretrained(blank, tmp_path / 'adapter').eval()
    batch = tiny_family.batch(arch)
    batch['tokens'] = jnp.maximum(batch['tokens'], cases.PAD + 1)
    arrays = {name: np.asarray(array) for name, array in batch.items()}
    name = type(blank).__name__
    with torch.no_grad():
        wanted = loaded(**oracle.arguments(name, arrays)).logits.numpy()
    joined = lora.join(params, own, section.scale)
    ours = np.asarray(transformer.forward(model, joined, batch))
    distance = float(np.abs(ours - wanted).max())
    kind = 'rsLoRA' if stable else 'LoRA'
    measured(
        f'{family:10} {kind:7} loaded by PEFT: {distance:.1e} of '
        f'{np.abs(wanted).max():.1f}',
        peft=distance,
    )
    assert distance <= 1e-5
    loaded.save_pretrained(tmp_path / 'again')
    back = peft.read(tmp_path / 'again', arch)
    jax.tree.map(np.testing.assert_array_equal, back.params, own)
    assert back.section.scale == pytest.approx(section.scale)


@pytest.mark.parametrize('key', make_peft.ADAPTERS)
def test_ours_computes_what_peft_trained(key, tmp_path, measured):
    """After two steps of torch, the folder that PEFT saves is read and computed."""
    name, options = make_peft.ADAPTERS[key]
    make_peft.base(name, tmp_path / 'base')
    torch.manual_seed(0)
    blank = oracle.load(cases.CASES[name].model, tmp_path / 'base')
    loaded = theirs.get_peft_model(blank, theirs.LoraConfig(**options))
    batch = cases.inputs(name, 0)
    arguments = oracle.arguments(cases.CASES[name].model, batch)
    moved = [p for p in loaded.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(moved, lr=0.3)
    for _ in range(2):
        loss = loaded(**arguments).logits.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loaded.eval().save_pretrained(tmp_path / 'adapter')
    wanted = make_peft.logits(loaded, name)
    arch, params = huggingface.load(tmp_path / 'base')
    adapter = peft.read(tmp_path / 'adapter', arch)
    joined = lora.join(params, adapter.params, adapter.section.scale)
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    arrays = {name: jnp.asarray(array) for name, array in batch.items()}
    x_BTD, _ = transformer.hidden(model, joined, arrays)
    if arch.head.kind == 'classes':
        ours = transformer.classify(model, joined, x_BTD, arrays['segments'])
    else:
        logits = np.asarray(transformer.logits(model, joined, x_BTD))
        ours = logits[batch['segments'] > 0]
    distance = float(np.abs(np.asarray(ours) - wanted).max())
    measured(
        f'{key:16} trained by PEFT: {distance:.1e} of {np.abs(wanted).max():.1f}',
        peft=distance,
    )
    assert distance <= 1e-5
    settings = json.loads((tmp_path / 'adapter' / peft.CONFIG).read_text())
    assert settings['peft_version']
