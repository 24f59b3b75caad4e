"""Fine-tuning: the loss of TRL's trainer, and documents that do not see each other."""

import json
from pathlib import Path

from golden import fine_tuning, folder
import jax.numpy as jnp
import numpy as np
import pytest

TRUTH = json.loads((Path(__file__).parents[1] / 'golden' / 'chat.json').read_text())
SFT = TRUTH['sft']


@pytest.fixture(scope='module')
def losses(tmp_path_factory):
    """(loss, nats of each token) of a batch, by the weights that TRL had."""
    path = tmp_path_factory.mktemp('gpt2')
    folder.write(path, SFT['config'], SFT['shapes'], 0)
    return fine_tuning.losses(path)


CONVERSATIONS = list(zip(SFT['ids'], SFT['masks'], strict=True))
COUNT = len(CONVERSATIONS)


def test_the_loss_is_that_of_trl_packed_or_not(tmp_path, losses):
    assert max(map(max, SFT['masks'])) == 1
    packed = fine_tuning.rows_of(tmp_path, CONVERSATIONS)
    assert len(packed) < COUNT
    batch = fine_tuning.read(packed, COUNT)
    loss, nats_BT = losses(batch)
    assert loss == pytest.approx(SFT['loss'], abs=1e-5)
    assert batch['weights'].sum() == sum(sum(mask[1:]) for mask in SFT['masks'])
    alone = [
        fine_tuning.read(fine_tuning.rows_of(tmp_path, [one]), 1)
        for one in CONVERSATIONS
    ]
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
    batch = fine_tuning.read(fine_tuning.rows_of(tmp_path, CONVERSATIONS), COUNT)
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
    batch = fine_tuning.read(
        fine_tuning.rows_of(tmp_path, [(ids, mask), (more_ids, third)]), COUNT
    )
    loss, nats_BT = losses(batch)
    weights = np.asarray(batch['weights'], np.float64)
    assert sorted({*np.unique(weights).round(4)}) == [0, 0.3333, 1]
    assert loss == pytest.approx((nats_BT * weights).sum() / weights.sum(), rel=1e-5)
    assert weights.sum() == pytest.approx(sum(mask[1:]) + sum(more[1:]) / 3)
