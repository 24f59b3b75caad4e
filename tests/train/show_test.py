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
from gptjax.train import build, layout, settings, show


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
    weights, _, parts, memory = map(rows_of, text.split('\n\n'))
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


def test_activations_lie_as_the_forms_say():
    """By hand: 8 rows of 32, D 32, 2 heads of 16, F 128, V 264, fsdp 2 x tensor 2.

    Mutation: constraints inside loops, such as those of attention, are not seen.
    """
    config = tiny_config.get_config()
    config.data.batch_size = 8
    show.remesh(config, 'fsdp=2,tensor=2,rules=fsdp_tensor_sequence')
    settings_ = settings.of(config)
    _, model = build.begin_of(settings_)
    arch = model.arch
    rows = {row[0]: row[1:] for row in layout.activations(model, 8, arch.T)}
    stream = 8 * arch.T * arch.D * 4
    assert rows['layers'] == [
        f'8 x {arch.T} x {arch.D}', 'float32', 'fsdp, tensor, -', f'{stream:,}',
        f'{stream // 4:,}',
    ]  # fmt: skip
    assert rows['attention'][2] == 'fsdp, -, tensor, -'
    assert rows['mlp'][2] == rows['head'][2] == 'fsdp, -, tensor'
    logits = 8 * arch.T * arch.V * 4
    assert rows['head'][3:] == [f'{logits:,}', f'{logits // 4:,}']
    assert rows_of(show.text(config))['layers'] == rows['layers']


def test_a_mesh_on_the_command_line():
    config = tiny_config.get_config()
    show.remesh(config, 'fsdp=2,expert=4')
    assert config.mesh.rules == 'fsdp_expert'
    assert (config.mesh.data, config.mesh.expert) == (1, 4)
    with pytest.raises(command.UserError, match="axis in --mesh 'fdsp'; did you mean"):
        show.remesh(config, 'fdsp=2')
    with pytest.raises(command.UserError, match='fsdp has no number'):
        show.remesh(config, 'fsdp')


@pytest.mark.parametrize('mesh', ['stage=2', 'context=2,tensor=2', 'data=2,fsdp=4'])
def test_every_form_can_be_shown(mesh):
    """Mutation: a pipeline's constraints, which leave dimensions open, are read."""
    config = tiny_config.get_config()
    config.data.batch_size = 8
    show.remesh(config, mesh)
    assert 'layers' in rows_of(show.text(config))
