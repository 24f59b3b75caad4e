"""A TensorFlow Dataset that is made here, without a network, and read by its name."""

import sys

import numpy as np
import pytest

from gptjax import command
from gptjax.data import build, documents, pipeline, table
from gptjax.data.corpora import files
from gptjax.data.read import table as read_table

TEXTS = [f'This is text number {number}, naïve 河.' for number in range(40)]


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """A prepared data set `gptjax_lines` with 40 texts, an empty and a broken one."""
    pipeline.tensorflow()
    import tensorflow_datasets as tfds

    class GptjaxLines(tfds.core.GeneratorBasedBuilder):
        __module__ = 'prompt'  # as if typed at one: TFDS looks for no files beside it
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            features = tfds.features.FeaturesDict(
                {'line': tfds.features.Text(), 'number': np.int64}
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {'train': self._generate_examples()}

        def _generate_examples(self):
            for number, text in enumerate([*TEXTS, '', b'\xff']):
                yield number, {'line': text, 'number': number}

    folder = tmp_path_factory.mktemp('tfds')
    GptjaxLines(data_dir=folder).download_and_prepare()
    return str(folder)


def corpus(data_dir, name='tfds:gptjax_lines/line', split='train'):
    return {'name': name, 'path': data_dir, 'split': split, 'licence': 'CC0-1.0'}


def test_the_texts_are_read_with_source_and_licence(data_dir):
    found = list(table.collect(corpus(data_dir)))
    skipped = [one for one in found if isinstance(one, documents.Skipped)]
    assert sorted(one.reason for one in skipped) == ['empty', files.INVALID]
    read = [one for one in found if one not in skipped]
    assert sorted(one.text for one in read) == sorted(TEXTS)
    assert {one.group for one in read} == {'tfds:gptjax_lines'}
    assert {one.licence for one in read} == {'CC0-1.0'}
    assert len({one.id for one in read}) == len(read)
    again = list(table.collect(corpus(data_dir)))
    assert again == found


def test_the_reader_gives_the_documents_of_the_corpus(data_dir):
    reader = read_table.READERS['tfds'](
        data_dir, dataset='gptjax_lines/line', split='train', licence='CC0-1.0'
    )
    assert reader.units() == ['train']
    assert list(reader.read('train')) == list(table.collect(corpus(data_dir)))


def test_a_dataset_is_built_of_it(data_dir, tmp_path):
    made = build.build(
        tmp_path / 'out',
        corpus=corpus(data_dir),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.2, by='document'),
        shard_tokens=500,
    )
    counts = [made.manifest['splits'][s]['documents'] for s in ('train', 'validation')]
    assert sum(counts) == len(TEXTS)
    assert made.manifest['skipped'] == {files.INVALID: 1, 'empty': 1}


@pytest.mark.parametrize('module', ['tensorflow', 'tensorflow_datasets'])
def test_what_is_not_installed_is_named(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(command.UserError, match=rf'{module}.*gptjax\[data\]'):
        list(table.collect(corpus('nowhere')))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'name': 'tfds:gptjax_line/line'}, 'holds no prepared data set'),
        ({'name': 'tfds:imdb_reviews/text'}, 'run `tfds build imdb_reviews'),
        ({'name': 'tfds:gptjax_lines/lines'}, r"unknown field 'lines'.*'line'"),
        ({'name': 'tfds:gptjax_lines/number'}, r"'number' of .* is TensorSpec"),
        ({'name': 'tfds:gptjax_lines'}, 'tfds:NAME/field'),
        ({'split': 'test'}, "unknown split 'test'"),
    ],
)
def test_what_is_not_there_is_refused(data_dir, change, message):
    with pytest.raises(command.UserError, match=message):
        list(table.collect({**corpus(data_dir), **change}))
