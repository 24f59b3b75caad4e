"""What is set before JAX starts: by a machine that is only files, and by real ones."""

import json
import os
import subprocess
import sys

import pytest

from gptjax import platforms

VARIABLES = (
    'XLA_FLAGS', 'LIBTPU_INIT_ARGS', 'XLA_PYTHON_CLIENT_MEM_FRACTION', 'PJRT_NPROC',
    'NPROC', 'JAX_PLATFORMS', 'JAX_COMPILATION_CACHE_DIR', 'GPTJAX_CACHE',
    'JAX_COMPILATION_CACHE_MAX_SIZE', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS',
    'GLIBC_TUNABLES',
)  # fmt: skip
GPUS = [one for one in platforms.SETTINGS if one.variable == 'XLA_FLAGS']
SCHEDULER = '--xla_gpu_enable_latency_hiding_scheduler'


class Machine:
    """Files of a system, packages, and processes that prove: those are counted."""

    def __init__(self, monkeypatch, root):
        self.root, self.started, self.deadly = root, [], set()
        self.packages = {'filelock': '1', 'jaxlib': '0.10.2'}
        monkeypatch.delitem(sys.modules, 'jax', raising=False)
        monkeypatch.setattr(platforms, '_installed', self.packages.__contains__)
        monkeypatch.setattr(
            platforms, '_version', lambda name: self.packages.get(name, '')
        )
        monkeypatch.setattr(platforms, '_runs', self._runs)
        monkeypatch.setattr(platforms, '_told', [])
        for name in VARIABLES:
            monkeypatch.setenv(name, '')  # so that it is put back
            monkeypatch.delenv(name)
        monkeypatch.setenv('GPTJAX_CACHE', str(root / 'cache'))

    def _runs(self, program, environment):
        flags = ' '.join(environment.values()).split()
        self.started.append(flags)
        return not self.deadly & set(flags)

    def file(self, path, text=''):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def gpus(self, count=2):
        self.packages['jax_cuda13_plugin'] = '0'
        for number in range(count):
            self.file(f'dev/nvidia{number}')

    def prepare(self):
        platforms.prepare(f'{self.root}/')
        return platforms.told()


@pytest.fixture
def machine(monkeypatch, tmp_path):
    return Machine(monkeypatch, tmp_path)


def test_flags_of_the_table_are_taken_by_this_jaxlib_and_a_wrong_one_is_not():
    _, program = platforms._READERS['XLA_FLAGS']
    flags = ' '.join(one.text for one in GPUS)
    assert platforms._runs(program, {'XLA_FLAGS': flags})
    assert not platforms._runs(program, {'XLA_FLAGS': f'{flags} --xla_no_such=1'})


def test_a_cpu_gets_no_flags(machine):
    told = machine.prepare()
    assert told[0] == 'platform: cpu'
    assert 'XLA_FLAGS' not in os.environ


def test_the_platform_is_the_one_that_jax_will_choose(machine, monkeypatch):
    root = f'{machine.root}/'
    machine.gpus(3)
    assert platforms.find(root) == ('gpu', 3, '')
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    assert platforms.find(root)[0] == 'cpu'
    monkeypatch.setenv('JAX_PLATFORMS', 'cuda,cpu')
    assert platforms.find(root)[0] == 'gpu'
    monkeypatch.delenv('JAX_PLATFORMS')
    del machine.packages['jax_cuda13_plugin']
    assert platforms.find(root)[0] == 'cpu'
    for number in range(4):
        machine.file(f'sys/bus/pci/devices/{number}/device', '0x006f\n')
    assert platforms.find(root)[0] == 'cpu'
    machine.packages['libtpu'] = '0.0.42.1'
    assert platforms.find(root) == ('tpu', 4, 'v6e')
    machine.prepare()
    assert '--xla_tpu_scoped_vmem_limit_kib=98304' in os.environ['LIBTPU_INIT_ARGS']


def test_flags_that_are_proven_start_no_process(machine):
    machine.gpus()
    machine.prepare()
    assert os.environ['XLA_FLAGS'].split() == [one.text for one in GPUS]
    assert os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'] == '0.9'
    assert machine.started == []


def test_collectives_of_a_single_gpu_are_not_set_up(machine):
    machine.gpus(1)
    machine.prepare()
    assert 'XLA_FLAGS' not in os.environ


