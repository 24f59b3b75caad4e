"""The CPU at hand as a target: its rates measured, its constants from a short run."""

import dataclasses
import os
import time

import jax
import jax.numpy as jnp

from gptjax.model import transformer
from gptjax.plan import ahead, cost_model, job, search, targets
from gptjax.plan import step as step_lib
from gptjax.train import roofline

_LAYERS, _TOKENS, _STEPS = 3, 4096, 2  # of the calibration


def target(dtype: str = 'float32') -> targets.Target:
    """One device, with the speed of its products and of a copy (see `roofline`)."""
    limits = roofline.measure(jax.devices('cpu')[0])
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    rates = limits.flops[dtype], float(memory), limits.bytes
    chip = targets.Chip('cpu', 'cpu', *rates, limits.bytes, limits.bytes, ((1,),))
    return targets.Target('cpu', chip, (1,))


def calibrate(planned: job.Job, here: targets.Target) -> cost_model.Constants:
    """Constants under which a step of few layers takes what it takes.

    All rates are reached to the same part: one number follows from one run.
    """
    from ml_collections import ConfigDict

    rows = max(1, _TOKENS // planned.T)
    layout = job.Layout((), 'data', rows, 1, planned.compute.remat)
    settings = ahead.laid(planned.settings, layout)
    settings['model'] = {**settings['model'], 'L': min(_LAYERS, planned.arch.L)}
    short = job.Job(settings)
    ideal = cost_model.Constants(products=1.0, scores=1.0)
    expected = search.evaluate(short, here, layout, ideal).time.step
    reached = expected / measured(step_lib.of(ConfigDict(settings)))
    return dataclasses.replace(ideal, reached=reached)


def measured(program: step_lib.Program) -> float:
    """Seconds of the fastest of some steps; the first one compiles."""
    _, frozen, batch = program.arguments
    rows = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), batch)
    state = program.start(transformer.init(program.model, jax.random.key(0)))
    times = []
    for _ in range(_STEPS + 1):
        began = time.perf_counter()
        state, _ = program.step(state, frozen, rows)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - began)
    return min(times[1:])
