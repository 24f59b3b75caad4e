"""Files that are either whole or absent, with their digests, and a lock on a folder."""

from collections.abc import Iterator
import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
import sys
from typing import Any

from gptjax import command


def write(path: Path, content: bytes) -> str:
    """Writes a file by an atomic rename, so that a kill leaves it whole or absent.

    Returns the SHA-256 of the content.
    """
    partial = path.with_name(path.name + '.partial')
    with partial.open('wb') as file:
        file.write(content)
    rename(partial, path)
    return hashlib.sha256(content).hexdigest()


def rename(partial: Path, path: Path) -> None:
    """Gives a file its name once it is on the disk, also when the power fails."""
    with partial.open('rb') as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON with sorted keys by an atomic rename."""
    write(path, (json.dumps(value, indent=1, sort_keys=True) + '\n').encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file, or None where there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def read_lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines, none where there is no such file.

    A last line that a kill cut off is cut off the file, so that more can be appended.
    Raises ValueError for another file.
    """
    content = path.read_bytes() if path.exists() else b''
    whole = content[: content.rfind(b'\n') + 1]
    values = [json.loads(line) for line in whole.splitlines()]
    if whole != content:
        os.truncate(path, len(whole))
    return values


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def json_digest(value: Any) -> str:
    """The SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def listing(raw: Path) -> str:
    """A digest of the names, sizes and times of a file, or of all files in a folder."""
    root = Path(os.path.abspath(raw))
    files = sorted(root.rglob('*')) if root.is_dir() else [root]
    return json_digest(
        [
            [file.relative_to(root.parent).as_posix(), stat.st_size, stat.st_mtime_ns]
            for file in files
            if file.is_file() and (stat := file.stat())
        ]
    )


def flat(value: Any, name: str = '') -> dict[str, Any]:
    """The leaves of a JSON value by name: 'steps.3.least'."""
    if isinstance(value, list):
        value = {str(place): one for place, one in enumerate(value)}
    if not isinstance(value, dict) or not value:
        return {name: value}
    found: dict[str, Any] = {}
    for key, one in value.items():
        found |= flat(one, f'{name}.{key}' if name else key)
    return found


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Makes a folder and holds it for one process; the system frees it at its end.

    Raises UserError where a file is in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise command.UserError(
            f'{folder} cannot be made, for a file is in the way; choose another.'
        ) from None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'waiting: another process builds {folder}', file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
