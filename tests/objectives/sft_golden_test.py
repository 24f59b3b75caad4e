"""Fine-tuning: the loss of TRL's trainer, and documents that do not see each other."""

import json
from pathlib import Path

from golden import folder
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gptjax.data import rows as rows_lib
from gptjax.data import turn_rows
from gptjax.exchange import huggingface
from gptjax.model import transformer
from gptjax.objectives import next_token

TRUTH = json.loads((Path(__file__).parents[1] / 'golden' / 'chat.json').read_text())
SFT, T = TRUTH['sft'], 160


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """(model, parameters) with the weights that TRL had."""
    path = tmp_path_factory.mktemp('gpt2')
    folder.write(path, SFT['config'], SFT['shapes'], 0)
    arch, params = huggingface.load(path)
    return transformer.make(arch, tiny.COMPUTE, tiny.sharding()), params


def rows_of(path, conversations):
    """Packed rows of (ids, weights)."""
    streams = {}
    for number, (name, dtype) in enumerate((('tokens', '<u2'), ('mask', '<f4'))):
        flat = np.concatenate([np.array(one[number], dtype) for one in conversations])
        flat.tofile(path / name)
        streams[name] = rows_lib.Stream([path / name], [len(flat)], np.dtype(dtype))
    starts = np.cumsum([0, *(len(ids) for ids, _ in conversations)])
    return turn_rows.ChatRows(turn_rows.Sequences(*streams.values(), starts), T)


def read(rows, count):
    """All rows, and padding up to `count` of them."""
    found = rows.read(np.arange(len(rows)))
    more = ((0, count - len(rows)), (0, 0))
    return {name: jnp.asarray(np.pad(array, more)) for name, array in found.items()}


@pytest.fixture(scope='module')
def losses(model):
    """(the loss of the objective, nats of each token) of a batch."""
    made, params = model

    @jax.jit
    def both(batch, params):
        total, weight = next_token.make(made)(params, {}, batch, None).terms['loss']
        x_BTD, _ = transformer.hidden(made, params, batch)
        logits_BTV = transformer.logits(made, params, x_BTD)
        return total / weight, -next_token.log_likelihood(logits_BTV, batch['targets'])

    return lambda batch: jax.device_get(both(batch, params))


CONVERSATIONS = list(zip(SFT['ids'], SFT['masks'], strict=True))
COUNT = len(CONVERSATIONS)


def test_the_loss_is_that_of_trl_packed_or_not(tmp_path, losses):
    assert max(map(max, SFT['masks'])) == 1
    packed = rows_of(tmp_path, CONVERSATIONS)
    assert len(packed) < COUNT
    batch = read(packed, COUNT)
    loss, nats_BT = losses(batch)
    assert loss == pytest.approx(SFT['loss'], abs=1e-5)
    assert batch['weights'].sum() == sum(sum(mask[1:]) for mask in SFT['masks'])
    alone = [read(rows_of(tmp_path, [one]), 1) for one in CONVERSATIONS]
    separate = {name: jnp.concatenate([a[name] for a in alone]) for name in batch}
    loss, nats_alone_BT = losses(separate)
    assert loss == pytest.approx(SFT['loss'], abs=1e-5)

    def by_conversation(batch, nats_BT):
        tokens, segments = np.asarray(batch['tokens']), np.asarray(batch['segments'])
        found = {}
        for row in range(COUNT):
            for segment in range(1, segments[row].max() + 1):
                inside = segments[row] == segment
                found[tuple(tokens[row, inside].tolist())] = nats_BT[row, inside]
        return found

    together = by_conversation(batch, nats_BT)
    apart = by_conversation(separate, nats_alone_BT)
    assert together.keys() == apart.keys()
    for ids, nats in apart.items():
        np.testing.assert_allclose(together[ids], nats, rtol=0, atol=1e-5)


def test_a_packed_conversation_changes_no_other(tmp_path, losses):
    batch = read(rows_of(tmp_path, CONVERSATIONS), COUNT)
    _, before_BT = losses(batch)
    segments = np.asarray(batch['segments'])
    row = int(np.argmax(segments.max(1)))
    assert segments[row].max() > 1
    for segment in (1, segments[row].max()):
        inside = segments == segment
        inside[np.arange(COUNT) != row] = False
        tokens = np.asarray(batch['tokens'])
        tokens = jnp.asarray(np.where(inside, (tokens + 7) % 280, tokens))
        _, after_BT = losses({**batch, 'tokens': tokens})
        np.testing.assert_array_equal(after_BT[~inside], before_BT[~inside])
        assert (after_BT[inside] != before_BT[inside]).mean() > 0.9


def test_the_weight_of_a_message_weighs_its_tokens(tmp_path, losses):
    """Two conversations, one of a third of the weight: the mean by hand."""
    (ids, mask), (more_ids, more) = CONVERSATIONS[0], CONVERSATIONS[1]
    third = [np.float32(m) / 3 for m in more]
    batch = read(rows_of(tmp_path, [(ids, mask), (more_ids, third)]), COUNT)
    loss, nats_BT = losses(batch)
    weights = np.asarray(batch['weights'], np.float64)
    assert sorted({*np.unique(weights).round(4)}) == [0, 0.3333, 1]
    assert loss == pytest.approx((nats_BT * weights).sum() / weights.sum(), rel=1e-5)
    assert weights.sum() == pytest.approx(sum(mask[1:]) + sum(more[1:]) / 3)
