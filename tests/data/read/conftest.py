"""How a path is read."""

import pytest

from gptjax.data import documents
from gptjax.data.read import files

OPTIONS = dict(licence='CC0-1.0', kind='text', books='whole', verify=True)


@pytest.fixture
def read():
    """Everything that a reader yields: (documents, skipped), in order."""

    def run(path, **options):
        reader = files.files(str(path), **{**OPTIONS, **options})
        found = [one for unit in reader.units() for one in reader.read(unit)]
        made = [one for one in found if isinstance(one, documents.Document)]
        return made, [one for one in found if isinstance(one, documents.Skipped)]

    return run
