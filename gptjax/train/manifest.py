"""manifest.json of a checkpoint's step: what its files are, so that damage is noticed.

It has the size and SHA-256 of every file, and of its own values. It is written last,
after all else of the folder is on the disk: where it stands, the step was whole.
"""

from collections.abc import Iterable
from concurrent import futures
import json
import os
from pathlib import Path
from typing import Any

from gptjax.data import storage

NAME = 'manifest.json'
_THREADS = min(8, os.cpu_count() or 1)  # hashlib frees the GIL


class Damaged(Exception):
    """Says what is wrong with a step."""


def write(folder: Path, values: dict[str, Any]) -> None:
    """Writes the manifest of a folder that is else complete.

    Files and folders reach the disk before it does, and it does before this returns.
    """
    files = _files(folder)
    values['files'] = dict(zip(files, _fingerprints(folder, files), strict=True))
    for path in [*folder.rglob('*'), folder]:
        sync(path)
    values['digest'] = storage.json_digest(values)
    storage.write(folder / NAME, _content(values))
    sync(folder)


def amend(folder: Path, **values: Any) -> None:
    """Replaces values in a manifest; a kill leaves the old or the new one."""
    new = {**read(folder), **values}
    new['digest'] = storage.json_digest(new)
    beside = folder.with_name(f'{folder.name}.{NAME}.partial')  # no file of the step
    beside.write_bytes(_content(new))
    storage.rename(beside, folder / NAME)
    sync(folder)


def read(folder: Path) -> dict[str, Any]:
    """The values of a step's manifest; Damaged where they are not what was written."""
    try:
        content = (folder / NAME).read_bytes()
        values = json.loads(content)
        digest = values.pop('digest')
    except FileNotFoundError:
        raise Damaged(f'{NAME} is missing') from None
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise Damaged(f'{NAME} cannot be read ({error!r:.200})') from None
    same = storage.json_digest(values) == digest
    if not same or _content({**values, 'digest': digest}) != content:
        raise Damaged(f'{NAME} has changed since it was written')
    if values['step'] != int(folder.name):
        raise Damaged(f'{NAME} is that of step {values["step"]}')
    return values


def check(folder: Path) -> dict[str, Any]:
    """What `read` gives, if the folder holds the files of its manifest and no others.

    Raises Damaged.
    """
    values, found = read(folder), _files(folder)
    expected = values['files']
    for name in sorted(expected.keys() ^ set(found)):
        what = 'is missing' if name in expected else 'is not of this step'
        raise Damaged(f'{name} {what}')
    try:
        for name in found:
            if (folder / name).stat().st_size != expected[name]['size']:
                raise Damaged(f'{name} has changed its size since it was written')
        for name, one in zip(found, _fingerprints(folder, found), strict=True):
            if one != expected[name]:
                raise Damaged(f'{name} has changed since it was written')
    except OSError as error:
        raise Damaged(f'a file cannot be read ({error})') from None
    return values


def sync(path: Path) -> None:
    """Puts a file, or the names in a folder, on the disk: a power cut leaves them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _content(values: Any) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True) + '\n').encode()


def _files(folder: Path) -> list[str]:
    """The names of all files but the manifest."""
    paths = (path for path in folder.rglob('*') if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in paths)
    return sorted(name for name in names if name != NAME)


def _fingerprints(folder: Path, names: Iterable[str]) -> Iterable[dict[str, Any]]:
    def of(name: str) -> dict[str, Any]:
        path = folder / name
        return {'size': path.stat().st_size, 'sha256': storage.file_digest(path)}

    with futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(of, names))
