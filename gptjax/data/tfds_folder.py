"""A built dataset as a TensorFlow Dataset, which `tfds.load` reads without our code."""

from collections.abc import Iterator
from pathlib import Path
import re
from typing import Any

import numpy as np

from gptjax import command
from gptjax.data import croissant, dataset, ledger, pipeline, shards

_VERSION = '1.0.0'
_STRINGS = (*ledger.ORIGIN, 'sha256')


def write(data: Path | str, data_dir: Path | str, name: str) -> str:
    """Writes a dataset below `data_dir`; returns how to load it.

    An example is a document, in the order of the shards: the strings of its ledger row
    ('' where one is None), `tokens` (int64), `lengths` of its sequences, of a text its
    `text`, and `mask` and `label` where the dataset has them. The same dataset makes
    the same examples in the same files. A kill leaves nothing that could be loaded.

    Raises UserError for a name that TFDS cannot have, where the data set is there
    already, and where TensorFlow Datasets is not installed.
    """
    built = dataset.open(data)
    if not re.fullmatch(r'[a-z][a-z0-9_]*', name):
        raise command.UserError(
            f'--name={name!r} is no name of a data set; take small letters, digits and '
            '_, the first of them a letter.'
        )
    pipeline.tensorflow()  # before the other import, so that it takes no GPU
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise command.UserError(
            f'this needs tensorflow_datasets, which cannot be imported ({error}); pip '
            "install 'gptjax[data]'."
        ) from None
    if (Path(data_dir) / name / _VERSION).exists():
        raise command.UserError(
            f'{data_dir} holds {name}:{_VERSION} already; delete it, or choose another '
            '--name.'
        )
    features = _features(built, tfds.features)
    splits = {
        split: _keyed(built, split, list(features))
        for split, counted in sorted(built.manifest['splits'].items())
        if counted['documents']
    }
    said = croissant.describe(built.manifest, refined=False)
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=_VERSION,
        features=tfds.features.FeaturesDict(features),
        split_datasets=splits,
        data_dir=data_dir,
        description=said['description'],
        citation=said['citeAs'],
        disable_shuffling=True,
    )
    return f'tensorflow_datasets.load({name!r}, data_dir={str(data_dir)!r})'


def _features(built: dataset.Dataset, kinds: Any) -> dict[str, Any]:
    numbers = kinds.Tensor(shape=(None,), dtype=np.int64)
    made: dict[str, Any] = {key: kinds.Text() for key in _STRINGS}
    made |= {'tokens': numbers, 'lengths': numbers}
    if built.kind == 'text':
        made['text'] = kinds.Text()
    elif built.kind != 'translation':
        made['mask'] = kinds.Tensor(shape=(None,), dtype=np.dtype(built.mask))
    if built.labels:
        made['label'] = kinds.ClassLabel(names=built.labels)
    return made


def _keyed(
    built: dataset.Dataset, split: str, names: list[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The examples of a split, with their numbers."""
    tokenizer = built.tokenizer()
    for number, (entry, encoded, label) in enumerate(shards.read(built, split)):
        example: dict[str, Any] = {key: getattr(entry, key) or '' for key in _STRINGS}
        example['tokens'] = np.concatenate(encoded.sequences).astype(np.int64)
        example['lengths'] = np.array([len(x) for x in encoded.sequences], np.int64)
        if 'text' in names:
            example['text'] = shards.decode(tokenizer, encoded)
        if 'mask' in names:
            example['mask'] = np.concatenate(encoded.masks)
        if 'label' in names:
            example['label'] = label
        yield number, example