def test_the_user_wins(machine, monkeypatch):
    """Fails where a flag of the table stands behind the user's of that name."""
    machine.gpus()
    monkeypatch.setenv('XLA_FLAGS', f'{SCHEDULER}=false --xla_dump_to=x')
    monkeypatch.setenv('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.5')
    told = machine.prepare()
    flags = os.environ['XLA_FLAGS'].split()
    assert [flag for flag in flags if flag.startswith(SCHEDULER)] == [
        f'{SCHEDULER}=false'
    ]
    assert flags[-1] == '--xla_dump_to=x'
    assert len(flags) == len(GPUS) + 1
    assert os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'] == '0.5'
    assert f'XLA_FLAGS {SCHEDULER}=true: left to you' in told
    monkeypatch.setenv('XLA_FLAGS', 'flags.txt')  # a file, which nothing is added to
    machine.prepare()
    assert os.environ['XLA_FLAGS'] == 'flags.txt'


def test_a_deadly_flag_is_left_out_said_and_tried_once(machine, monkeypatch, capsys):
    """Fails where proofs are not kept, or not by version."""
    machine.gpus()
    machine.packages['jaxlib'] = '0.99.0'
    machine.deadly = {f'{SCHEDULER}=true'}
    told = machine.prepare()
    fine = [one.text for one in GPUS if one.text not in machine.deadly]
    assert os.environ['XLA_FLAGS'].split() == fine
    assert len(machine.started) == 1 + len(GPUS)  # together, then each alone
    said = f'gptjax: jaxlib 0.99.0 does not know {SCHEDULER}=true; it is left out\n'
    assert capsys.readouterr().err == said
    assert f'XLA_FLAGS {SCHEDULER}=true: not known, and left out' in told
    monkeypatch.delenv('XLA_FLAGS')
    machine.prepare()
    assert os.environ['XLA_FLAGS'].split() == fine
    assert len(machine.started) == 1 + len(GPUS)
    assert capsys.readouterr().err == ''
    machine.packages['jaxlib'] = '0.100.0'
    monkeypatch.delenv('XLA_FLAGS')
    machine.prepare()
    assert len(machine.started) == 2 * (1 + len(GPUS))


@pytest.mark.parametrize('kept', ['0', '/dev/null/no/folder'])
def test_without_a_folder_flags_are_tried_and_nothing_is_kept(
    machine, monkeypatch, kept
):
    machine.gpus()
    machine.packages['jaxlib'] = '0.99.0'
    monkeypatch.setenv('GPTJAX_CACHE', kept)
    told = machine.prepare()
    assert os.environ['XLA_FLAGS'].split() == [one.text for one in GPUS]
    assert told[-1] == 'programs are not kept'
    assert 'JAX_COMPILATION_CACHE_DIR' not in os.environ


def test_a_file_of_proofs_that_is_half_is_none(machine):
    machine.gpus()
    machine.packages['jaxlib'] = '0.99.0'
    machine.file('cache/proofs.json', '{"jaxlib 0')
    machine.prepare()
    assert len(machine.started) == 1
    assert all(json.loads((machine.root / 'cache/proofs.json').read_text()).values())


def test_programs_are_kept_for_one_kind_of_cpu(machine, monkeypatch):
    machine.file('proc/cpuinfo', 'model name: A\nflags: avx\n\nmodel name: other\n')
    machine.prepare()
    first = os.environ['JAX_COMPILATION_CACHE_DIR']
    assert len(machine.started) == 1
    for flags, starts in (('avx', 1), ('avx avx512f', 2)):
        machine.file('proc/cpuinfo', f'model name: A\nflags: {flags}\n\n')
        monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
        machine.prepare()
        assert (os.environ['JAX_COMPILATION_CACHE_DIR'] == first) == (starts == 1)
        assert len(machine.started) == starts


def test_programs_are_not_kept_where_they_are_refused(machine, monkeypatch):
    machine.deadly = {''}
    monkeypatch.setattr(platforms, '_runs', lambda *given: False)
    assert machine.prepare()[-1].endswith('this CPU refuses what was')
    assert 'JAX_COMPILATION_CACHE_DIR' not in os.environ
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'mine')
    machine.prepare()
    assert os.environ['JAX_COMPILATION_CACHE_DIR'] == 'mine'


def test_halves_of_programs_go_and_what_is_being_written_stays(machine):
    machine.gpus()
    for name in ('a-cache', 'a-atime', 'b-cache', 'c-cache'):
        machine.file(f'cache/gpu/{name}')
    os.utime(machine.root / 'cache/gpu/b-cache', (0, 0))
    machine.prepare()
    left = {path.name for path in (machine.root / 'cache/gpu').iterdir()}
    assert left == {'a-cache', 'a-atime', 'c-cache'}


