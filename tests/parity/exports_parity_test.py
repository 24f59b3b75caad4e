"""Our own models of every family, under every head, exported and loaded in torch."""

import dataclasses

from golden import cases, oracle
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_family
import torch
import transformers

from gptjax.exchange import huggingface, table
from gptjax.model import config, transformer
from gptjax.text import bytes as bytes_lib

DECODER = {
    'tokens': config.Head(),
    'untied': config.Head(tied=False),
    'classes': config.Head('classes', classes=3),
    'reward': config.Head('reward'),
    'none': config.Head('none'),
}
HEADS = {
    'bert': {
        'masked': config.Head('masked', bias=True),
        'pretraining': config.Head('pretraining', bias=True, pooler=True),
        'classes': config.Head('classes', classes=3, pooler=True),
        'none': config.Head('none'),
        'pooler': config.Head('none', pooler=True),
    },
    'roberta': {
        'masked': config.Head('masked', bias=True),
        'classes': config.Head('classes', classes=3, pooler=True),
        'none': config.Head('none'),
    },
    'bart': {'tokens': config.Head(), 'none': config.Head('none')},
    'marian': {'tokens': config.Head(bias=True), 'none': config.Head('none')},
}
PAIRS = [
    (family, head) for family in table.FAMILIES for head in HEADS.get(family, DECODER)
]
AUTO = {
    'tokens': 'AutoModelForCausalLM',
    'masked': 'AutoModelForMaskedLM',
    'pretraining': 'AutoModelForPreTraining',
    'classes': 'AutoModelForSequenceClassification',
    'reward': 'AutoModelForSequenceClassification',
    'none': 'AutoModel',
}


def width(family):
    """Heads are as wide as D / N in the families that have no setting of their own."""
    return {} if family.startswith(('llama', 'mi', 'qwen')) else {'D': 24, 'H': 6}


def computed(model, params, batch):
    """What an Auto class of the same head returns first."""
    x_BTD, _ = transformer.hidden(model, params, batch)
    kind = model.arch.head.kind
    if kind == 'none':
        return x_BTD
    if kind == 'reward':
        return transformer.rewards(model, params, x_BTD, batch['segments'])[:, None]
    if kind == 'classes':
        return transformer.classify(model, params, x_BTD, batch['segments'])
    return transformer.logits(model, params, x_BTD)


@pytest.mark.parametrize(('family', 'head'), PAIRS)
def test_an_export_loads_and_computes_the_same(family, head, tmp_path, measured):
    made = HEADS.get(family, DECODER)[head]
    arch = dataclasses.replace(tiny_family.arch(family, **width(family)), head=made)
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    params = tiny_family.params(model)
    settings = {'pad_token_id': cases.PAD}
    huggingface.save(arch, params, tmp_path / 'export', settings=settings)

    auto = AUTO[made.kind]
    if arch.encoder_L and made.kind == 'tokens':
        auto = 'AutoModelForSeq2SeqLM'
    # Without a pooler, which their classes have for all that the file lacks one.
    bare = family in ('bert', 'roberta') and head == 'none'
    options = {'add_pooling_layer': False} if bare else {}
    loaded = oracle.load(auto, tmp_path / 'export', **options)
    batch = tiny_family.batch(arch)
    batch['tokens'] = jnp.maximum(batch['tokens'], cases.PAD + 1)
    arrays = {name: np.asarray(array) for name, array in batch.items()}
    with torch.no_grad():
        result = loaded(**oracle.arguments(type(loaded).__name__, arrays))
    ours = np.asarray(computed(model, params, batch))
    distance = float(np.abs(ours - result[0].numpy()).max())
    measured(
        f'{family:10} {head:12} exported: {distance:.1e} of {np.abs(ours).max():.1f}',
        exported=distance,
    )
    assert distance <= 1e-4


@pytest.mark.parametrize(
    ('family', 'head'),
    [('gpt2', 'classes'), ('qwen3', 'reward'), ('roberta', 'masked'),
     ('marian', 'tokens'), ('bart', 'tokens')],
)  # fmt: skip
def test_a_batch_needs_no_setting_for_padding(family, head, tmp_path):
    """As a workdir of ours is exported: no setting names the token of padding."""
    made = HEADS.get(family, DECODER)[head]
    sizes = width(family) | {'V': 264}
    arch = dataclasses.replace(tiny_family.arch(family, **sizes), head=made)
    params = tiny_family.params(transformer.make(arch, tiny.COMPUTE, tiny.sharding()))
    settings = {'pad_token_id': None, 'eos_token_id': 260}
    folder = tmp_path / 'export'
    huggingface.save(arch, params, folder, bytes_lib.Bytes(), settings=settings)
    auto = 'AutoModelForSeq2SeqLM' if arch.encoder_L else AUTO[made.kind]
    loaded = oracle.load(auto, folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    texts = words(['one', 'a text'], padding=True, return_tensors='pt')
    texts.pop('token_type_ids', None)
    labels = {'labels': texts['input_ids']} if arch.encoder_L else {}
    both = loaded(**texts, **labels)
    assert torch.isfinite(both.logits).all()
    if made.kind in ('classes', 'reward'):  # the padding is seen as such
        alone = loaded(torch.tensor([words('one')['input_ids']]))
        assert torch.allclose(both.logits[0], alone.logits[0], atol=1e-5)
