"""A dataset as a TensorFlow Dataset: read back by its name, without our code."""

import json
import sys

import pytest

from gptjax import command
from gptjax.data import build, ledger, shards, table, tfds_folder


def loaded(name, folder):
    """All examples by split, as TFDS reads them by their name alone."""
    import tensorflow_datasets as tfds

    assert name not in tfds.core.registered._DATASET_REGISTRY
    return {
        split: [
            {
                k: v.decode() if isinstance(v, bytes) else v.tolist()
                for k, v in x.items()
            }
            for x in examples.as_numpy_iterator()
        ]
        for split, examples in tfds.load(name, data_dir=folder).items()
    }


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_tfds_reads_all_documents(built, options, tmp_path):
    text = tfds_folder.write(built.folder, tmp_path / 'a', 'my_texts')
    assert "load('my_texts', data_dir=" in text
    found = loaded('my_texts', tmp_path / 'a')
    documents = {d.id: d for d in table.collect(options['corpus'])}
    seen = []
    for split in ('train', 'validation'):
        both = zip(found[split], ledger.entries(built, split), strict=True)
        for example, entry in both:
            document = documents[entry.id]
            seen.append(entry.id)
            assert example['text'] == document.text
            assert example['licence'] == document.licence
            assert (example['id'], example['sha256']) == (entry.id, entry.sha256)
            assert (example['url'], example['opt_out']) == ('', 'unknown')
            assert example['lengths'] == [len(example['tokens'])] == [entry.tokens]
    assert sorted(seen) == sorted(documents)
    tfds_folder.write(built.folder, tmp_path / 'b', 'my_texts')
    assert files(tmp_path / 'a') == files(tmp_path / 'b')
    with pytest.raises(command.UserError, match=r'holds my_texts:1\.0\.0 already'):
        tfds_folder.write(built.folder, tmp_path / 'a', 'my_texts')


def test_labels_masks_and_second_sequences_come_along(tmp_path):
    lines = [{'text': 'a', 'text_pair': 'bc', 'label': x} for x in ('no', 'yes', 'no')]
    (tmp_path / 'x.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))
    made = build.build(
        tmp_path / 'out',
        corpus=dict(name='labelled', path=str(tmp_path / 'x.jsonl'), licence='MIT'),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.0, by='document'),
        shard_tokens=5,
    )
    tfds_folder.write(made.folder, tmp_path / 'tfds', 'pairs')
    import tensorflow_datasets as tfds

    found = tfds.load('pairs', data_dir=tmp_path / 'tfds')
    assert set(found) == {'train'}
    names = tfds.builder('pairs', data_dir=tmp_path / 'tfds').info.features['label']
    both = zip(
        found['train'].as_numpy_iterator(), shards.read(made, 'train'), strict=True
    )
    for example, (_, encoded, label) in both:
        assert example['label'] == label
        assert example['mask'].tolist() == encoded.masks[0].tolist()
        assert example['tokens'].tolist() == encoded.sequences[0].tolist()
    assert names.names == ['no', 'yes']


def test_mistakes_are_named(built, tmp_path, monkeypatch):
    with pytest.raises(command.UserError, match='is no name of a data set'):
        tfds_folder.write(built.folder, tmp_path, 'My-Texts')
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
    with pytest.raises(command.UserError, match=r'gptjax\[data\]'):
        tfds_folder.write(built.folder, tmp_path, 'texts')
