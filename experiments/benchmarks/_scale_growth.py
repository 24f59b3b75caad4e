"""What a device sends in a step as FSDP grows from 8 devices to 512: compiled only.

The batch grows along, a row a device. The bytes are those of the collectives in the
program for simulated devices, each loop by its trips, as rings send them. XLA for CPUs
sums gradients whole and cuts them, where others scatter: twice the bytes of a scatter.
"""

from collections.abc import Iterator
import json
import os
import subprocess
import sys
from typing import Any

from configs import gpt2
from gptjax.model import table as model_table
from gptjax.plan import hlo, step

DEVICES = (8, 64, 512)


def rows() -> Iterator[dict[str, Any]]:
    sent = {n: _asked(n) for n in DEVICES}
    for n in DEVICES[1:]:
        yield {
            'name': f'bytes that a device sends in a step, fsdp {n} / {DEVICES[0]}',
            'value': sent[n] / sent[DEVICES[0]],
            # A ring of n sends (n - 1) / n of an array: 8/7 of that of 8 at most.
            'goal': 1.15, 'direction': 'min', 'unit': 'times',
            'ours': sent[n], 'peer': sent[DEVICES[0]],
        }  # fmt: skip


def _asked(devices: int) -> float:
    flags = f'--xla_force_host_platform_device_count={devices}'
    command = [sys.executable, '-m', 'experiments.benchmarks._scale_growth']
    given = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
        [*command, str(devices)], env=given, stdout=subprocess.PIPE, check=True
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def sent(devices: int) -> float:
    """Bytes of one device, from the compiled step of two layers of width 512."""
    config = gpt2.get_config('small')
    sizes = dict(T=16, V=512, D=512, F=2048, N=8, K=8, H=64, L=2)
    config.model = model_table.preset('gpt2-nano', **sizes)
    config.data.batch_size = devices
    config.mesh.update(fsdp=devices, rules='fsdp')
    config.compute.update(remat='none', scan_unroll=1)
    program = step.of(config)
    text = program.step.lower(*program.arguments).compile().as_text()
    found = hlo.Program(text or '').collectives()
    print(devices, found, file=sys.stderr)
    return sum(moved for _, moved in found.values())


if __name__ == '__main__':
    print(json.dumps(sent(int(sys.argv[1]))))
