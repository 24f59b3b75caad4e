"""The data card: its counts are those of a recount, and Croissant has no errors."""

from collections import Counter
import json
import logging

from ml_collections import ConfigDict
import numpy as np
import pyarrow.parquet as pq
import pytest

from gptjax import command
from gptjax.data import build, card, table
from gptjax.data.refine import runner

MAIL = 'write to jane.roe@mail.example-library.org or call'


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    """60 lines of two licences: some short, some twice, some with an address."""
    folder = tmp_path_factory.mktemp('raw') / 'wiki'
    folder.mkdir()
    rng = np.random.default_rng(0)
    words = ['river', 'stone', 'Straße', 'naïve', 'tower', 'book', 'of', 'walks']
    lines = []
    for number in range(60):
        text = ' '.join(rng.choice(words, 4 + number % 40))
        text = lines[number - 1]['text'] if number % 10 == 9 else text
        text = f'{MAIL} {number} {text}' if number % 15 == 4 else text
        licence = ('MIT', 'CC0-1.0', 'proprietary')[number % 3]
        more = {'id': f'n{number:02}', 'licence': licence}
        lines.append({'text': text, 'source': f'wiki/{number}', **more})
    (folder / 'a.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines[:40]))
    (folder / 'b.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines[40:]))
    return folder


@pytest.fixture(scope='module')
def refined(raw, tmp_path_factory):
    """A dataset by way of `refine`."""
    output = tmp_path_factory.mktemp('out') / 'wiki'
    runner.refine(
        output / 'documents',
        path=str(raw),
        read=dict(name='files', licence='unknown', kind='text', books='chapter',
                  verify=True),
        steps=(
            dict(name='length', least=40, most=None),
            dict(name='exact', unit='document', normalise='words', keep='id'),
            dict(name='privacy', most=20, action='replace', kinds=('email',)),
        ),
        licences=('MIT', 'CC0-1.0'),
        run=dict(workers=1, shards=2, most_bad=0.0),
    )  # fmt: skip
    return build.build(
        output,
        corpus=dict(name='refined', path=str(output / 'documents')),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.2, by='document'),
        shard_tokens=1000,
    )


def tables(text):
    """{title of the section: [table as a list of rows]} of a Markdown text."""
    found: dict = {}
    for section in text.split('\n## ')[1:]:
        title = section.partition('\n')[0]
        rows = [
            [cell.strip() for cell in line.strip('|').split(' | ')]
            for line in section.splitlines()
            if line.startswith('|') and not line.startswith('| --')
        ]
        found[title] = rows[1:]
    return found


def number(cell):
    return int(cell.replace(',', ''))


def recount(made):
    """Documents, bytes and tokens by source and licence, from the shards' files."""
    counts: Counter = Counter()
    for split in ('train', 'validation'):
        for path in sorted((made.folder / split).glob('*.parquet')):
            tokens = np.fromfile(path.with_suffix('.tokens'), '<u2')
            for row in pq.read_table(path).to_pylist():
                text = tokens[row['start'] + 1 : row['end']].tobytes()[::2]
                keys = [(row['source'].split('/')[0], row['licence']), (split,), ()]
                for key in keys:
                    counts[key, 'documents'] += 1
                    counts[key, 'bytes'] += len(text)
                    counts[key, 'tokens'] += row['end'] - row['start']
    return counts


def test_the_counts_are_those_of_a_recount(refined):
    counts = recount(refined)
    text = (refined.folder / card.FILE).read_text()
    found = tables(text)
    for rows, width in ((found['Sources'], 2), (found['Held out'], 1)):
        for row in rows:
            for place, name in enumerate(('documents', 'bytes', 'tokens')):
                assert number(row[width + place]) == counts[tuple(row[:width]), name]
    assert len(found['Sources']) == 2
    assert f'**{counts[(), "documents"]:,} documents**' in text
    assert f'{counts[(), "tokens"]:,} tokens' in text
    assert refined.manifest['digest'][:16] in text


def test_the_cleaning_is_that_of_the_files(refined, raw):
    lines = [
        json.loads(line)
        for name in 'ab'
        for line in (raw / f'{name}.jsonl').read_text().splitlines()
    ]
    rejected = pq.read_table(refined.folder / 'documents' / 'rejected').to_pylist()
    kept = pq.read_table(
        sorted((refined.folder / 'documents').glob('0*.parquet'))
    ).to_pylist()
    text = (refined.folder / card.FILE).read_text()
    found = tables(text)
    assert f'Of {len(lines)} documents that were read' in text
    assert f'{len(kept)} are left' in text
    reasons = Counter(row['step'] for row in rejected)
    assert reasons['length'] == sum(len(line['text']) < 40 for line in lines)
    shown = {row[0]: number(row[5]) for row in found['Cleaning']}
    assert {k: v for k, v in shown.items() if v} == reasons
    assert f'Duplicates: {reasons["exact"]} documents' in text
    mails = sum(MAIL in line['text'] for line in lines if line['id'] in
                {row['id'] for row in kept})  # fmt: skip
    assert found['Privacy'] == [['email', str(mails), str(mails)]]
    assert mails
    assert 'jane.roe' not in text
    assert 'evaluation sets were not looked for' in text
    assert "config.licences = ['MIT', 'CC0-1.0']" in text


def test_the_settings_on_the_card_build_it_again(refined, raw, tmp_path):
    text = (refined.folder / card.FILE).read_text()
    config = ConfigDict()
    exec(text.partition('```python\n')[2].partition('```')[0], {'config': config})
    options = config.to_dict()
    names = ('read', 'steps', 'licences', 'run')
    given = {name: options.pop(name) for name in names}
    runner.refine(tmp_path / 'out' / 'documents', path=str(raw), **given)
    corpus = dict(name='refined', path=str(tmp_path / 'out' / 'documents'))
    made = build.build(tmp_path / 'out', corpus=corpus, **options)
    assert made.manifest == refined.manifest


@pytest.mark.filterwarnings('ignore')  # of the packages that mlcroissant uses
def test_croissant_has_no_errors_and_its_records_are_all(refined, monkeypatch):
    mlcroissant = pytest.importorskip('mlcroissant')
    monkeypatch.setattr(logging.getLogger('absl'), 'disabled', True)
    described = mlcroissant.Dataset(refined.folder / 'croissant.json')
    assert not described.metadata.issues.errors
    both = dict(refined.manifest['splits'])
    ids = []
    for split, counted in both.items():
        records = list(described.records(split))
        assert len(records) == counted['documents']
        ids += [record[f'{split}/id'].decode() for record in records]
    texts = {
        record['documents/id'].decode(): record['documents/text'].decode()
        for record in described.records('documents')
    }
    assert sorted(texts) == sorted(ids)
    corpus = dict(name='refined', path=str(refined.folder / 'documents'))
    assert texts == {d.id: d.text for d in table.collect(corpus)}


def test_plain_corpora_have_a_card_too(built, tmp_path, options):
    text = (built.folder / card.FILE).read_text()
    found = tables(text)
    counts = recount(built)
    assert {tuple(row[:2]): number(row[4]) for row in found['Sources']} == {
        key: n for (key, unit), n in counts.items() if unit == 'tokens' and len(key) > 1
    }
    for said in (
        'Not identified',
        'no step changed',
        'was not looked up',
        'About 30 %',
    ):
        assert said in text
    options['held_out'] = dict(fraction=0.1, by='tail')
    tail = build.build(tmp_path / 'tail', **options)
    total = sum(number(row[2]) for row in tables(card.text(tail.manifest))['Sources'])
    assert total == 21  # the one that is cut in two counts once


def test_a_card_is_written_again(built):
    before = (built.folder / card.FILE).read_text()
    (built.folder / card.FILE).write_text('gone')
    assert card.rewrite(built.folder) == before
    assert (built.folder / card.FILE).read_text() == before
    with pytest.raises(command.UserError, match='holds no dataset'):
        card.rewrite(built.folder / 'train')


def test_cells_do_not_break_out_of_a_table():
    made = card.table(('a', 'b'), [('x|y', 'line\nbreak'), ('\\|', '<b>')])
    assert made.splitlines()[2:] == [
        r'| x\|y | line break |',
        r'| \\\| |       \<b> |',
    ]


def test_names_do_not_break_out_of_the_text(tmp_path):
    line = {'text': 'a', 'licence': 'X\n## Y'}
    (tmp_path / 'x.jsonl').write_text(json.dumps(line))
    made = build.build(
        tmp_path / 'out',
        corpus=dict(name='text', path=str(tmp_path / 'x.jsonl'), licence='MIT'),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.0, by='document'),
        shard_tokens=1000,
    )
    domains = {'count': 2, 'entropy': 0.0, 'top': {'a\n## z': 1.0}}
    made.manifest['diversity']['domains'] = domains
    for title in ('Y', 'z'):
        assert f'## {title}' in card.text(made.manifest)
        assert f'\n## {title}' not in card.text(made.manifest)
