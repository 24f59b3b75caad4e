"""What `refine` made: documents in the order of their keys, from Parquet files."""

from collections.abc import Iterator
from pathlib import Path

from gptjax import command
from gptjax.data import documents, storage
from gptjax.data.refine import files


def collect(path: str) -> Iterator[documents.Document]:
    """The documents of a folder that `refine` finished, a row group in memory.

    Raises UserError for a folder without a manifest, and where a file is not what was
    written.
    """
    folder = Path(path)
    manifest = storage.read_json(folder / 'manifest.json') if path else None
    if manifest is None:
        raise command.UserError(
            f'{path!r} holds no refined documents; make them from raw files: '
            'python -m gptjax.data --config=configs/data/web.py --config.path=...'
        )
    if manifest['format'] != files.FORMAT:
        raise command.UserError(
            f'{path} is of format {manifest["format"]}, and this gptjax reads '
            f'{files.FORMAT}; delete the folder and refine again.'
        )
    for entry in manifest['files']:
        if 'documents_sha256' not in entry:
            continue
        file = folder / entry['file']
        if not file.exists() or storage.file_digest(file) != entry['sha256']:
            raise command.UserError(
                f'{file} is missing or damaged; delete {path} and refine again.'
            )
        yield from map(files.decode, files.rows(file))
