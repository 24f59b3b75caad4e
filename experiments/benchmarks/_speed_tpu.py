"""GPT-2 XL on a TPU v5e-16, compiled ahead of time: what the program does.

The step of configs/gpt2.py:xl over 16 chips, compiled by libtpu where no TPU is, in the
Python that GPTJAX_TPU names (`make benchmark` sets it to .venv-tpu, which `make
test-tpu` makes). The operations of its products, each loop as often as it runs, are
those of the model (`cost.train_flops`) less the scores, which the attention kernel
computes, and what the remat policy does again.

    PYTHONPATH=. .venv-tpu/bin/python -m experiments.benchmarks._speed_tpu xl 4x4
"""

from collections.abc import Iterator
import json
import os
import subprocess
import sys
import time
from typing import Any

from configs import gpt2
from gptjax.plan import hlo

HBM = 16 * 2**30  # bytes of a chip; Google Cloud's page of the v5e
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0',
    'TPU_LOG_DIR': 'disabled',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def rows() -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {}
    if python := os.environ.get('GPTJAX_TPU'):
        done = subprocess.run(
            [python, '-m', __name__, 'xl', '4x4'],
            env=os.environ | ENVIRONMENT | {'PYTHONPATH': '.'},
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        found = json.loads(done.stdout)
        print(f'tpu: {found}', file=sys.stderr)
    where = 'GPT-2 XL on v5e-16'
    for name, value, goal, direction, unit in (
        ('operations compiled / of the model and remat', 'flops', 1.05, 'min', 'times'),
        ('runs of the splash kernel in a step', 'kernels', 1, 'max', 'kernels'),
        ('memory of a chip', 'memory', 0.9, 'min', 'of its HBM'),
    ):
        yield {
            'name': f'{where}: {name}', 'value': found.get(value), 'goal': goal,
            'direction': direction, 'unit': unit,
        }  # fmt: skip


def measured(config: Any, topology: str) -> dict[str, Any]:
    """The figures of a config's step on a topology of v5e chips: '4x4', say."""
    from jax.experimental import topologies

    from gptjax.model import cost
    from gptjax.plan import step

    chips = topologies.get_topology_desc(
        platform='tpu', topology_name=f'v5e:{topology}'
    ).devices
    program = step.of(config, chips)
    start = time.perf_counter()
    traced = program.step.trace(*program.arguments)
    compiled = traced.lower(lowering_platforms=('tpu',)).compile()
    seconds = time.perf_counter() - start
    text = hlo.Program(compiled.as_text())
    flops, calls = text.flops(), text.custom_calls()
    arch, compute = program.model.arch, program.model.compute
    parts = cost.train_flops(arch)
    scores = parts.pop('scores')
    if compute.remat == 'full':
        parts['again'] = (parts['attention'] + parts['mlp']) / 3
    tokens = config.data.batch_size * arch.T / len(chips)
    memory: Any = compiled.memory_analysis()
    sizes = {
        name: getattr(memory, f'{name}_size_in_bytes')
        for name in ('argument', 'output', 'alias', 'temp', 'generated_code')
    }
    used = sum(sizes.values()) - 2 * sizes['alias']
    return {
        'flops': flops / tokens / sum(parts.values()),
        'scores': scores / sum(parts.values()),
        'kernels': sum(n for name, n in calls.items() if 'splash' in name.lower()),
        'calls': dict(calls),
        'memory': used / HBM,
        'sizes': sizes,
        'seconds': seconds,
    }


def config_of(size: str, attention: str) -> Any:
    """A size of configs/gpt2.py whose attention is this kernel."""
    config = gpt2.get_config(size)
    config.compute.attention = attention
    return config


if __name__ == '__main__':
    given = dict(zip(('size', 'topology', 'attention'), sys.argv[1:], strict=False))
    attention = given.get('attention', 'splash')
    print(json.dumps(measured(config_of(given['size'], attention), given['topology'])))
