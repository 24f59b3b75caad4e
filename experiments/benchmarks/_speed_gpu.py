"""One GPU: training and decoding beside torch.compile, and what the first step takes.

    python -m experiments.benchmarks._speed_gpu train-124m   one figure, its rows kept
    python -m experiments.benchmarks._speed_gpu probe        what would be chosen here
    ... train-124m --device=cpu --tiny                       the same at a small shape

Each is a command of under eight minutes that needs the core packages, and for the peer
torch and transformers, in this Python or in that of GPTJAX_PEERS. Both sides begin with
the same weights and read the same learnable stream; 50 losses agree within 1e-2 before
anything is timed; then they take turns, each with the state of the other in memory. The
goals are for one H200; where there is no GPU, no row has a value.
"""

import argparse
from collections.abc import Callable, Iterator
import dataclasses
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from experiments.benchmarks import _gpu_sides
from gptjax import platforms

FRACTION = '0.5'  # of the memory is ours; the rest is the peer's
ROUNDS, STEPS, CHECKED = 5, 10, 50
TOLERANCE = 1e-2


class Goal(NamedTuple):
    """A row of a figure, by its name."""

    name: str
    goal: float
    direction: str = 'max'
    unit: str = 'times as fast'


TRAINED = {
    '124m': (_gpu_sides.Shape('gpt2-small', 32, 1024, 50_304), 0.55),
    '350m': (_gpu_sides.Shape('gpt2-medium', 16, 1024, 50_304), 0.57),
    '774m': (_gpu_sides.Shape('gpt2-large', 16, 1024, 50_304), 0.57),
    '1558m': (_gpu_sides.Shape('gpt2-xl', 8, 1024, 50_304), 0.60),
    'llama-1b': (_gpu_sides.Shape('llama-3.2-1b', 8, 2048), 0.58),
}
# name: (shape, where T is the context, new tokens, goals: of the roofline, of the peer)
DECODED: dict[str, tuple[_gpu_sides.Shape, int, float, float | None]] = {
    '124m': (_gpu_sides.Shape('gpt2-small', 1, 1024), 512, 0.33, 1.2),
    '1558m': (_gpu_sides.Shape('gpt2-xl', 1, 1024), 256, 0.60, 1.2),
    'llama-1b': (_gpu_sides.Shape('llama-3.2-1b', 1, 2048), 256, 0.75, 1.2),
    '124m-batch-512': (_gpu_sides.Shape('gpt2-small', 512, 512), 448, 0.55, None),
}


def figures() -> dict[str, tuple[Callable[..., dict[str, Any]], list[Goal]]]:
    """What can be measured: how, and the rows that it gives."""
    found: dict[str, tuple[Callable[..., dict[str, Any]], list[Goal]]] = {}
    for name, (shape, mfu) in TRAINED.items():
        best = [Goal('torch.compile, best', 1.15)] if 'gpt2' in shape.preset else []
        plain = 1.3 if best else 1.2
        found[f'train-{name}'] = (
            _train,
            [
                Goal('torch.compile, defaults', plain),
                *best,
                Goal('MFU, full', mfu, unit='of the peak'),
                Goal('MFU, causal, for the record', 0, unit='of the peak'),
            ],
        )
    for name, (_, _, roof, over) in DECODED.items():
        peer = [Goal('torch.compile, static cache', over)] if over else []
        if not over:
            peer = [Goal('tokens a second', 120_000, unit='tokens/s')]
        unit = 'of what the memory allows'
        found[f'decode-{name}'] = _decode, [Goal('roofline', roof, unit=unit), *peer]
    for name, goal in (('unrolled', 60), ('scanned', 20)):
        goals = [Goal('124M, bfloat16', goal, 'min', 's')]
        found[f'first-step-{name}'] = _first_step, goals
    return found


def rows() -> Iterator[dict[str, Any]]:
    """All of them; without values where there is no GPU."""
    here = _gpu_sides.has_gpu()
    for name, (_, goals) in figures().items():
        if here:  # in a process each, whose memory is gone afterwards
            arguments = [sys.executable, '-m', __name__, name, '--json']
            done = subprocess.run(arguments, stdout=subprocess.PIPE, check=True)
            yield from json.loads(done.stdout)
        else:
            yield from _rows(name, goals, {})


