"""Preference losses beside TRL's, live: on log-probabilities, and from logits."""

import json
import os
from pathlib import Path

from golden import preference_cases, trl_preferences
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import transformers

from gptjax.exchange import huggingface
from gptjax.model import transformer
from gptjax.objectives import preference, preferences
from gptjax.train import step

SEED = int(os.environ.get('GPTJAX_PARITY_SEED', '1'))
GOLDEN = Path(__file__).parents[1] / 'golden' / 'preferences.json'


def test_the_golden_file_is_what_trl_says():
    stored = json.loads(GOLDEN.read_text())
    again = trl_preferences.all_of(stored['seed'])
    for name, found in again.items():
        for key, value in found.items():
            np.testing.assert_allclose(stored['losses'][name][key], value, rtol=1e-12)


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    """Two tiny GPT-2 of torch, policy and reference, and the same of ours; a batch."""
    torch.manual_seed(SEED)
    theirs, ours = [], []
    for name in ('policy', 'reference'):
        settings = transformers.GPT2Config(
            vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2,
            initializer_range=0.2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        theirs.append(transformers.GPT2LMHeadModel(settings).eval())
        folder = tmp_path_factory.mktemp(name)
        theirs[-1].save_pretrained(folder)
        ours.append(huggingface.load(folder))
    rng = np.random.default_rng(SEED)
    _, mask = preference_cases.made(SEED, pairs=6)
    ids = rng.integers(1, 50, mask.shape)
    return theirs, ours, ids, mask


def of_torch(model):
    """Log-probabilities of labels [B, T - 1], 0 where they are -100."""

    def log_p(ids, labels):
        logits = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        wanted = labels[:, 1:]
        picked = logits.gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
        return picked * (wanted != -100)

    return log_p


def batch_of(ids, mask):
    """Chosen before rejected -> pairs, as our rows are."""

    def pairs(x):
        return jnp.asarray(x.reshape(2, -1, x.shape[-1]).swapaxes(0, 1))

    shape = ids[:, 1:].shape
    return {
        'tokens': pairs(ids[:, :-1].astype(np.int32)),
        'targets': pairs(ids[:, 1:].astype(np.int32)),
        'segments': pairs(np.ones(shape, np.int32)),
        'positions': pairs(np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)),
        'weights': pairs(mask[:, 1:].astype(np.float32)),
    }


@pytest.mark.parametrize('name', [*preferences.LOSSES, *preferences.UNPAIRED])
def test_from_logits(both, name, measured):
    """Answers by themselves stand beside the one before, on which kto has its KL."""
    (policy, against), ((arch, params), (_, start)), ids, mask = both
    options = (preference_cases.OPTIONS | preference_cases.UNPAIRED)[name]
    model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
    settings, good = dict(name=name, **options), preference_cases.good(len(ids))
    frozen = {'reference': start, 'running': preferences.RUNNING.get(name, {})}
    torch_ids, torch_mask = torch.tensor(ids), torch.tensor(mask)
    labels = torch_ids.masked_fill(torch_mask == 0, -100)
    with torch.no_grad():
        sums = of_torch(against)(torch_ids, labels).sum(-1)
        own = of_torch(policy)(torch_ids, labels).sum(-1)
    policy.zero_grad()
    given = name, options, of_torch(policy), torch_ids, torch_mask, sums
    if name in preferences.LOSSES:
        wanted = trl_preferences.pairs(*given)
        batch = batch_of(ids, mask)
        without = name in preferences.WITHOUT_REFERENCE
        loss_fn = preference.make(model, settings, 'none' if without else 'live')
    else:
        kl = own.roll(1), sums.roll(1)
        wanted, estimate = trl_preferences.answers(*given, torch.tensor(good), kl)
        twice = (np.concatenate([x, np.roll(x, 1, 0)]) for x in (ids, mask))
        batch = batch_of(*twice) | {'labels': jnp.asarray(good, jnp.int32)}
        loss_fn = preference.make_kto(model, settings, 'live')
        frozen['running'] = {'kl': estimate}
    wanted.backward()
    squares = [p.grad.square().sum() for p in policy.parameters() if p.grad is not None]
    norm = float(torch.stack(squares).sum().sqrt())

    def loss(params):
        found = loss_fn(params, frozen, batch, None)
        total, weight = found.terms['loss']  # of orpo, without its cross-entropy
        return total / weight, step.means(found)

    (value, means), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    if name in preferences.UNPAIRED:
        assert max(float(means['kl']), 0) == pytest.approx(estimate, abs=1e-5)
    squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)]
    apart = abs(float(value) - wanted.item()) / max(1.0, abs(wanted.item()))
    norms = abs(float(jnp.sqrt(sum(squares))) / norm - 1)
    measured(f'{name:20} loss {apart:.1e}  gradient norm {norms:.1e}', loss=apart)
    assert apart <= 1e-5
    assert norms <= 1e-4
