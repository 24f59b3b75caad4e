"""The coordinate check: flat under muP, and not without it."""

import pytest

from configs import shakespeare_char
from gptjax import command
from gptjax.evals import widths
from gptjax.model import config as model_config
from gptjax.model import table


def config(base_D, name='adamw'):
    made = shakespeare_char.get_config()
    sizes = dict(L=2, N=4, K=4, H=8, D=32, F=128, T=16, V=64)
    made.model = table.preset('gpt2-nano', base_D=base_D, **sizes)
    made.optimizer.update(name=name, learning_rate=1e-3, warmup_steps=0)
    return made


def worst(base_D, name='adamw', steps=4):
    made = config(base_D, name)
    if name == 'muon':  # alone: embeddings, which AdamW moves, would cover its steps
        adam = dict(adam_ratio=0.01, momentum=0.9, nesterov=True)
        made.optimizer.update(learning_rate=1e-2, **adam)
    found, _ = widths.changes(made, (32, 128), steps)
    return {name: max(map(abs, s)) for name, s in widths.slopes(found).items()}


def test_activations_move_alike_at_all_widths_under_mup():
    """Slopes of 0.1 are the goal at widths of 128 and more; these are narrower.

    Mutations: updates are not scaled; logits are not.
    """
    flat = worst(32, steps=2)
    assert max(flat.values()) < 0.2, flat


@pytest.mark.long
def test_they_do_not_without_it_and_muon_has_a_power_of_its_own():
    """Mutation: Muon's updates are scaled as Adam's."""
    steep, muon = worst(0), worst(32, 'muon')
    assert steep['layer 1'] > 0.4, steep
    assert steep['logit'] > 0.5, steep
    assert max(muon[f'layer {i}'] for i in range(2)) < 0.2, muon


def test_what_does_not_scale_is_refused():
    with pytest.raises(command.UserError, match='multiples of 8'):
        widths.scaled(model_config.architecture(**config(32).model.to_dict()), 36)
    with pytest.raises(command.UserError, match="'adafactor', which muP"):
        widths.changes(config(16, 'adafactor'), (32, 64), steps=1)
    for given in ('32', '32,64,12O', '32,,64', '0,32'):
        with pytest.raises(command.UserError, match='two widths or more'):
            widths.run(config(32), given, 1, 1)
    epochs = config(32)
    del epochs.steps
    epochs.epochs = 1.0
    with pytest.raises(command.UserError, match='set steps in its file'):
        widths.run(epochs, '32,64', 1, 1)


def test_the_page_has_a_chart_for_each_activation(tmp_path):
    told = widths.run(config(32), '32,64', 2, 1, tmp_path / 'page.html')
    page = (tmp_path / 'page.html').read_text()
    names = [line.split('  ')[0] for line in told.splitlines()[1:-1]]
    assert names == ['embedding', 'layer 0', 'layer 1', 'last norm', 'logit']
    assert page.count('<svg') == len(names)
    with pytest.raises(command.UserError, match='--html='):
        widths.run(config(32), '32,64', 1, 1, tmp_path / 'no' / 'page.html')
