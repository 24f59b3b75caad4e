"""Texts to classes as transformers has them: tokenizer, frame, model and all."""

import json

import foreign_tokenizers
import numpy as np
import pytest
import tiny
import tiny_family
import torch
import transformers

from gptjax.exchange import huggingface, workdir
from gptjax.generate import reader as reader_lib
from gptjax.model import transformer
from gptjax.text import gpt2, table
from gptjax.train import build

TEXTS = ['A fine film about nothing.', 'no', 'Three words more, and a number: 42.']
PAIRS = ['Dull.', 'Yes, it is!', 'x']


@pytest.fixture(scope='module')
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp('gpt2')
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters += [256 + i for i in range(256 - len(letters))]
    merges = ['Ġ t', 'h e', 'Ġt he', 'i n']
    words = [*map(chr, letters), *(pair.replace(' ', '') for pair in merges)]
    encoder = {word: i for i, word in enumerate([*words, '<|endoftext|>'])}
    (folder / 'encoder.json').write_text(json.dumps(encoder))
    (folder / 'vocab.bpe').write_text('\n'.join(['#version: 0.2', *merges, '']))
    published = gpt2.GPT2(encoder, merges, control=gpt2.PUBLISHED)
    documents = ['The model reads a token, and writes the loss.\n'] * 200
    return {
        'own': table.make(lambda: [], 'bytes'),
        'published': published,
        **foreign_tokenizers.make(documents, folder),
    }


@pytest.mark.parametrize(
    ('family', 'name', 'pairs'),
    [
        ('gpt2', 'published', None),
        ('gpt2', 'own', None),
        ('llama', 'llama', None),
        ('bert', 'bert', None),
        ('bert', 'bert', PAIRS),
        ('bert', 'own', None),
        ('roberta', 'roberta', PAIRS),
    ],
)
def test_classes_of_texts_are_equal(family, name, pairs, tokenizers, tmp_path):
    tokenizer = tokenizers[name]
    arch = tiny_family.arch(family, T=64, V=tokenizer.vocab_size, H=4)
    arch = arch.with_head(kind='classes', classes=3, pooler=not arch.causal, bias=False)
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    huggingface.save(arch, tiny_family.params(model), tmp_path / 'in', tokenizer)
    workdir.import_model(tmp_path / 'in', tmp_path / 'workdir')
    workdir.export_model(tmp_path / 'workdir', tmp_path / 'out')

    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
    loaded, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / 'out', output_loading_info=True
    )
    assert not report['missing_keys']
    assert not report['unexpected_keys']
    loaded.eval()
    expected = []
    for i, text in enumerate(TEXTS):
        second = None if pairs is None else pairs[i]
        inputs = theirs(text, second, return_tensors='pt')
        with torch.no_grad():
            logits = loaded(**inputs).logits[0].double()
        expected.append(torch.softmax(logits, -1).numpy())
    trained = build.load(tmp_path / 'workdir')
    reader = reader_lib.Reader(trained.model, trained.params, trained.tokenizer)
    found = reader.classify(TEXTS, pairs)
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
    assert np.ptp(np.stack(expected), axis=0).max() > 0.03
