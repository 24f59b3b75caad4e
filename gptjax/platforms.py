"""What each platform is started with: flags of its compiler, threads, kept programs.

`prepare` sets them in the environment, before JAX is imported; what the user has set
there wins. A flag that the compiler does not know ends the process, so with versions
other than PROVEN, flags are first tried in a process of their own, once: what came out
is kept in `proofs.json` in the folder of caches. That is GPTJAX_CACHE, else
$XDG_CACHE_HOME/gptjax, else ~/.cache/gptjax; GPTJAX_CACHE=0 keeps nothing.
"""

from collections.abc import Mapping, Sequence
import contextlib
import glob
import importlib.util
import json
import os
from pathlib import Path
import sys
import time
from typing import NamedTuple
import zlib


class Setting(NamedTuple):
    """A flag of `variable`, or its value; for a chip, and for so many devices."""

    platform: str  # 'gpu' or 'tpu'
    variable: str
    text: str
    why: str
    source: str
    chip: str = ''
    devices: int = 1


_TOOLBOX = 'NVIDIA JAX-Toolbox, Tips for High-Performance LLMs with JAX and XLA'
_MAXTEXT = 'MaxText, benchmarks/xla_flags_library.py'
_BESIDE = 'the collectives of a layer run beside its neighbour'
_REDUCE = 'sums of gradients over data run beside the backward pass'

# Not here, as one GPU gains nothing or loses: command buffers beyond the default (those
# of collectives hung a run: marin issue 8277), double-buffered loops (wrong offsets:
# XLA issue 47218), exhaustive tiling (minutes of compilation).
SETTINGS = (
    Setting('gpu', 'XLA_PYTHON_CLIENT_MEM_FRACTION', '0.9',
            'of the memory; JAX takes 0.75', _TOOLBOX),
    Setting('gpu', 'XLA_FLAGS', '--xla_gpu_enable_latency_hiding_scheduler=true',
            'collectives begin early, beside products', _TOOLBOX, devices=2),
    Setting('gpu', 'XLA_FLAGS', '--xla_gpu_enable_pipelined_all_gather=true',
            _BESIDE, _TOOLBOX, devices=2),
    Setting('gpu', 'XLA_FLAGS', '--xla_gpu_enable_pipelined_reduce_scatter=true',
            _BESIDE, _TOOLBOX, devices=2),
    Setting('gpu', 'XLA_FLAGS', '--xla_gpu_enable_pipelined_all_reduce=true',
            _BESIDE, _TOOLBOX, devices=2),
    Setting('tpu', 'LIBTPU_INIT_ARGS', '--xla_tpu_scoped_vmem_limit_kib=98304',
            'larger tiles of products', _MAXTEXT, chip='v6e'),
    Setting('tpu', 'LIBTPU_INIT_ARGS',
            '--xla_tpu_enable_data_parallel_all_reduce_opt=true', _REDUCE, _MAXTEXT),
    Setting('tpu', 'LIBTPU_INIT_ARGS',
            '--xla_tpu_data_parallel_opt_different_sized_ops=true', _REDUCE, _MAXTEXT),
)  # fmt: skip

# The first and the last version that all these flags were tried with.
PROVEN = {'jaxlib': ('0.10.2', '0.12.0.1'), 'libtpu': ('0.0.42.1', '0.0.42.1')}

# Who reads a variable of flags, and a program that ends well if it takes them all.
_READERS = {
    'XLA_FLAGS': ('jaxlib', 'from jaxlib import xla_client as x; x.CompileOptions()'),
    'LIBTPU_INIT_ARGS': (
        'libtpu',
        'from jax.experimental import topologies as t; '
        "t.get_topology_desc(platform='tpu', topology_name='v6e:2x2')",
    ),
}
# Compiles, keeps, forgets, loads. Some CPUs refuse each program that is loaded, with a
# line of the AOT loader on standard error (JAX issue 38445): there, none is kept.
_KEEPS = """
import jax, jax.numpy as n, tempfile
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
with tempfile.TemporaryDirectory() as folder:
    jax.config.update('jax_compilation_cache_dir', folder)
    for _ in range(2):
        jax.clear_caches(); jax.jit(lambda x: n.tanh(x @ x))(n.ones((64, 64)))
"""
_ALONE = {  # the environment of a proof, which touches no device
    'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1', 'TPU_LOG_DIR': 'disabled',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}  # fmt: skip
_CHIPS = {'0x005e': 'v4', '0x0062': 'v5p', '0x0063': 'v5e', '0x006f': 'v6e'}  # on PCI
_KEPT_BYTES = 2 << 30  # of programs; what was not used for longest goes first
_HUGE = 'glibc.malloc.hugetlb'
_told: list[str] = []


def prepare(root: str = '/') -> None:
    """Sets what this machine is to be started with; nothing, where JAX is there.

    root: where the files of the system are.
    """
    if 'jax' in sys.modules:
        return
    platform, devices, chip = find(root)
    _told[:] = [f'platform: {platform}']
    cache = folder()
    here = [one for one in SETTINGS if one.platform == platform]
    here = [one for one in here if one.chip in ('', chip) and one.devices <= devices]
    for variable in dict.fromkeys(one.variable for one in here):
        _set(variable, [one for one in here if one.variable == variable], cache)
    if platform == 'cpu' and sys.platform == 'linux':
        _take_huge_pages(root)
        _limit_threads(root)
    _told.append(_keep_programs(platform, cache, root))


