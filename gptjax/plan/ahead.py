"""The step compiled for chips that are not here, in a process of its own.

    echo JSON | python -m gptjax.plan.ahead

TPUs need libtpu (pip install gptjax[tpu]), GPUs the plug-in of CUDA (gptjax[cuda]); a
process that is killed, or has no such compiler, leaves the analytic plan.
"""

from collections.abc import Mapping
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import time
from typing import Any

from gptjax import platforms, sharding
from gptjax.model import config, kernels
from gptjax.plan import job, targets
from gptjax.train import inputs
from gptjax.train import settings as settings_lib

_ALONE = {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-16',  # read, and of no effect here
    'TPU_LOG_DIR': 'disabled',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
_PACKAGES = {
    'tpu': (('libtpu',), 'gptjax[tpu]'),
    'gpu': (('jax_cuda13_plugin', 'jax_cuda12_plugin'), 'gptjax[cuda]'),
}
_FLAGS = {'tpu': 'LIBTPU_INIT_ARGS', 'gpu': 'XLA_FLAGS'}
_LIMIT = 600  # seconds of a compiler

# What CUDA says of an H100 or H200, as XLA's compiler asks for it.
_HOPPER = """
platform_name: "CUDA" device_description_str: "NVIDIA {kind}"
dnn_version_info {{ major: 9 minor: 10 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }} core_count: 132 fpus_per_core: 128
  clock_rate_ghz: 1.98 memory_bandwidth: {rate} device_memory_size: {memory}
  l2_cache_size: 52428800 threads_per_warp: 32 threads_per_block_limit: 1024
  threads_per_core_limit: 2048 shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}}
"""


def missing(target: targets.Target) -> str:
    """Why a target cannot be compiled for here, or ''."""
    packages, extra = _PACKAGES[target.chip.platform]
    if any(map(importlib.util.find_spec, packages)):
        return ''
    return f'its compiler is not installed (pip install {extra})'


def compile_(
    settings: Mapping[str, Any], target: targets.Target, layout: job.Layout
) -> dict[str, Any]:
    """What the compiler makes of a layout: bytes, seconds and collectives.

    `error`, one line, stands alone where there is one, but for the `peak` of what is
    too large. `peak` and `alive` are bytes of
    a device, `resident` those of the compiler, `processor` its seconds on all cores;
    `collectives` has (times, bytes) by kind, loops counted.
    """
    given: dict[str, Any] = {
        'settings': laid(settings, layout),
        'platform': target.chip.platform,
        'kind': target.chip.kind,
        'memory': round(target.chip.memory),
        'rate': round(target.chip.memory_rate),
        'shape': target.shape,
        'slices': target.slices,
    }
    flags = ['--xla_gpu_autotune_level=0']  # it would run on the GPU
    if target.chip.platform == 'tpu':
        flags = [
            one.text
            for one in platforms.SETTINGS
            if one.variable == _FLAGS['tpu'] and one.chip in ('', target.chip.kind)
        ]
    elif given['settings']['compute'].get('attention', 'auto') == 'auto':
        given['settings']['compute']['attention'] = _kernel(settings, layout)
    try:
        done = subprocess.run(
            [sys.executable, '-m', __name__],
            input=json.dumps(given),
            env=os.environ | _ALONE | {_FLAGS[target.chip.platform]: ' '.join(flags)},
            capture_output=True,
            text=True,
            timeout=_LIMIT,
        )
    except subprocess.TimeoutExpired:
        return {'error': f'the compiler took more than {_LIMIT} s'}
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or ['']
        return {'error': f'the compiler ended with {done.returncode}: {last[0][:200]}'}
    return found


def _kernel(settings: Mapping[str, Any], layout: job.Layout) -> str:
    """What 'auto' is on GPUs without cuDNN, which asks the GPU what it can."""
    if layout.size('context') > 1:
        return 'ring'
    arch, triton = config.architecture(**settings['model']), kernels.KERNELS['triton']
    T = inputs.length(settings_lib.data_of(settings), arch)
    windows = any(0 < window < T for window in arch.windows)
    fits = not T % triton.multiple and (triton.windows or not windows)
    return 'triton' if fits else 'blocked'


def laid(settings: Mapping[str, Any], layout: job.Layout) -> dict[str, Any]:
    """The settings with this layout: what a config says to run it."""
    mesh = {'data': 1, 'fsdp': 1, 'tensor': 1, **dict(layout.sizes)}
    compute = {
        **settings['compute'],
        'remat': layout.remat,
        'accumulate': layout.accumulate,
    }
    compute |= {
        name: value
        for name, value, plain in (
            ('pipeline_microbatches', layout.pipeline, 0),
            ('pipeline_rounds', layout.rounds, 1),
            ('loss_rows', layout.loss_rows, 0),
        )
        if name in compute or value != plain
    }
    kernel = compute.get('attention')
    if kernel and (kernel in ('ring', 'gather')) != (layout.size('context') > 1):
        compute['attention'] = 'auto'
    return {
        **settings,
        'mesh': {**mesh, 'rules': layout.rules},
        'compute': compute,
        'data': {**settings['data'], 'batch_size': layout.rows},
    }


def flags(settings: Mapping[str, Any], layout: job.Layout) -> list[str]:
    """What runs a layout: the command line that makes the config say `laid`."""
    new, ones = laid(settings, layout), dict.fromkeys(sharding.MESH_AXES, 1)
    sections = {
        'mesh': ({**ones, **new['mesh']}, {**ones, **settings['mesh']}),
        'compute': (new['compute'], settings['compute']),
    }
    return [
        f'--config.{section}.{name}={value}'
        for section, (mine, given) in sections.items()
        for name, value in mine.items()
        if given.get(name) != value
    ]


def _devices(given: Mapping[str, Any]) -> Any:
    from jax.experimental import topologies

    if given['platform'] == 'gpu':
        made = topologies.get_topology_desc(
            platform='cuda',
            target_config=_HOPPER.format(**given),
            topology=f'1x{given["slices"]}x{given["shape"][0]}',
        )
        return made.devices
    options: dict[str, Any] = {}
    if max(given['shape']) == 1:
        options['chips_per_host_bounds'] = (1, 1, 1)
    if given['slices'] > 1:
        options['num_slices'] = given['slices']
    name = f'{given["kind"]}:{"x".join(map(str, given["shape"]))}'
    return topologies.get_topology_desc(
        platform='tpu', topology_name=name, **options
    ).devices


def _compiled(given: Mapping[str, Any]) -> dict[str, Any]:
    from ml_collections import ConfigDict

    from gptjax.plan import hlo, step

    program = step.of(ConfigDict(given['settings']), _devices(given))
    platform = 'cuda' if given['platform'] == 'gpu' else 'tpu'
    began = time.perf_counter()
    lowered = program.step.trace(*program.arguments).lower(
        lowering_platforms=(platform,)
    )
    compiled = lowered.compile()
    known: Any = compiled.memory_analysis()
    text = hlo.Program(compiled.as_text() or '', unknown=1)
    used = resource.getrusage(resource.RUSAGE_SELF)
    alive = known.argument_size_in_bytes + known.temp_size_in_bytes
    alive += known.output_size_in_bytes - known.alias_size_in_bytes
    return {
        'peak': known.peak_memory_in_bytes,
        'alive': alive + known.generated_code_size_in_bytes,
        'arguments': known.argument_size_in_bytes,
        'seconds': time.perf_counter() - began,
        'collectives': text.collectives(),
        'flops': text.flops(),
        'kernels': text.custom_calls(),
        'resident': used.ru_maxrss * 1024,
        'processor': used.ru_utime + used.ru_stime,
    }


def main() -> None:
    given = json.load(sys.stdin)
    try:
        found = _compiled(given)
    except Exception as error:  # of a compiler: no list of kinds is complete
        found = {'error': f'{type(error).__name__}: {error}'.splitlines()[0][:300]}
        if needed := re.search(r'\(([\d.]+)G\) exceeds', found['error']):
            found['peak'] = float(needed[1]) * targets.GIB
    print(json.dumps(found))


if __name__ == '__main__':
    main()
