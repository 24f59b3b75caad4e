"""What a folder of refined documents was begun with, and whether that is still so."""

from collections.abc import Mapping
import json
import os
from pathlib import Path
from typing import Any

from gptjax import command
from gptjax.data import storage

WORK = '.progress'
RAW = 'raw.json'  # the path, and names, sizes and times of the input: in no digest

# The options of steps that name what they load: models, lists, evaluation sets.
_FILES = frozenset({
    'path', 'bad_words_file', 'hosts', 'urls', 'hard', 'soft', 'strict', 'words',
})  # fmt: skip

Plan = Mapping[str, Any]


def make(settings: Mapping[str, Any]) -> Plan:
    """The plan of settings: they themselves without the path, and what lies there.

    Files that steps load stand there with what they hold, wherever they lie.
    """
    path = settings['path']
    there = bool(path) and Path(path).exists()
    kept = {name: value for name, value in settings.items() if name != 'path'}
    kept['steps'] = [_loaded(one) for one in kept['steps']]
    return {
        'settings': json.loads(json.dumps(kept)),
        'raw': {'path': path, 'files': storage.listing(Path(path)) if there else None},
    }


def _loaded(value: Any, option: str = '') -> Any:
    """Options of a step, in which 'NAME sha256:...' stands for a file or folder."""
    if isinstance(value, Mapping):
        return {name: _loaded(one, name) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_loaded(one, option) for one in value]
    if option not in _FILES or not isinstance(value, str) or not os.path.exists(value):
        return value
    root = Path(os.path.abspath(value))
    digest = storage.file_digest(root) if root.is_file() else storage.json_digest({
        file.relative_to(root).as_posix(): storage.file_digest(file)
        for file in root.rglob('*') if file.is_file()
    })  # fmt: skip
    return f'{root.name} sha256:{digest}'


def finished(output: Path, plan: Plan) -> bool:
    """Whether `output` holds the end of this plan; False where it is to be done.

    Raises UserError where it holds something else: other settings, other input.
    """
    manifest = storage.read_json(output / 'manifest.json')
    begun = storage.read_json(output / WORK / 'plan.json')
    before = manifest or begun
    if before is None:
        others = [
            path.name for path in output.iterdir() if path.name not in (WORK, RAW)
        ]
        if others:
            raise command.UserError(
                f'{output} is not empty ({min(others)}) and holds no refined '
                'documents; choose a folder of its own.'
            )
    else:
        raw = begun['raw'] if begun else storage.read_json(output / RAW)
        check(output, before['settings'], raw, plan)
    if plan['raw']['files'] is None and manifest is None:
        raise command.UserError(
            f'path is {plan["raw"]["path"]!r}, which does not exist; set config.path '
            'to the raw files.'
        )
    if Path(plan['raw']['path']).resolve() in output.resolve().parents:
        raise command.UserError(
            f'{output} lies among the raw files of {plan["raw"]["path"]}, and would be '
            'read as one of them; choose a folder elsewhere.'
        )
    return manifest is not None


def check(
    output: Path | str, settings: Mapping[str, Any], raw: Any, plan: Plan
) -> None:
    """Raises UserError where those settings, or raw files, are not those of the plan.

    raw: what RAW holds, or None where it is not known.
    """
    then, now = storage.flat(settings), storage.flat(plan['settings'])
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            raise command.UserError(
                f'{output} was begun with {name}={then.get(name)!r}, and this run has '
                f'{now.get(name)!r}; delete the folder or choose another.'
            )
    there = plan['raw']
    same = 'path' if there['files'] is None else 'files'
    if raw is not None and raw[same] != there[same]:
        raise command.UserError(
            f'the raw files are not those that {output} was begun with (names, sizes '
            'or times differ); delete the folder or choose another.'
        )


def begin(output: Path, plan: Plan) -> None:
    """Writes down what the folder is begun with."""
    (output / WORK).mkdir(exist_ok=True)
    storage.write_json(output / WORK / 'plan.json', plan)


def finish(output: Path, plan: Plan, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest, which ends the run."""
    storage.write_json(output / RAW, plan['raw'])
    storage.write_json(output / 'manifest.json', manifest)