def told() -> list[str]:
    """What `prepare` found and did, a line each."""
    return list(_told) or ['nothing was set: JAX was there before']


def unroll(platform: str, L: int, devices: int = 1) -> int:
    """Layers in one iteration of the scan over L: L unrolls it.

    On CPU, 6 layers of width 384 take 1.5 s a step unrolled and 2.2 s scanned. On a
    GPU, the scan copies what backward needs, and unrolled layers take minutes to
    compile (JAX issue 24411): up to 24 of them are, on one. TPUs scan.
    """
    alone = platform == 'gpu' and devices == 1 and L <= 24
    return L if platform == 'cpu' or alone else 1


def find(root: str = '/') -> tuple[str, int, str]:
    """(the platform that JAX will choose, its devices on this host, chip of a TPU)."""
    gpus = len(glob.glob(f'{root}dev/nvidia[0-9]*'))
    plugins = ('jax_cuda12_plugin', 'jax_cuda13_plugin')
    named = os.environ.get('JAX_PLATFORMS', '').split(',')[0]
    if named in ('gpu', 'cuda') or (
        not named and gpus and any(map(_installed, plugins))
    ):
        return 'gpu', gpus, ''
    if named == 'tpu' or (not named and _installed('libtpu')):
        ids = (_read(f) for f in glob.glob(f'{root}sys/bus/pci/devices/*/device'))
        chips = [_CHIPS[i.strip()] for i in ids if i.strip() in _CHIPS]
        if named or chips:
            return 'tpu', len(chips), chips[0] if chips else ''
    return named or 'cpu', 1, ''


def folder() -> Path | None:
    """The folder of caches, made where it is not there; None if nothing is kept."""
    named = os.environ.get('GPTJAX_CACHE')
    if named == '0':
        return None
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    try:  # what is loaded from here is run: it is for its owner alone
        path = Path(named or f'{base}/gptjax').expanduser()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except (OSError, RuntimeError):  # no such user
        return None
    others = found.st_uid != os.getuid() or found.st_mode & 0o022
    return path if os.access(path, os.W_OK | os.X_OK) and not others else None


def _set(variable: str, settings: Sequence[Setting], cache: Path | None) -> None:
    """Puts settings of one variable before the user's, who overrules them."""
    given = os.environ.get(variable, '').split()
    names = {flag.partition('=')[0] for flag in given}
    whole = given and not given[0].startswith('-')  # a value, or a file of flags
    free = [
        one for one in settings if not whole and one.text.partition('=')[0] not in names
    ]
    alive = _alive(variable, [one.text for one in free], cache)
    os.environ[variable] = ' '.join([*alive, *given])
    for one in settings:
        what = one.why if one.text in alive else 'not known, and left out'
        _told.append(f'{variable} {one.text}: {what if one in free else "left to you"}')


def _alive(variable: str, flags: list[str], cache: Path | None) -> list[str]:
    """Those of the flags that the installed package takes."""
    package, program = _READERS.get(variable, ('', ''))
    version = _version(package)
    first, last = (_numbers(text) for text in PROVEN.get(package, ('', '')))
    if first <= _numbers(version) <= last:
        return flags
    proofs = _proofs(cache)
    known = {flag: proofs.get(f'{package} {version} {flag}') for flag in flags}
    new = [flag for flag in flags if known[flag] is None]
    if new:
        whole = _runs(program, {variable: ' '.join(new)})
        for flag in new:
            one = whole or len(new) == 1
            known[flag] = whole if one else _runs(program, {variable: flag})
            if not known[flag]:
                why = (
                    'does not know'
                    if known[flag] is False
                    else 'could not be asked for'
                )
                what = f'{package} {version} {why} {flag}; it is left out'
                print(f'gptjax: {what}', file=sys.stderr)
        found = {f'{package} {version} {flag}': known[flag] for flag in new}
        _remember(cache, {**proofs, **found})
    return [flag for flag in flags if known[flag]]


def _take_huge_pages(root: str) -> None:
    """Begins a command again, in its process, so that its memory lies in huge pages.

    XLA takes the memory of a step anew each time: 2 layers of width 384, 132,000 page
    faults and 0.95 s a step, are 700 and 0.75 s. glibc looks for this where a process
    begins, and nowhere else; GLIBC_TUNABLES=glibc.malloc.hugetlb=0 leaves it.
    """
    given = os.environ.get('GLIBC_TUNABLES', '')
    asked = '[madvise]' in _read(f'{root}sys/kernel/mm/transparent_hugepage/enabled')
    if _HUGE in given or not asked:
        what = given if _HUGE in given else 'memory is as the system gives it'
        _told.append(f'huge pages: {what}')
    elif _is_command():
        tunables = ':'.join(filter(None, [given, f'{_HUGE}=1']))
        sys.stdout.flush()
        sys.stderr.flush()
        environment = {**os.environ, 'GLIBC_TUNABLES': tunables}
        with contextlib.suppress(OSError):  # then it goes on as it is
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _is_command() -> bool:
    """Whether this process is one of ours: python -m gptjax.VERB, or gptjax."""
    # What Python was begun with: `sys.argv` is whatever a program makes of it.
    for before, word in zip(['', *sys.orig_argv[1:]], sys.orig_argv[1:], strict=False):
        if before == '-m':
            return word == 'gptjax' or word.startswith('gptjax.')
        if not word.startswith('-'):
            return Path(word).name == 'gptjax'
    return False


