"""Who imports whom: the layers, and what no module may import early."""

import ast
from pathlib import Path
import subprocess
import sys

import pytest

import gptjax

ROOT = Path(gptjax.__file__).parent

# Each imports only from those it names; BOTTOM is open to all.
LAYERS = {
    'sharding': set(),
    'trees': set(),
    'model': {'sharding', 'trees'},
    'text': set(),
    'data': {'text'},
    'objectives': {'model'},
    'generate': {'model', 'text'},
    'train': {'objectives', 'data', 'generate', 'model', 'text', 'sharding', 'trees'},
    'exchange': {'train', 'data', 'model', 'text', 'sharding', 'trees'},
    'evals': {'generate', 'train', 'objectives', 'data', 'model', 'text', 'trees'},
    'launch': set(),
    'plan': {'train', 'objectives', 'model', 'sharding', 'trees'},
    'serve': {'generate', 'evals', 'model', 'text'},
}
BOTTOM = {'command', 'core', 'platforms'}
ENTRIES = sorted(path.parent.name for path in ROOT.glob('*/__main__.py'))


def imports(path):
    """(module, whether it is imported when the file is) for all in a file."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        early = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, early) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            names = [f'{node.module}.{alias.name}' for alias in node.names]
            yield from ((name, early) for name in names)


def test_packages_import_downwards_only():
    found = {path.stem if path.is_file() else path.name for path in ROOT.iterdir()}
    known = set(LAYERS) | BOTTOM | {'__init__', '__main__', '__pycache__', 'py'}
    assert found <= known, 'a new package needs its place in LAYERS'
    wrong = []
    for path in ROOT.rglob('*.py'):
        package = path.relative_to(ROOT).with_suffix('').parts[0]
        if path.name == '__main__.py' or package not in LAYERS:
            continue  # entry points assemble
        for name, _ in imports(path):
            if name.startswith('gptjax.'):
                other = name.split('.')[1]
                if other not in LAYERS[package] | BOTTOM | {package}:
                    wrong.append(f'{path.relative_to(ROOT)} imports {other}')
    assert not wrong


def test_heavy_packages_are_imported_late_and_in_one_place():
    places = {
        'tensorflow': ['data/pipeline.py'],
        'tensorflow_datasets': ['data/corpora/tfds.py', 'data/tfds_folder.py'],
        'torch': [],
        'transformers': [],
    }
    for path in ROOT.rglob('*.py'):
        for name, early in imports(path):
            top = name.split('.')[0]
            if top in places:
                assert str(path.relative_to(ROOT)) in places[top]
                assert not early


@pytest.mark.parametrize('package', ['gptjax', *(f'gptjax.{e}' for e in ENTRIES)])
def test_help_needs_neither_jax_nor_tensorflow(package):
    """So that it is quick: JAX alone takes 0.35 s to import."""
    program = f"""
import runpy, sys
sys.argv = ['gptjax', '--help']
try:
    runpy.run_module({package!r}, run_name='__main__', alter_sys=True)
except SystemExit as end:
    assert not end.code
assert not {{'jax', 'tensorflow', 'torch'}} & set(sys.modules), 'heavy import'
"""
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert 'usage:' in done.stdout


def test_the_library_imports_neither_tensorflow_nor_torch():
    modules = [
        '.'.join(('gptjax', *path.relative_to(ROOT).with_suffix('').parts))
        for path in ROOT.rglob('*.py')
        if path.name not in ('__main__.py', '__init__.py')
    ]
    program = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
assert not {{'tensorflow', 'torch', 'transformers'}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_entry_points_are_short_and_known():
    from gptjax import __main__

    assert set(__main__.VERBS) == set(ENTRIES)
    for entry in ENTRIES:
        lines = (ROOT / entry / '__main__.py').read_text().count('\n')
        assert lines <= 60, f'{entry}/__main__.py has {lines} lines'
