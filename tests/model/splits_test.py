"""What is split over devices stays so: from compiled programs."""

from collections import Counter
import contextlib
import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import messages
import pytest
import tiny

from gptjax import sharding as sharding_lib
from gptjax.model import transformer
from gptjax.objectives import next_token

# Sizes that tell each array by its shape.
ARCH = dataclasses.replace(tiny.ARCH, K=2, N=4, H=6, L=3, D=24, F=40, V=56, T=32)
B = 8


def over(rules, **sizes):
    return sharding_lib.make(**(dict(data=1, fsdp=1, tensor=1) | sizes), rules=rules)


def abstract(model):
    """The parameters' shapes, where they lie."""
    boxed = transformer.abstract(model)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        nn.unbox(boxed),
        model.sharding.of_boxed(boxed),
    )


def compiled(place, attention='blocked'):
    """The text of the gradients of the loss."""
    compute = dataclasses.replace(tiny.COMPUTE, attention=attention)
    model = tiny.model(ARCH, compute, place)
    loss_fn, params = next_token.make(model), abstract(model)

    def loss(params, batch):
        total, weight = loss_fn(params, {}, batch, None).terms['loss']
        return total / weight

    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place.named(('batch',)))
        for name, x in tiny.packed_batch(B, ARCH).items()
    }
    out = jax.tree.map(lambda x: x.sharding, params)
    run = jax.jit(jax.grad(loss), out_shardings=out)
    return run.lower(params, batch).compile().as_text()


def test_a_vocabulary_that_is_split_is_so_in_loss_and_gradients():
    """No device ever holds logits, weights or gradients of more than its part.

    Fails for a target's logit that is gathered, and for a sum over gathered ones.
    """
    place = over('data_tensor', data=4, tensor=2)
    model = tiny.model(ARCH, place=place)
    params, rows = abstract(model), place.named(('batch',))
    x_BTD = jax.ShapeDtypeStruct((B, 32, 24), jnp.float32, sharding=rows)
    targets_BT = jax.ShapeDtypeStruct((B, 32), jnp.int32, sharding=rows)

    def loss(params, x_BTD, targets_BT):
        return jnp.sum(next_token.of_targets(model, params, x_BTD, targets_BT))

    out = jax.tree.map(lambda x: x.sharding, params)
    run = jax.jit(jax.grad(loss, (0, 1)), out_shardings=(out, rows))
    text = run.lower(params, x_BTD, targets_BT).compile().as_text()
    held = messages.shapes(text)
    assert (2, 32, 28) in held
    assert not [shape for shape in held if 56 in shape]
    # The largest and the sum of each token's logits, and the gradient of its state.
    sent = Counter((m.kind, m.shape) for m in messages.of(text) if len(m.shape) > 1)
    weights = [(28, 24), (24, 28)]
    assert {key: n for key, n in sent.items() if key[1] not in weights} == {
        ('all-reduce', (2, 32)): 2,
        ('all-reduce', (2, 32, 24)): 1,
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ('rules', 'sizes', 'attention'),
    [
        ('fsdp_tensor', dict(fsdp=4, tensor=2), 'blocked'),
        ('data_tensor_sequence', dict(data=4, tensor=2), 'blocked'),
        ('data_tensor_sequence', dict(data=4, tensor=2), 'reference'),
        ('fsdp_tensor_context', dict(fsdp=2, tensor=2, context=2), 'ring'),
    ],
    ids=str,
)
def test_nothing_is_copied_to_all_devices(rules, sizes, attention, capfd):
    """No vocabulary, and no rows: what is sent is as large as a device's share.

    Fails where XLA is not told how attention's gradient or an embedding's rows lie.
    """
    text = compiled(over(rules, **sizes), attention)
    assert not [shape for shape in messages.shapes(text) if 56 in shape]
    assert 'rematerialization' not in capfd.readouterr().err
    rows = B // sizes.get('data', 1) // sizes.get('fsdp', 1)
    length = 32 // sizes.get('context', 1)
    stream = (rows, length, 24)
    sent = Counter((m.kind, m.shape) for m in messages.of(text))
    assert not [key for key in sent if key[0] == 'all-to-all']
    if 'sequence' in rules:
        # XLA for CPUs sums and cuts where others reduce and scatter. In a layer: two
        # gathers and two sums forward; six and four backward, where the barriers of
        # layers._product keep those of queries, keys and values apart. Outside: the
        # embedding's rows, and the head's.
        assert sent['all-gather', stream] == 2 + 6 + 3
        assert sent['all-reduce', stream] == 2 + 4 + 2
    else:
        assert sent['all-gather', stream] == 0


def test_an_embedding_has_a_way_from_split_widths_to_split_rows(capfd):
    """Where slices, data or experts split the batch beside fsdp, which splits D.

    Fails where XLA is not told of the step between: it then copies all rows to all
    devices, and warns of a rematerialization.
    """
    text = compiled(over('fsdp', data=2, fsdp=4))
    assert 'rematerialization' not in capfd.readouterr().err
    exchanged = [m.shape for m in messages.of(text) if m.kind == 'all-to-all']
    assert exchanged


@pytest.mark.parametrize(
    ('copies', 'loss_rows', 'length'), [(1, 32, 4), (4, 32, 4), (4, 3, 1)]
)
def test_logits_that_exist_at_once_are_those_of_all_copies(
    copies, loss_rows, length, monkeypatch
):
    """32 of 128 tokens, or as few as can be.

    Mutations: as many for each copy; all, where there are fewer than copies.
    """
    place = over('data', data=4)
    compute = dataclasses.replace(tiny.COMPUTE, loss_rows=loss_rows)
    model, shapes = tiny.model(tiny.ARCH, compute, place), []

    def scores(model, params, x_BTD):
        shapes.append(x_BTD.shape[:2])
        return x_BTD

    monkeypatch.setattr(next_token.transformer, 'scores', scores)
    rows, T = 8 // copies, 16
    with sharding_lib.one_copy() if copies > 1 else contextlib.nullcontext():
        jax.eval_shape(
            lambda x, targets: next_token.of_targets(model, {}, x, targets),
            jnp.zeros((rows, T, tiny.ARCH.V)),
            jnp.zeros((rows, T), jnp.int32),
        )
    assert set(shapes) == {(rows, length)}