@pytest.mark.parametrize(
    ('quota', 'threads'),
    [('150000 100000', '2'), ('10000 100000', '1'), ('max 100000', None), ('', None)],
)
def test_threads_are_those_of_the_quota(machine, monkeypatch, quota, threads):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: range(64))
    machine.file('proc/self/cgroup', '3:cpu:/\n0::/user/job\n')
    machine.file('sys/fs/cgroup/user/job/cpu.max', quota)
    machine.prepare()
    assert os.environ.get('PJRT_NPROC') == threads


def test_layers_are_unrolled_where_that_was_faster():
    assert [platforms.unroll('cpu', L) for L in (2, 48)] == [2, 48]
    assert [platforms.unroll('gpu', L) for L in (12, 24, 25)] == [12, 24, 1]
    assert platforms.unroll('gpu', 12, devices=8) == 1
    assert platforms.unroll('tpu', 12) == 1


def test_nothing_is_set_once_jax_is_there(monkeypatch):
    monkeypatch.setattr(platforms, '_told', [])
    before = dict(os.environ)
    platforms.prepare()
    assert dict(os.environ) == before
    assert platforms.told() == ['nothing was set: JAX was there before']


def test_a_command_prepares_before_it_imports_jax(tmp_path):
    program = (
        'import sys\n'
        'from gptjax import command, platforms\n'
        'command.parse(command.parser("x", "y"), [])\n'
        'print(platforms.told()[-1], "jax" in sys.modules)'
    )
    environment = {**os.environ, 'GPTJAX_CACHE': '0'}
    environment.pop('JAX_COMPILATION_CACHE_DIR', None)
    done = subprocess.run(
        [sys.executable, '-c', program], env=environment, capture_output=True, text=True
    )
    assert done.stdout == 'programs are not kept False\n'


HUGE = 'sys/kernel/mm/transparent_hugepage/enabled'


@pytest.fixture
def begun_again(machine, monkeypatch):
    """(arguments, environment) of each process that took the place of this one."""
    found = []
    monkeypatch.setattr(os, 'execve', lambda path, *given: found.append(given))
    monkeypatch.setattr(platforms, '_is_command', lambda: True)
    machine.file(HUGE, 'always [madvise] never')
    return found


def test_a_command_begins_again_for_huge_pages(machine, begun_again, monkeypatch):
    monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.malloc.check=1')
    machine.prepare()
    ((arguments, environment),) = begun_again
    assert arguments[1:] == sys.orig_argv[1:]
    tunables = 'glibc.malloc.check=1:glibc.malloc.hugetlb=1'
    assert environment['GLIBC_TUNABLES'] == tunables


@pytest.mark.parametrize('why', ['begun', 'always', 'library', 'gpu'])
def test_no_process_begins_again_in_vain(machine, begun_again, monkeypatch, why):
    """Fails if it would begin again for ever, or a program that imports gptjax does."""
    if why == 'begun':
        monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=0')
    elif why == 'always':
        machine.file(HUGE, '[always] madvise never')
    elif why == 'library':
        monkeypatch.setattr(platforms, '_is_command', lambda: False)
    else:
        machine.gpus(1)
    machine.prepare()
    assert not begun_again


@pytest.mark.parametrize(
    ('given', 'ours'),
    [
        ('python -m gptjax.train --workdir=x', True),
        ('python -X dev -m gptjax train', False),  # `dev` may be a file: left alone
        ('python -u -m gptjax.generate', True),
        ('python /usr/bin/gptjax train', True),
        ('python program.py -m gptjax.train', False),
        ('python -m pdb -m gptjax.train', False),
        ('python -m gptjaxes', False),
        ('python -', False),
        ('python', False),
    ],
)
def test_only_our_own_commands_begin_again(monkeypatch, given, ours):
    """Fails if it looks at `sys.argv`, which programs set as they like."""
    monkeypatch.setattr(sys, 'orig_argv', given.split())
    monkeypatch.setattr(sys, 'argv', ['gptjax'])
    assert platforms._is_command() == ours


def test_no_answer_is_not_remembered(machine, monkeypatch, capsys):
    """A full disk, or a proof that takes too long: the next command asks again."""
    machine.gpus()
    machine.packages['jaxlib'] = '9.0'
    monkeypatch.setattr(platforms, '_runs', lambda *_: None)
    machine.prepare()
    assert 'could not be asked for' in capsys.readouterr().err
    assert platforms._proofs(machine.root / 'cache') == {}
    for name in VARIABLES[:1]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platforms, '_runs', machine._runs)
    machine.prepare()
    assert SCHEDULER in os.environ['XLA_FLAGS']
