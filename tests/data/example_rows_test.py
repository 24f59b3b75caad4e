"""Labelled texts and translations: from JSON lines to rows, against a slow layout."""

import json

import numpy as np
import pytest

from gptjax import command
from gptjax.data import build, documents, pipeline, shards
from gptjax.text import bytes as byte_level
from gptjax.text import table as text_table

BYTES = byte_level.Bytes()
BEGIN, END = BYTES.control['<|endoftext|>'], BYTES.control['<|end|>']
T = 16
LABELLED = [
    {'text': 'short', 'label': 'good'},
    {'text': 'one', 'text_pair': 'two', 'label': 'bad'},
    {'text': 'a text that is too long for a row', 'label': 'so so'},
    {'text': 'long first text', 'text_pair': 'b', 'label': 'good'},
    {'text': 'a', 'text_pair': 'a long second text', 'label': 'bad'},
    {'text': 'both are long', 'text_pair': 'too long for it', 'label': 'good'},
    {'text': 'ein Straßenbahner', 'label': 'bad'},
]
TRANSLATIONS = [
    {'source': 'one', 'target': 'eins'},
    {'source': 'a source of more than a row', 'target': 'x'},
    {'source': 'y', 'target': 'ein Ziel, das länger ist'},
    {'source': 'sixteen with end', 'target': 'fifteen letters'},
    {'source': 'two', 'target': 'zwei'},
]


def built(folder, kind, lines, **held_out):
    path = folder / 'lines.jsonl'
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return build.build(
        folder / 'dataset',
        corpus=dict(name=kind, path=str(path), licence='MIT'),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.0, by='document') | held_out,
        shard_tokens=60,
    )


def padded(values):
    return [*values, *[0] * (T - len(values))]


def slow_labelled(line, names):
    """The longer text loses its last token until all fits."""
    texts = [[*line[key].encode()] for key in ('text', 'text_pair') if key in line]
    while 1 + sum(len(text) + 1 for text in texts) > T:
        max(reversed(texts), key=len).pop()
    tokens, types = [BEGIN], [0]
    for number, text in enumerate(texts):
        tokens += [*text, END]
        types += [number] * (len(text) + 1)
    return {
        'tokens': padded(tokens),
        'positions': padded(range(len(tokens))),
        'segments': padded([1] * len(tokens)),
        'types': padded(types),
        'labels': names.index(line['label']),
        'weights': 1,
    }


def slow_translation(line):
    source = [*line['source'].encode()[: T - 1], END]
    target = [BEGIN, *line['target'].encode(), END][: T + 1]
    n = len(target) - 1
    return {
        'source': padded(source),
        'source_positions': padded(range(len(source))),
        'source_segments': padded([1] * len(source)),
        'tokens': padded(target[:-1]),
        'targets': padded(target[1:]),
        'segments': padded([1] * n),
        'positions': padded(range(n)),
        'weights': padded([1] * n),
    }


def assert_rows(rows, expected):
    order = np.random.default_rng(0).permutation(len(expected))
    found = rows.read(order)
    assert list(rows.dtypes) == list(found)
    for key, dtype in rows.dtypes.items():
        assert found[key].dtype == dtype
        wanted = [expected[i][key] for i in order]
        np.testing.assert_array_equal(found[key], wanted, key)


def test_labelled_rows_are_one_example_each(tmp_path, capsys):
    data = built(tmp_path, 'labelled', LABELLED)
    assert len(data.manifest['splits']['train']['segments'][0]['shards']) > 1
    assert data.kind == 'labelled'
    assert data.labels == data.manifest['labels'] == ['bad', 'good', 'so so']
    rows = data.rows('train', T)
    assert '5 of 7 examples are longer than a row of 16' in capsys.readouterr().err
    assert_rows(rows, [slow_labelled(line, data.labels) for line in LABELLED])


def test_labels_that_are_numbers_are_in_order_of_number(tmp_path):
    lines = [{'text': 'x', 'label': label} for label in (10, 9, '2')]
    assert built(tmp_path, 'labelled', lines).labels == ['2', '9', '10']


def test_translation_rows_are_a_source_and_a_target_each(tmp_path, capsys):
    data = built(tmp_path, 'translation', TRANSLATIONS)
    assert data.kind == 'translation'
    assert 'labels' not in data.manifest
    rows = data.rows('train', T)
    assert '3 of 5 translations are longer' in capsys.readouterr().err
    assert_rows(rows, [slow_translation(line) for line in TRANSLATIONS])
    assert data.bytes('train') == sum(len(x['target'].encode()) for x in TRANSLATIONS)


@pytest.mark.parametrize(
    ('kind', 'lines'), [('labelled', LABELLED), ('translation', TRANSLATIONS)]
)
def test_loaders_agree(tmp_path, kind, lines):
    rows = built(tmp_path, kind, lines).rows('train', T)
    for loader in pipeline.LOADERS:
        batches = pipeline.batches(
            rows, seed=1, batch_size=4, start_row=8, owned=[1, 3], loader=loader
        )
        found = next(batches)
        batches.close()
        expected = pipeline.batch(rows, seed=1, batch_size=4, row=8)
        assert list(found) == list(expected) == list(rows.dtypes)
        for key, values in found.items():
            assert values.dtype == rows.dtypes[key]
            np.testing.assert_array_equal(values, expected[key][[1, 3]])


def test_the_tail_of_labelled_texts_is_not_cut_off(tmp_path):
    with pytest.raises(command.UserError, match='this corpus is of labelled'):
        built(tmp_path, 'labelled', LABELLED, fraction=0.2, by='tail')


def test_a_start_token_of_the_tokenizer_begins_targets(tmp_path):
    """As BART's, whose decoder starts with </s>; and one without <|end|>."""
    tokenizer = byte_level.Bytes()
    tokenizer.control = {'<|endoftext|>': 1, '<|start|>': 2}
    pair = documents.Document('', '', '', translation={'source': 'a', 'target': 'b'})
    (encoded,) = shards.encode(tokenizer, [pair])
    assert [ids.tolist() for ids in encoded.sequences] == [[97, 1], [2, 98, 1]]


@pytest.mark.parametrize('mask', [False, True])
def test_documents_of_a_tokenizer_with_a_mask_are_closed(mask):
    """As an encoder reads them later: begin, text, end."""
    tokenizer = text_table.make(lambda: [], 'bytes', mask=mask)
    document = documents.Document(id='a', source='a', licence='CC0-1.0', text='ab')
    [encoded] = shards.encode(tokenizer, [document])
    end = [tokenizer.control['<|end|>']] * mask
    begin = tokenizer.control['<|endoftext|>']
    assert encoded.sequences[0].tolist() == [begin, 97, 98, *end]
