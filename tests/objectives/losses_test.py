"""Losses of fine-tuning against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_family

from gptjax import command
from gptjax.model import config, transformer
from gptjax.objectives import classification, reward, seq2seq
from gptjax.train import step


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_label_smoothing_is_cross_entropy_with_a_smoothed_target():
    """Against a target distribution that is written out, token by token."""
    model = tiny_family.model('transformer')
    params, batch = tiny_family.params(model), tiny_family.batch(model.arch)
    rng = np.random.default_rng(0)
    shape = batch['tokens'].shape
    targets = rng.integers(0, model.arch.V, shape)
    weights = (rng.random(shape) < 0.6).astype(np.float32)
    batch |= {'targets': jnp.asarray(targets), 'weights': jnp.asarray(weights)}
    logits = jax.jit(lambda p: transformer.forward(model, p, batch))(params)
    log_p, eps, V = log_softmax(logits), 0.2, model.arch.V
    wanted = np.full((*shape, V), eps / V)
    np.put_along_axis(wanted, targets[..., None], 1 - eps + eps / V, axis=-1)
    smooth = -(wanted * log_p).sum(-1)
    plain = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    loss_fn = jax.jit(seq2seq.make(model, label_smoothing=eps))
    found = step.means(loss_fn(params, {}, batch, None))
    total = weights.sum()
    assert float(found['loss']) == pytest.approx((smooth * weights).sum() / total, 1e-5)
    assert float(found['cross_entropy']) == pytest.approx(
        (plain * weights).sum() / total, 1e-5
    )
    right = (np.asarray(logits).argmax(-1) == targets) * weights
    assert float(found['accuracy']) == pytest.approx(right.sum() / total)


def test_a_smoothing_of_one_leaves_no_target():
    with pytest.raises(command.UserError, match=r'label_smoothing is 1\.0'):
        seq2seq.make(tiny_family.model('transformer'), label_smoothing=1.0)


def test_classes_are_cross_entropy_of_rows():
    head = config.Head('classes', classes=3, pooler=True)
    model = tiny_family.model('bert', head=head)
    params, batch = tiny_family.params(model), tiny_family.batch(model.arch, rows=6)
    labels, weights = np.array([0, 1, 2, 2, 1, 0]), np.array([1, 1, 0, 1, 1, 1.0])
    batch |= {'labels': jnp.asarray(labels), 'weights': jnp.asarray(weights)}

    @jax.jit
    def classes(params):
        hidden, _ = transformer.hidden(model, params, batch)
        return transformer.classify(model, params, hidden, batch['segments'])

    logits = classes(params)
    nats = -log_softmax(logits)[np.arange(6), labels]
    right = np.asarray(logits).argmax(-1) == labels
    found = step.means(jax.jit(classification.make(model))(params, {}, batch, None))
    assert float(found['loss']) == pytest.approx((nats * weights).sum() / 5, 1e-5)
    assert float(found['accuracy']) == pytest.approx((right * weights).sum() / 5)


def test_a_reward_is_that_of_the_whole_conversation():
    """Each answer alone and unpadded, its last token included, as NumPy ranks them."""
    model = tiny_family.model('gpt2', head=config.Head('reward'))
    params, T = tiny_family.params(model), model.arch.T
    rng = np.random.default_rng(1)
    lengths = np.array([[5, 9], [9, 5], [T + 1, T]])  # the longest is cut

    @jax.jit
    def reward_of(batch):
        hidden, _ = transformer.hidden(model, params, batch)
        return transformer.rewards(model, params, hidden, batch['segments'])

    batch = {
        key: np.zeros((3, 2, T), np.int32)
        for key in ('tokens', 'targets', 'segments', 'positions')
    } | {'weights': np.zeros((3, 2, T), np.float32)}
    rewards = np.zeros((3, 2))
    for place in np.ndindex(3, 2):
        n = lengths[place]
        ids = rng.integers(1, model.arch.V, n)
        batch['tokens'][place][: n - 1], batch['targets'][place][: n - 1] = (
            ids[:-1],
            ids[1:],
        )
        batch['segments'][place][: n - 1] = 1
        batch['positions'][place][: n - 1] = np.arange(n - 1)
        batch['weights'][place][n - 2] = 1
        alone = {
            'tokens': jnp.asarray(ids[None, :T], jnp.int32),
            'positions': jnp.arange(min(n, T))[None],
            'segments': jnp.ones((1, min(n, T)), jnp.int32),
        }
        (rewards[place],) = reward_of(alone)
    margin = rewards[:, 0] - rewards[:, 1]
    batch = jax.tree.map(jnp.asarray, batch)
    found = step.means(jax.jit(reward.make(model, 0.0))(params, {}, batch, None))
    assert float(found['loss']) == pytest.approx(np.log1p(np.exp(-margin)).mean(), 1e-4)
    assert 'centre' not in found
    least = np.array([0.5, 0, 2], np.float32)
    loss_fn = jax.jit(reward.make(model, 0.3))
    found = step.means(loss_fn(params, {}, batch | {'margins': least}, None))
    nats = np.log1p(np.exp(least - margin)).mean()
    centre = 0.3 * (rewards.sum(1) ** 2).mean()
    assert float(found['centre']) == pytest.approx(centre, 1e-3)
    assert float(found['loss']) == pytest.approx(nats + centre, 1e-4)
    assert float(found['margin']) == pytest.approx(margin.mean(), 1e-3)
    assert float(found['accuracy']) == pytest.approx((margin > 0).mean())


def test_a_reward_is_not_pushed_from_the_centre():
    model = tiny_family.model('gpt2', head=config.Head('reward'))
    with pytest.raises(command.UserError, match=r'objective\.centre is -1'):
        reward.make(model, -1.0)
