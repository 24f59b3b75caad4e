"""What `train show` says, against counts of its own."""

import math
import re
import subprocess
import sys

import jax
import pytest
import tiny_config

from gptjax import command
from gptjax.model import cost, transformer
from gptjax.train import build, settings, show


def rows_of(text: str) -> dict[str, list[str]]:
    """The cells of each row, by its first cell; the last one of a name stands."""
    lines = [re.split(r'  +', line) for line in text.splitlines()]
    return {cells[0]: cells[1:] for cells in lines}


def test_the_tables_add_up():
    config = tiny_config.get_config()
    config.optimizer.freeze = ['tokens', 'blocks[:1]/mlp']
    text = show.text(config)
    _, model = build.begin_of(settings.of(config))
    params = transformer.init(model, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    weights, parts, memory = map(rows_of, text.split('\n\n'))
    assert weights['all'] == [f'{count:,}']
    assert weights['tokens'] == [
        '264 x 32', 'vocab, embed', '-, -', '8,448', 'no',
    ]  # fmt: skip
    assert weights['blocks/mlp/up'][-1] == '1 layers'
    assert weights['blocks/attention/key'][-1] == 'yes'
    assert len(weights) == len(jax.tree.leaves(params)) + 3
    names = ('embeddings', 'attention', 'mlp', 'norms', 'all')
    counts = [int(parts[name][0].replace(',', '')) for name in names]
    assert sum(counts) == 2 * count  # the parts, and their sum
    assert f'{cost.flops_per_token(model.arch):,.0f}' in parts['all']
    assert memory['parameters'][0] == f'{4 * count:,}'
    # Moments: two of each trained element, and the optimizer's two counters.
    half = sum(leaf.size for leaf in jax.tree.leaves(params['blocks']['mlp'])) // 2
    assert memory['gradients'][0] == f'{4 * (count - 8448 - half):,}'
    moments = int(memory['optimizer'][0].replace(',', ''))
    assert moments == 8 * (count - 8448 - half) + 8


def test_it_needs_no_devices():
    """Eight of them, on a machine with one: what has an embed axis is split."""
    done = subprocess.run(
        [sys.executable, '-m', 'gptjax.train', 'show', '--config=configs/gpt2.py:xl',
         '--config.mesh.fsdp=8'],
        capture_output=True, text=True, check=True,
        env={'PATH': '', 'XLA_FLAGS': ''},
    )  # fmt: skip
    L, D, F, N, H, T, V = 48, 1600, 6400, 25, 64, 1024, 50_304
    whole = L * (3 * N * H + F)
    split = L * (4 * D * N * H + 2 * D * F + 6 * D) + (T + V + 2) * D
    memory = rows_of(done.stdout.split('\n\n')[-1])
    assert memory['parameters'] == [
        f'{4 * (whole + split):,}', f'{4 * (whole + split // 8):,}',
    ]  # fmt: skip
    assert math.isclose(4 * (whole + split), 6.23e9, rel_tol=1e-3)


def test_a_wrong_setting_is_named():
    config = tiny_config.get_config()
    config.model.N = 0
    with pytest.raises(command.UserError, match=r'model\.N is 0'):
        show.text(config)
