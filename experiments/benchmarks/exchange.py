"""Exchange of models: host memory of an import, and damaged folders.

The import is of a folder like that of GPT-2 XL (1.56B parameters, 6.2 GB in float32)
with random weights, in a process of its own; `EXCHANGE_FOLDER` names where the 13 GB of
files go (default: the folder for temporary files).
"""

from collections.abc import Iterator, Sequence
import os
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from experiments.benchmarks import _bins, _mutations
from gptjax import core
from gptjax.exchange import huggingface, llama2c, safetensors, tables, tokenizers
from gptjax.model import config, table
from gptjax.text import table as text_table

COMMAND = 'make benchmark AREA=exchange'
MUTATIONS = 10_000


def measure() -> Iterator[dict[str, Any]]:
    yield _import_memory()
    with tempfile.TemporaryDirectory() as folder:
        yield _damaged(Path(folder))
        yield _damaged_bins(Path(folder))


def _import_memory() -> dict[str, Any]:
    """The peak of an importing process over the bytes of the weights."""
    parent = os.environ.get('EXCHANGE_FOLDER')
    with tempfile.TemporaryDirectory(dir=parent) as made:
        folder = Path(made)
        arch = config.architecture(**table.preset('gpt2-xl'))
        size = write_random(arch, folder / 'source')
        before = _importer_peak(None, folder)
        peak = _importer_peak(folder / 'source', folder)
    print(f'weights {size / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB', file=sys.stderr)
    return {
        'name': 'import of 1.5B parameters: peak memory / weights',
        'value': peak / size,
        'goal': 2.0,
        'direction': 'min',
        'unit': 'times',
        'command': COMMAND,
        'ours': peak,
        'peer': before,  # of a process that imports the modules alone
    }


def write_random(arch: config.Architecture, folder: Path) -> int:
    """A folder of random weights, tensor by tensor; returns their bytes."""
    rng = np.random.default_rng(0)
    settings, entries = huggingface.config_of(arch)
    shapes = tables.expected(arch, entries)
    folder.mkdir()
    safetensors.write(
        folder,
        (
            (name, rng.standard_normal(shape, np.float32))
            for name, shape in shapes.items()
        ),
        shapes,
    )
    huggingface.write_json(folder / huggingface.CONFIG, settings)
    tokenizers.write(text_table.make(lambda: [], name='bytes'), folder)
    return sum(path.stat().st_size for path in folder.glob('*.safetensors'))


def _importer_peak(source: Path | None, folder: Path) -> int:
    """Peak resident bytes of `gptjax.exchange import`; without a source, of nothing."""
    program = 'import gptjax.exchange.workdir'
    command = [sys.executable, '-c', program]
    if source is not None:
        command = [sys.executable, '-m', 'gptjax.exchange', 'import']
        command += [f'--source={source}', f'--workdir={folder / "workdir"}']
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f'{command} failed with status {status}')
    return usage.ru_maxrss * 1024


def _damaged(folder: Path) -> dict[str, Any]:
    """Damaged versions of a small folder; an error other than UserError ends it."""
    sizes = dict(T=20, V=61, D=24, F=44, N=6, K=2, H=10, L=1)
    arch = config.architecture(**table.preset('llama-nano', **sizes))
    _, entries = huggingface.config_of(arch)
    params = _random(arch, entries)
    generation = {'eos_token_id': [1, 2]}
    huggingface.save(
        arch, params, folder / 'a', generation=generation, shard_bytes=20_000
    )
    came = _mutations.survived(folder / 'a', MUTATIONS, seed=0)
    return _crashes('folders', came)


def _damaged_bins(folder: Path) -> dict[str, Any]:
    """Damaged versions of a small file of llama2.c, likewise."""
    sizes = dict(T=20, V=61, D=24, F=44, N=6, K=2, H=4, L=1)
    arch = config.architecture(**table.preset('llama-nano', **sizes))
    llama2c.save(arch, _random(arch, llama2c.entries(arch)), folder / 'a.bin')
    came = _bins.survived(folder / 'a.bin', MUTATIONS, seed=0)
    return _crashes('files of llama2.c', came)


def _random(arch: config.Architecture, entries: Sequence[tables.Entry]) -> core.Params:
    rng = np.random.default_rng(0)
    shapes = tables.expected(arch, entries)
    source = {n: rng.standard_normal(s, 'f4') for n, s in shapes.items()}
    return tables.load(arch, entries, tables.Arrays(source), tables.leaves(arch))


def _crashes(what: str, came: dict[str, int]) -> dict[str, Any]:
    print(f'{what}: {came}', file=sys.stderr)
    return {
        'name': f'crashes on {MUTATIONS:,} damaged {what}',
        'value': MUTATIONS - sum(came.values()),
        'goal': 0,
        'direction': 'min',
        'unit': 'crashes',
        'command': COMMAND,
    }
