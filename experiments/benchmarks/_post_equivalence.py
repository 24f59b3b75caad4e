"""Batches, microbatches and devices: one trajectory of 50 steps for each objective.

The same run as 8 rows at once on one device, 8 times one row, and 8 rows on 2, 4 and 8
simulated devices; after the reinforcement learning of `_RUNS` that is rollouts, too.
Figures: the largest difference of a loss or gradient norm from the first of them, and
the mean one, with its sign.
"""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any

STEPS = 50
_ROLLOUT = dict(
    prompts=2, group=4, prompt_tokens=8, max_tokens=8, temperature=1.0, top_k=0,
    top_p=1.0, epochs=2,
)  # fmt: skip
_REWARDS = (dict(name='contains', weight=1.0, texts=('e',), ignore_case=True),)
_RL: dict[str, Any] = dict(rollout=_ROLLOUT, rewards=_REWARDS)
_RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    'SFT': ('chat', dict(objective=dict(name='next_token'))),
    'DPO': ('pairs', dict(objective=dict(
        name='preference', loss=dict(name='sigmoid', beta=0.1), reference='live',
    ))),
    'reward': ('pairs', dict(objective=dict(name='reward', centre=0.0), head=True)),
    'PPO': ('text', dict(objective=dict(
        name='ppo', clip_low=0.2, clip_high=0.2, value_coefficient=0.1, gamma=1.0,
        lam=0.95, kl_coefficient=0.05, kl_estimator='k1', whiten_rewards=False,
        whiten_advantages=True, kl_target=6.0, kl_horizon=1000.0,
    ), **_RL)),
    'GRPO': ('text', dict(objective=dict(
        name='group', method='grpo', kl_coefficient=0.04, kl_in='loss',
        kl_estimator='k3',
    ), **_RL)),
}  # fmt: skip
_SHAPES: dict[str, dict[str, int]] = {
    '8 x 1': {},
    '1 x 8': dict(accumulate=8),
    '2 devices': dict(data=2),
    '4 devices': dict(data=4),
    '8 devices': dict(data=8),
}


def rows() -> Iterator[dict[str, Any]]:
    flags = '--xla_force_host_platform_device_count=8'
    found = subprocess.run(
        [sys.executable, '-m', 'experiments.benchmarks._post_equivalence'],
        env={**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for name, largest, mean in json.loads(found.stdout.splitlines()[-1]):
        for what, value, goal in (('largest', largest, 1e-5), ('mean', mean, 1e-6)):
            yield {
                'name': f'{name}: {what} difference of a trajectory of {STEPS} steps',
                'value': value,
                'goal': goal,
                'direction': 'min',
                'unit': '',
            }


def main() -> None:
    """Prints [objective, largest difference, mean difference] of each, as JSON."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        base = folder / 'base'
        _train(folder, 'base', ('text', dict(objective=dict(name='next_token'))), {})
        found = []
        for name, run in _RUNS.items():
            losses = [
                _train(folder, f'{name} {shape}', run, changes, base)
                for shape, changes in _SHAPES.items()
            ]
            apart = [
                [a - b for a, b in zip(other, losses[0], strict=True)]
                for other in losses[1:]
            ]
            largest = max(abs(one) for each in apart for one in each)
            mean = max(abs(sum(each) / len(each)) for each in apart)
            print(name, largest, mean, file=sys.stderr)
            found.append([name, largest, mean])
    print(json.dumps(found))


def _train(
    folder: Path,
    name: str,
    run: tuple[str, dict[str, Any]],
    shape: dict[str, int],
    base: Path | None = None,
) -> list[float]:
    """The losses of a run."""
    from gptjax.train import build, log, loop

    loop.train(build.build(_config(folder, run, shape, base), folder / name))
    return [record['loss'] for record in log.read(folder / name) if record['step']]


def _config(
    folder: Path,
    run: tuple[str, dict[str, Any]],
    shape: dict[str, int],
    base: Path | None,
) -> Any:
    from ml_collections import ConfigDict

    from gptjax.model import table as model_table

    kind, settings = run[0], dict(run[1])
    config = ConfigDict()
    config.seed, config.steps = 0, STEPS
    config.model = model_table.preset(
        'gpt2-micro', T=32, V=264, D=32, F=64, N=4, H=8, L=2
    )
    if base is not None:
        head = dict(head=dict(kind='reward')) if settings.pop('head', False) else {}
        config.model = dict(init_from=str(base), dropout=0.0, **head)
    config.data = dict(
        path=str(_data(folder, kind)),
        batch_size=8,
        loader='threads',
        build=dict(
            corpus=dict(name=kind, licence='CC0-1.0'),
            held_out=dict(fraction=0.2, by='document'),
            shard_tokens=1 << 16,
        ),
    )
    if base is None:
        config.data.build.tokenizer = dict(name='bytes')
    config.optimizer = dict(
        name='adamw', learning_rate=1e-3, warmup_steps=10, final_learning_rate=1e-4,
        b1=0.9, b2=0.95, eps=1e-6, weight_decay=0.1, clip_norm=1.0, freeze=(),
    )  # fmt: skip
    config.mesh = dict(data=shape.get('data', 1), fsdp=1, tensor=1, rules='data')
    accumulate = shape.get('accumulate', 1)
    config.compute = dict(
        dtype='float32', remat='none', scan_unroll=2, accumulate=accumulate
    )
    config.checkpoint = dict(every=1000, keep=1)
    config.eval = dict(every=1000, rows=8, patience=0)
    config.run = dict(log_every=1)
    for section, options in settings.items():
        config[section] = options
    return config


def _data(folder: Path, kind: str) -> Path:
    path = folder / f'{kind}.jsonl'
    with path.open('w') as file:
        for n in range(200):
            made = f'{n} is {"even" if n % 2 == 0 else "odd"}, {n * n} too'
            asked = {'role': 'user', 'content': f'{n}?'}
            answer = {'role': 'assistant', 'content': made[:16]}
            record = {
                'text': {'text': made},
                'chat': {'messages': [asked, answer]},
                'pairs': {
                    'prompt': f'{n}?', 'chosen': made[:16], 'rejected': f'it is {n}'
                },
            }[kind]  # fmt: skip
            file.write(json.dumps(record) + '\n')
    return path


if __name__ == '__main__':
    main()
