"""What a run was: its stage in words, and the facts of it."""

from pathlib import Path
from typing import Any

from gptjax.data import storage
from gptjax.evals import page, runs
from gptjax.train import settings

_STAGES = {
    'masked_lm': 'Masked language modelling: it learned to guess the tokens of a text '
    'that are hidden from it.',
    'classification': 'Classification: it learned to tell the class of a text.',
    'seq2seq': 'Sequence to sequence: it learned to write the target of each source, '
    'one token after another.',
    'reward': 'Reward model: it learned to give the better of two answers the higher '
    'number.',
    'preference': 'Preference optimisation: it learned which of two answers is the '
    'better one.',
    'kto': 'Preference optimisation (KTO): it learned which answers people want, and '
    'which they do not, from answers judged one by one.',
    'ppo': 'Reinforcement learning (PPO): it answered, a reward judged each answer, '
    'and it learned to be rewarded more than it had expected of itself.',
    'group': 'Reinforcement learning in groups: it answered each prompt several times, '
    'a reward judged the answers, and it learned from the better of each group.',
    'distil': 'Distillation: it learned to give each next token the probability that '
    'its teacher gives it.',
}
_NEXT_TOKEN = {
    'text': 'Pretraining: it learned to continue text, one token after another.',
    'chat': 'Supervised fine-tuning: it learned to answer, from conversations; only '
    'the tokens of the answers count.',
}
_ROWS = {'pairs': 'pairs', 'feedback': 'judged answers'}


def words(run: runs.Run) -> str:
    """A sentence on what was learned, and from what."""
    name = run.config['objective']['name']
    return _NEXT_TOKEN[run.dataset.kind] if name == 'next_token' else _STAGES[name]


def facts(run: runs.Run) -> page.Html:
    """A list of what the run was made of."""
    arch, config = run.arch, run.config
    data = settings.data_of(config)
    found = {
        'Parameters': f'{run.parameters:,}',
        'Architecture': f'{arch.family}: {arch.L} layers, width {arch.D}, '
        f'context {arch.T}',
        'Starts from': settings.begun_from(config) or 'random weights',
        'Objective': _objective(config['objective']),
        'Steps': f'{run.step:,}, each of {_sizes(data, run.step)} {_row(run)}',
        'Data': _data(run, data),
        'Learning rate': f'{config["optimizer"]["learning_rate"]:g} at its peak',
    }
    if run.trained < run.parameters:
        share = run.trained / run.parameters
        found['Trained'] = f'{run.trained:,} weights, {share:.1%} of the model'
    if 'adapter' in config:
        found['Adapter'] = _adapter(config['adapter'])
    if 'rewards' in config:
        found['Rewards'] = ', '.join(
            f'{reward["name"]} x {reward["weight"]:g}' for reward in config['rewards']
        )
    if 'rollout' in config:
        found['Rollout'] = _rollout(config['rollout'])
    if kept := _kept(data):
        found['Rejection sampling'] = kept
    if run.records:
        found['Training time'] = _duration(run.records[-1]['seconds'])
    return page.element(
        'dl',
        *(
            page.element('div', page.element('dt', key), page.element('dd', value))
            for key, value in found.items()
        ),
    )


def _objective(section: dict[str, Any]) -> str:
    """Its name, and what else the config says of it; a loss is a section in it."""
    options = [
        _objective(value) if isinstance(value, dict) else f'{key} {value}'
        for key, value in section.items()
        if key != 'name' and value is not None
    ]
    return ', '.join([section['name'], *options])


def _sizes(data: settings.Data, steps: int) -> str:
    """Rows in a batch, of the steps that were taken."""
    later = [rows for first, rows in data.batch_ramp if first < steps]
    sizes = [data.batch_size, *later]
    least, most = min(sizes), max(sizes)
    return f'{least:,}' if least == most else f'{least:,} to {most:,}'


def _row(run: runs.Run) -> str:
    if 'rollout' in run.config:
        return 'answers of its own'
    return _ROWS.get(run.dataset.kind, f'rows of {run.arch.T:,} tokens')


def _adapter(section: dict[str, Any]) -> str:
    kind = 'rsLoRA' if section['rank_stabilised'] else 'LoRA'
    base = '' if section['base'] == 'float32' else f', over a base in {section["base"]}'
    return f'{kind} of rank {section["R"]} on {", ".join(section["targets"])}{base}'


def _rollout(section: dict[str, Any]) -> str:
    return (
        f'{section["prompts"]} prompts, {section["group"]} answers each, of at most '
        f'{section["max_tokens"]} tokens, at temperature {section["temperature"]:g}'
    )


def _data(run: runs.Run, data: settings.Data) -> str:
    """The dataset and its size, or the sources of a mixture and their last weights."""
    if data.mixture is None:
        train = run.dataset.manifest['splits']['train']
        name = run.dataset.folder.resolve().name
        return f'{name}, {train["tokens"]:,} training tokens'
    sources = (
        f'{Path(source["path"]).name} {source["weights"][-1][1]:g}'
        for source in data.mixture
    )
    return f'a mixture, by weight: {", ".join(sources)}'


def _kept(data: settings.Data) -> str | None:
    """What the file says that `train sample` writes beside the answers it keeps."""
    counts = storage.read_json(Path(f'{data.path}.json'))
    return counts and (
        f'{counts["kept"]:,} of {counts["samples"]:,} answers accepted '
        f'({counts["accept_share"]:.1%}): by {counts["by"]}'
    )


def _duration(seconds: float | int) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours} h {minutes} min'
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'
