"""From trace to executable ready: GPT-2 124M on 4 rows of 1,024 tokens, on the CPU.

Each time is of a new process, cold with an empty cache of compiled programs and warm
with what a process before has left there. The start of a run is from the start of its
process to the dispatch of its first step: imports, the state at step 0, programs that
save and compare replicas, and one such comparison, which is worth half a step.
"""

from collections.abc import Iterator
import itertools
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time
from typing import Any

from configs import gpt2
from gptjax.train import goodput

ROWS = 4


def rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        seconds = {}
        for dtype in ('float32', 'bfloat16'):
            for warmth, goal in (('cold', 20), ('warm', 6)):
                cache = Path(folder) / dtype
                seconds[dtype, warmth] = found = _compiled(cache, 12, 1, dtype)
                yield _row(f'124M scanned, {dtype}, {warmth}', found, goal)
        found = _compiled(Path(folder) / 'unrolled', 12, 12, 'float32')
        yield _row('124M unrolled, float32, cold, for the record', found)
        deep = _compiled(Path(folder) / 'deep', 48, 1, 'float32')
        yield {
            'name': 'compile: scan of 48 layers / of 12', 'direction': 'min',
            'value': deep / seconds['float32', 'cold'], 'goal': 1.3, 'unit': 'times',
            'ours': deep, 'peer': seconds['float32', 'cold'],
        }  # fmt: skip
        for warmth in ('cold', 'warm'):
            found = _started(Path(folder), warmth)
            yield _row(f'first step of a run of 124M, {warmth}, for the record', found)


def _row(name: str, value: float, goal: float = 0) -> dict[str, Any]:
    return {
        'name': f'compile: {name}', 'value': value, 'goal': goal,
        'direction': 'min' if goal else 'max', 'unit': 's',
    }  # fmt: skip


def _environment(cache: Path) -> dict[str, str]:
    return os.environ | {
        'JAX_COMPILATION_CACHE_DIR': str(cache),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }


def _compiled(cache: Path, L: int, unroll: int, dtype: str) -> float:
    """Seconds, of another process."""
    done = subprocess.run(
        [sys.executable, '-m', __name__, str(L), str(unroll), dtype],
        env=_environment(cache), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    seconds = json.loads(done.stdout)
    print(f'compile: {L} layers, unroll {unroll}, {dtype}: {seconds}', file=sys.stderr)
    return sum(seconds.values())


def config_of(L: int, unroll: int, dtype: str) -> Any:
    """The small size of configs/gpt2.py with another depth."""
    config = gpt2.get_config('small')
    config.model.L = L
    config.data.batch_size = ROWS
    config.compute.update(dtype=dtype, remat='none', scan_unroll=unroll)
    return config


def _compile(L: int, unroll: int, dtype: str) -> dict[str, float]:
    """Seconds of each stage, in this process."""
    from gptjax.plan import step

    program = step.of(config_of(L, unroll, dtype))
    times = [time.perf_counter()]
    traced = program.step.trace(*program.arguments)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    lowered.compile()
    times.append(time.perf_counter())
    stages = itertools.pairwise(times)
    names = ('trace', 'lower', 'compile')
    return {name: b - a for name, (a, b) in zip(names, stages, strict=True)}


RUN = """
from configs import gpt2, shakespeare_char

def get_config():
    config = gpt2.get_config('small')
    config.steps = 10_000
    config.data = shakespeare_char.get_config().data
    config.data.update(batch_size=4, loader='threads')
    config.data.build.tokenizer = dict(name='bytes')
    config.compute.update(dtype='float32', remat='none')
    return config
"""


def _started(folder: Path, warmth: str) -> float:
    """Seconds from the start of a run's process until its first step is dispatched."""
    config, text = folder / 'config.py', folder / 'text.txt'
    config.write_text(RUN)
    text.write_text('to be or not to be ' * 10_000)
    workdir = folder / warmth
    with (folder / 'errors').open('a') as errors:
        process = subprocess.Popen(
            [
                sys.executable, '-m', 'gptjax.train', f'--config={config}',
                f'--config.data.path={text}', f'--workdir={workdir}',
            ],
            env=_environment(folder / 'started'), stderr=errors,
        )  # fmt: skip
        try:
            while process.poll() is None:
                ledger = workdir / 'goodput.jsonl'
                text_of = ledger.read_text() if ledger.exists() else ''
                lines = [json.loads(line) for line in text_of.splitlines()]
                if any('compile' in line['seconds'] for line in lines):
                    parts = goodput.account(lines)['seconds']
                    print(f'compile: started {warmth}: {parts}', file=sys.stderr)
                    return float(lines[-1]['time'] - lines[-1]['began'])
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
    raise AssertionError((folder / 'errors').read_text())


if __name__ == '__main__':
    print(json.dumps(_compile(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
