"""The kernel that decodes over parts of a cache, as the CPU computes it."""

import jax
import pytest

from gptjax import sharding as sharding_lib
from gptjax.model import config, gpt, split_kv, table, transformer


def arch_of(preset, **changes):
    fields = table.preset(preset, T=64, V=97, D=32, F=64, L=2, H=16, **changes)
    return config.architecture(**fields)


@pytest.fixture
def proven(monkeypatch):
    monkeypatch.setattr(split_kv, '_proven', {})


@pytest.mark.parametrize(('N', 'K'), [(2, 2), (4, 2)])
@pytest.mark.long
def test_the_probe_agrees_with_the_reference(proven, N, K):
    """Fails if the last slot, a window or a group of heads is off by one."""
    assert split_kv.prove(arch_of('llama-nano', N=N, K=K), 'float32', interpret=True)


def test_a_wrong_kernel_is_refused_aloud(proven, monkeypatch, capsys):
    attend = split_kv.attend
    monkeypatch.setattr(
        split_kv, 'attend', lambda q, k, v, at, *rest: attend(q, k, v, at + 1, *rest)
    )
    arch = arch_of('llama-nano', N=2, K=2)
    assert not split_kv.prove(arch, 'float32', interpret=True)
    assert 'off by' in capsys.readouterr().err
    monkeypatch.setattr(split_kv, 'attend', None)
    monkeypatch.setattr(split_kv, '_proven', {})
    assert not split_kv.prove(arch, 'float32', interpret=True)
    assert 'TypeError' in capsys.readouterr().err


@pytest.mark.long
def test_a_model_decodes_to_the_same_logits(proven, monkeypatch):
    """With windows in every other layer."""
    arch = arch_of('llama-nano', N=4, K=2, windows=(0, 5))
    compute = config.Compute('float32', remat='none', scan_unroll=1, accumulate=1)
    model = transformer.make(arch, compute, sharding_lib.single())
    params = gpt.unstack(transformer.init(model, jax.random.key(0)))
    tokens_BT = jax.random.randint(jax.random.key(1), (2, 9), 0, 97)
    positions_BT = jax.numpy.broadcast_to(jax.numpy.arange(9), (2, 9))
    cache = gpt.init_cache(arch, 2, 32, 'float32')
    given = tokens_BT[:, :8], positions_BT[:, :8], cache
    _, cache = gpt.decode(model, params, *given)
    last = tokens_BT[:, 8:], positions_BT[:, 8:], cache
    plain, _ = gpt.decode(model, params, *last)
    assert split_kv.prove(arch, 'float32', interpret=True)
    attend, calls = split_kv.attend, []

    def interpreted(*given):
        calls.append(given[-1])
        return attend(*given, interpret=True)

    monkeypatch.setattr(split_kv, 'attend', interpreted)
    parts, _ = gpt.decode(model, params, *last)
    assert calls == [0, 5]
    assert abs(parts - plain).max() < 1e-5
