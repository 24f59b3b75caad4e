"""Any text field of any TensorFlow Dataset that `tfds build` has prepared."""

from collections.abc import Iterator
from dataclasses import dataclass

from gptjax.data import documents
from gptjax.data.corpora import tfds as corpus


def tfds(path: str, *, dataset: str, split: str, licence: str) -> 'Reader':
    """The reader of one split: one unit, as the examples are numbered through.

    path: the data_dir. dataset: 'NAME/field', where NAME may hold a configuration and a
    version. licence: SPDX. It raises UserError as `corpora.tfds.collect` does.
    """
    return Reader(path, dataset, split, licence)


@dataclass(frozen=True)
class Reader:
    """The examples of a split; see `tfds`."""

    path: str
    dataset: str
    split: str
    licence: str

    def units(self) -> list[str]:
        return [self.split]

    def read(self, unit: str) -> Iterator[documents.Document | documents.Skipped]:
        return corpus.collect(self.dataset, self.path, unit, self.licence)
