"""What the corpora of files share: finding files, and reading JSON lines."""

from collections.abc import Iterator, Sequence
import json
import os
from pathlib import Path
from typing import Any

from gptjax import command
from gptjax.data import documents

INVALID = 'invalid UTF-8'


def find(path: str, suffixes: Sequence[str]) -> list[tuple[str, Path]]:
    """(name, file) of `path`, or of the files below it with these suffixes, sorted.

    The name is what documents are called by: 'FOLDER/sub/file.txt', never absolute.
    Raises UserError for a path that is empty, does not exist or holds no such file.
    """
    root = Path(path)
    kinds = ', '.join(suffixes)
    if not path or not root.exists():
        raise command.UserError(
            f'corpus.path is {path!r}, which does not exist; set it to a file or '
            f'folder of {kinds}.'
        )
    files = sorted(root.rglob('*')) if root.is_dir() else [root]
    found = [file for file in files if file.suffix in suffixes and file.is_file()]
    if not found:
        raise command.UserError(f'{path} holds no {kinds}; the corpus would be empty.')
    base = Path(os.path.basename(os.path.abspath(path)))
    return [((base / file.relative_to(root)).as_posix(), file) for file in found]


def json_lines(
    name: str, file: Path
) -> Iterator[tuple[str, dict[str, Any]] | documents.Skipped]:
    """('NAME:LINE', object) for each line that is not blank, one line in memory.

    A line of invalid UTF-8 comes as Skipped. Raises UserError, with file and line, for
    what is not a JSON object.
    """
    with file.open('rb') as lines:
        for number, line in enumerate(lines, 1):
            place = f'{name}:{number}'
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode())
                json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair
            except UnicodeError:
                yield documents.Skipped(place, INVALID)
                continue
            except (ValueError, RecursionError) as error:
                raise command.UserError(f'{place} is not JSON: {error}.') from None
            if not isinstance(record, dict):
                raise command.UserError(f'{place} is not a JSON object: {{...}}.')
            yield place, record


def string(record: dict[str, Any], field: str, place: str) -> str:
    """`record[field]`, which must be a string: UserError otherwise."""
    value = record.get(field)
    if not isinstance(value, str):
        raise command.UserError(
            f'{place} has {field}={value!r}; each line needs a string {field!r}.'
        )
    return value