def _limit_threads(root: str) -> None:
    """XLA starts threads for each core that it may run on, whatever the quota is.

    A step of 4 layers of width 128 takes 81 ms with 32 threads on 2 cores, not 59.
    """
    cores, quotas = len(os.sched_getaffinity(0)), []
    group = _read(f'{root}proc/self/cgroup').rpartition('0::')[2].split('\n')[0]
    for path in (group, ''):
        quota, *period = _read(f'{root}sys/fs/cgroup{path}/cpu.max').split() or ['max']
        quotas.append(int(quota) / int(period[0]) if quota != 'max' else cores)
    limit = max(1, round(min(quotas)))
    if limit < cores and not {'PJRT_NPROC', 'NPROC'} & set(os.environ):
        os.environ['PJRT_NPROC'] = str(limit)
        _told.append(f'PJRT_NPROC {limit}: the quota of this group of processes')


def _keep_programs(platform: str, cache: Path | None, root: str) -> str:
    """Has JAX keep compiled programs, and on GPUs what it tuned; says what it did.

    Its key of a program has versions and flags, but no CPU: each kind has a folder.
    """
    if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
        return 'programs are kept where JAX_COMPILATION_CACHE_DIR says'
    if cache is None or not _installed('filelock'):  # by which JAX bounds a cache
        return 'programs are not kept'
    programs = cache / platform
    if platform == 'cpu':
        programs = cache / f'cpu-{_kind_of_cpu(root):08x}'
        proofs, key = _proofs(cache), f'jaxlib {_version("jaxlib")} {programs.name}'
        if key not in proofs:
            proofs[key] = _runs(_KEEPS, {})
            _remember(cache, proofs)
        if not proofs[key]:
            return 'programs are not kept: this CPU refuses what was'
    _drop_halves(programs)
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(programs)
    os.environ.setdefault('JAX_COMPILATION_CACHE_MAX_SIZE', str(_KEPT_BYTES))
    # Wall time of two steps of 4 layers of width 128: nothing kept 12.4 s, programs of
    # a second or more 7.8 s, of a tenth 5.5 s.
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
    return f'programs are kept in {programs}'


def _kind_of_cpu(root: str) -> int:
    kind = ''
    with contextlib.suppress(OSError), open(f'{root}proc/cpuinfo') as file:
        for line in file:
            if not line.strip():  # the next core
                break
            if line.startswith(('model name', 'flags', 'Features', 'CPU p')):
                kind += line
    return zlib.crc32(kind.encode())


def _drop_halves(programs: Path) -> None:
    """A process that is killed while it writes leaves a half, without a time of use.

    JAX would keep nothing any more; what is a minute old will not be finished.
    """
    with contextlib.suppress(OSError):
        names = set(os.listdir(programs))
        for name in names:
            half = name.endswith('-cache') and f'{name[:-6]}-atime' not in names
            if half and (programs / name).stat().st_mtime < time.time() - 60:
                (programs / name).unlink()


def _runs(program: str, environment: Mapping[str, str]) -> bool | None:
    """Whether a process of its own ends well, without a word of the AOT loader.

    None is no answer: it did not begin, or did not end.
    """
    import subprocess

    rest = {name: x for name, x in os.environ.items() if name not in _READERS}
    try:
        done = subprocess.run(
            [sys.executable, '-c', program],
            env=rest | _ALONE | dict(environment),
            capture_output=True,
            timeout=120,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode == 0 and b'aot_loader' not in done.stderr


def _proofs(cache: Path | None) -> dict[str, bool | None]:
    try:
        return dict(json.loads(_read(cache / 'proofs.json'))) if cache else {}
    except (TypeError, ValueError):  # none yet
        return {}


def _remember(cache: Path | None, proofs: Mapping[str, bool | None]) -> None:
    if cache:
        with contextlib.suppress(OSError):
            new = cache / f'proofs.{os.getpid()}'
            known = {name: x for name, x in proofs.items() if x is not None}
            new.write_text(json.dumps(known, indent=1))
            new.replace(cache / 'proofs.json')


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ''


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split('.') if part.isdigit())


def _version(package: str) -> str:
    """Of an installed package, in 0.5 ms: importlib.metadata takes 40 to import."""
    spec = importlib.util.find_spec(package) if package else None
    for place in (spec and spec.submodule_search_locations) or ():
        for path in glob.glob(f'{place}-*.dist-info'):
            return Path(path).name.split('-')[1].removesuffix('.dist')
    return ''