def _rows(
    name: str, goals: list[Goal], found: dict[str, Any], **more: Any
) -> Iterator[dict[str, Any]]:
    for goal in goals:
        value, ours, peer = found.get(goal.name, (None, None, None))
        yield {
            'name': f'{name}: {goal.name}', 'value': value, 'goal': goal.goal,
            'direction': goal.direction, 'unit': goal.unit, 'ours': ours, 'peer': peer,
            'command': f'python -m {__spec__.name} {name}', **more,
        }  # fmt: skip


def _train(given: _gpu_sides.Given) -> dict[str, Any]:
    """(value, ours, peer) by the name of the row; seconds of a step."""
    import jax

    from gptjax.model import cost
    from gptjax.train import flops

    shape, _ = TRAINED[given.name.partition('-')[2]]
    ours = _gpu_sides.Ours(given, shape)
    arch = ours.model.arch
    found, times = {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = _gpu_sides.export(arch, ours.params, Path(name))
        ours.begin()
        losses, _ = ours.run(CHECKED)
        print(
            f'{given.name}: losses {losses[0]:.3f} to {losses[-1]:.3f}', file=sys.stderr
        )
        for kind in ('defaults', 'best'):
            peer = _gpu_sides.Peer.begin(
                folder, given, kind == 'best', shape=(ours.B, arch.T, arch.V),
                rate=_gpu_sides.RATE, batches=_gpu_sides.BATCHES,
            )  # fmt: skip
            if peer is None:
                times += [ours.run(STEPS)[1] / STEPS for _ in range(ROUNDS)]
                continue
            theirs, _ = peer.ask(CHECKED)
            apart = max(abs(a - b) for a, b in zip(losses, theirs, strict=True))
            print(
                f'{given.name}, {kind}: losses differ by {apart:.1e}', file=sys.stderr
            )
            if not apart <= TOLERANCE:
                raise ValueError(f'the two sides compute different things: {apart}')
            turns = [(ours.run(STEPS)[1], peer.ask(STEPS)[1]) for _ in range(ROUNDS)]
            peer.end()
            own, other = (
                statistics.median(t) / STEPS for t in zip(*turns, strict=True)
            )
            found[f'torch.compile, {kind}'] = other / own, own, other
            times += [a / STEPS for a, _ in turns]
    own = statistics.median(times)
    speed = ours.B * arch.T / own
    print(f'{given.name}: {speed:,.0f} tokens/s', file=sys.stderr)
    peak = flops.peak(jax.devices()[0])
    assert peak is not None
    full = cost.flops_per_token(arch)
    causal = full - cost.train_flops(arch)['scores'] / 2
    found['MFU, full'] = speed * full / peak, own, None
    found['MFU, causal, for the record'] = speed * causal / peak, own, None
    return found


def _decode(given: _gpu_sides.Given) -> dict[str, Any]:
    """(value, ours, peer) by the name of the row; tokens a second."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from gptjax import sharding as sharding_lib
    from gptjax.generate import engine
    from gptjax.model import config as model_config
    from gptjax.model import transformer
    from gptjax.text import bytes as bytes_lib

    shape, new, _, _ = DECODED[given.name.partition('-')[2]]
    settings = given.config(shape).to_dict()
    arch = model_config.architecture(**settings['model'])
    new = 8 if given.tiny else new
    B = settings['data']['batch_size']
    compute = model_config.Compute(**settings['compute'])
    model = transformer.make(arch, compute, sharding_lib.single())
    params = transformer.init(model, jax.random.key(0))
    tokenizer = bytes_lib.Bytes()
    made = engine.Engine(model, params, tokenizer, weights=compute.dtype, batch=B)
    ids = min(256, arch.V)
    draw = np.random.default_rng(0)
    prompts = draw.integers(0, ids, (B, 16)).tolist()
    requests = [
        engine.Request(tuple(one), new, temperature=0.0, stop_tokens=())
        for one in prompts
    ]

    def ours() -> tuple[list[int], float]:
        start = time.perf_counter()
        done = made.generate(requests)
        return list(done[0].tokens), time.perf_counter() - start

    tokens, _ = ours()
    found, times = {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = _gpu_sides.export(arch, params, Path(name))
        peer = _gpu_sides.Peer.begin(folder, given, True, prompt=prompts, tokens=new)
        if peer is not None:
            theirs, own_p, _ = peer.ask(None)
            _, our_p, _ = peer.ask(tokens)
            print(
                f'{given.name}: {our_p:.4f} and {own_p:.4f} nats a token',
                file=sys.stderr,
            )
            if not own_p - our_p <= 2 * TOLERANCE or len(theirs) != len(tokens):
                raise ValueError(f'their tokens are likelier: {own_p} and {our_p}')
        turns = [
            (ours()[1], peer.ask(None)[2] if peer else None) for _ in range(ROUNDS)
        ]
    times = [a for a, _ in turns]
    speed = B * new / statistics.median(times)
    if peer:
        peer.end()
        other = B * new / statistics.median(b for _, b in turns if b)
        found['torch.compile, static cache'] = speed / other, speed, other
    width = jnp.dtype(model.compute.dtype).itemsize
    weights = width * sum(leaf.size for leaf in jax.tree.leaves(params))
    # On average a token reads half of what is there at the end.
    kept = 2 * width * arch.L * arch.K * arch.H * B * (16 + new / 2)
    most = B * _gpu_sides.bandwidth() / (weights + kept)
    found['roofline'] = speed / most, speed, most
    found['tokens a second'] = speed, speed, None
    return found


def _first_step(given: _gpu_sides.Given) -> dict[str, Any]:
    """Trace, lower, compile, the state at step 0, and one step: cold."""
    shape, _ = TRAINED['124m']
    unroll = 1 if given.name.endswith('scanned') else 12
    start = time.perf_counter()
    ours = _gpu_sides.Ours(given._replace(unroll=unroll), shape)
    ours.begin()
    ours.run(1)
    seconds = time.perf_counter() - start
    print(f'{given.name}: compiled in {ours.compile_seconds:.1f} s', file=sys.stderr)
    return {'124M, bfloat16': (seconds, seconds, None)}


def measured(given: _gpu_sides.Given) -> list[dict[str, Any]]:
    """The rows of a figure, measured here."""
    import jax

    measure, goals = figures()[given.name]
    more = {'machine': jax.devices()[0].device_kind}
    return list(_rows(given.name, goals, measure(given), **more))


def _probe(given: _gpu_sides.Given) -> dict[str, Any]:
    """What a run would choose here for the models that are trained."""
    import jax

    from gptjax.plan import step

    chosen = {}
    for name, (shape, _) in TRAINED.items():
        compute = step.of(given.config(shape)).model.compute
        chosen[name] = dataclasses.asdict(compute)
    return {
        'device': jax.devices()[0].device_kind,
        'jax': jax.__version__,
        'started with': platforms.told(),
        'compute': chosen,
        'copy, GB/s': _gpu_sides.bandwidth() / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('name', choices=[*figures(), 'probe'])
    parser.add_argument('--device', default='cuda', choices=('cuda', 'cpu'))
    parser.add_argument('--tiny', action='store_true', help='a small shape, not kept')
    parser.add_argument('--unroll', type=int, default=0, help='layers; 0: as a run')
    parser.add_argument('--json', action='store_true', help='rows, and nothing kept')
    flags = parser.parse_args()
    os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', FRACTION)
    os.environ['JAX_PLATFORMS'] = flags.device
    if flags.name.startswith('first-step'):
        os.environ['GPTJAX_CACHE'] = '0'
    platforms.prepare()
    given = _gpu_sides.Given(flags.name, flags.device, flags.tiny, flags.unroll)
    if flags.name == 'probe':
        print(json.dumps(_probe(given), indent=1))
        return
    found = measured(given)
    if flags.json or flags.tiny:
        print(json.dumps(found))
    else:
        from experiments.benchmarks import __main__ as figures_lib

        figures_lib.record('speed', found)


if __name__ == '__main__':
    main()
