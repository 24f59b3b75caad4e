"""Any text field of any TensorFlow Dataset, read where `tfds build` has put it."""

from collections.abc import Iterator

from gptjax import command
from gptjax.data import documents, pipeline
from gptjax.data.corpora import files


def collect(
    dataset: str, path: str, split: str, licence: str
) -> Iterator[documents.Document | documents.Skipped]:
    """The examples of one split, in the order of its files, streamed; no network.

    dataset: 'NAME/field', where NAME may hold a configuration and a version, as in
    'wikipedia/20230601.simple:1.0.0/text'. path: the data_dir. licence: SPDX.
    Raises UserError for a data set that is not prepared there, for an unknown split or
    field, and where TensorFlow Datasets is not installed.
    """
    tf = pipeline.tensorflow()  # before the other import, so that it takes no GPU
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise command.UserError(
            f'corpus.name="tfds:{dataset}" needs tensorflow_datasets, which cannot be '
            f"imported ({error}); pip install 'gptjax[data]'."
        ) from None
    name, _, field = dataset.rpartition('/')
    if not name:
        raise command.UserError(
            f'corpus.name is "tfds:{dataset}"; write it as "tfds:NAME/field".'
        )
    try:
        builder = tfds.builder(name, data_dir=path, try_gcs=False)
        prepared = builder.is_prepared()
    except (tfds.core.registered.DatasetNotFoundError, ValueError, AssertionError):
        prepared = False
    if not prepared:
        raise command.UserError(
            f'{path} holds no prepared data set {name!r}; run '
            f'`tfds build {name} --data_dir={path}` first, or set corpus.path to its '
            'data_dir.'
        )
    command.lookup(builder.info.splits, split, 'split')
    # One file at a time: the order of documents is that of the files.
    read = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    examples = builder.as_dataset(split=split, shuffle_files=False, read_config=read)
    kind = command.lookup(examples.element_spec, field, 'field')
    if kind != tf.TensorSpec((), tf.string):
        raise command.UserError(
            f'the field {field!r} of {name} is {kind}, and documents are of text; name '
            'one that holds a string.'
        )
    source = f'tfds:{builder.info.full_name}/{split}'
    for index, value in enumerate(examples.map(lambda x: x[field]).as_numpy_iterator()):
        place = f'{source}:{index}'
        try:
            text = value.decode()
        except UnicodeDecodeError:
            yield documents.Skipped(place, files.INVALID)
            continue
        if text.strip():
            yield documents.Document(place, source, licence, text=text)
        else:
            yield documents.Skipped(place, 'empty')
