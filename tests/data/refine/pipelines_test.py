"""The ready pipelines, each on a small piece; and the command."""

import json
from pathlib import Path
import shutil

import pytest

import gptjax
from gptjax import command
from gptjax.data import verbs
from gptjax.data.corpora import refined
from gptjax.text import table as text_table

ROOT = Path(gptjax.__file__).parents[1]
SENTENCES = [
    'The harbour was quiet in the morning, and the boats that had been out all night '
    'were coming back with what they had found on the way.',
    'People who lived there had seen the river rise to the doors of the mill, and they '
    'would tell that to all who asked them about the flood.',
    'A good map of the coast shows where the sand moves with the tide, so that a boat '
    'of any depth can keep to the water that will carry it.',
    'Nobody in the town had ever heard of a lamp which burned without oil, but the man '
    'had brought one, and it was lit for all to see.',
    'When the market closed, the bread that was left was given to the school, and the '
    'children carried it home in baskets to their families.',
    'There is a path over the hill that only the goats use, and from the top of it you '
    'can look down on both of the valleys and the sea.',
]


def run(name, path, output, *overrides):
    """Runs a ready pipeline here; returns its manifest, documents, and rejections."""
    verbs.run([
        f'--config={ROOT}/configs/data/{name}.py', f'--config.path={path}',
        f'--output={output}', '--config.run.workers=1', '--config.run.shards=2',
        '--config.held_out.fraction=0.3', *overrides,
    ])  # fmt: skip
    folder = output / 'documents'
    manifest = json.loads((folder / 'manifest.json').read_text())
    assert (output / 'manifest.json').exists()
    assert (output / 'card.md').exists()
    kept = list(refined.collect(str(folder)))
    return manifest, kept, {(step, why): n for step, why, n in manifest['rejected']}


def page(body, head=''):
    return f'<html><head><title>T</title>{head}</head><body>{body}</body></html>'


def paragraphs(*numbers):
    return '<article>' + ''.join(f'<p>{SENTENCES[n]}</p>' for n in numbers)


def test_web(tmp_path, real_data):
    raw = tmp_path / 'pages'
    raw.mkdir()
    shutil.copy(real_data('warc/example.warc'), raw)
    licence = (
        '<a rel="license" href="https://creativecommons.org/licenses/by/4.0/">x</a>'
    )
    refusal = '<meta name="robots" content="noai">'
    whole = paragraphs(0, 1, 2, 3, 4, 5)
    pages = {
        'kept': page(whole + licence),
        'copy': page(f'<div>{whole}</div>' + licence),
        'near': page(paragraphs(0, 1, 2, 3, 4) + licence),
        'other': page(paragraphs(5, 3, 4, 2, 1, 0)),
        'refused': page(whole + licence, refusal),
        'short': page('<p>Too short.</p>' + licence),
        'mail': page(
            paragraphs(2, 0, 4, 5, 1)
            + '<p>Write to the harbour master, who is ann.lee@harbour.org, and ask.</p>'
            + licence
        ),
    }
    for name, content in pages.items():
        (raw / f'{name}.html').write_text(content)
    manifest, kept, rejected = run(
        'web', raw, tmp_path / 'out', '--config.tokenizer.vocab_size=310',
        '--config.steps.minhash.jaccard=0.99',
    )  # fmt: skip
    assert {Path(d.id).stem for d in kept} >= {'near', 'mail'}
    assert all(d.licence == 'CC-BY-4.0' and d.language == 'en' for d in kept)
    assert all(d.evidence for d in kept)
    assert len({'kept', 'copy'} & {Path(d.id).stem for d in kept}) == 1
    assert rejected['opt_out', 'opt_out'] == 1
    assert rejected['exact', 'duplicate'] == 1
    assert rejected['licences', 'licence'] == 1  # 'other'
    (mail,) = (d for d in kept if 'mail' in d.id)
    assert 'ann.lee' not in mail.text
    assert '@example.com' in mail.text
    assert mail.steps[-1].startswith('privacy:')
    assert manifest['signals']['privacy.email']['sum'] == 1


def test_books(tmp_path, real_data):
    path = real_data('standardebooks/h-g-wells_the-time-machine.tar.gz')
    manifest, kept, rejected = run(
        'books', path, tmp_path / 'out', '--config.tokenizer.vocab_size=400'
    )
    chapters = [d for d in kept if 'chapter-' in d.id]
    assert len(chapters) == 12
    assert all('CC0-1.0' in d.licence and d.evidence for d in kept)
    text = next(d.text for d in kept if d.id.endswith('chapter-2.xhtml'))
    assert 'Time Traveller' in text
    assert '<p>' not in text
    assert manifest['signals']['gopher.words']['least'] > 50
    assert rejected['length', 'short'] > 0


def test_code(tmp_path):
    raw = tmp_path / 'project'
    shutil.copytree(ROOT / 'gptjax' / 'text', raw / 'text')
    shutil.copy(ROOT / 'LICENSE', raw)
    shutil.copytree(ROOT / 'gptjax' / 'model', raw / 'vendor' / 'model')
    shutil.copy(raw / 'text' / 'chat.py', raw / 'again.py')
    secret = 'AKIA' + 'Q3EGXZ7W2LMN5P4R'
    (raw / 'keys.py').write_text(f'KEY = "{secret}"\n' + '# what it is for\n' * 9)
    _, kept, rejected = run(
        'code', raw, tmp_path / 'out', '--config.tokenizer.vocab_size=400'
    )
    names = {d.id.removeprefix('project/') for d in kept}
    assert {d.licence for d in kept} == {'Apache-2.0'}
    assert len({'text/chat.py', 'again.py'} & names) == 1
    assert not any('vendor' in name for name in names)
    assert rejected['exact', 'duplicate'] == 1
    assert not any(secret in d.text for d in kept)


def test_wiki(tmp_path):
    articles = ''.join(
        f'<page><title>Page {n}</title><ns>0</ns><id>{n}</id><revision><id>{n}</id>'
        f"<text>'''Page {n}''' is [[a link|linked]]. {' '.join(SENTENCES[n:])}"
        f'{{{{box|x}}}}</text></revision></page>'
        for n in range(4)
    )
    dump = tmp_path / 'dump.xml'
    dump.write_text(
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/"><siteinfo>'
        '<base>https://en.example.org/wiki/Main</base></siteinfo>'
        f'{articles}</mediawiki>'
    )
    size = '--config.tokenizer.vocab_size=310'
    _, kept, _ = run('wiki', dump, tmp_path / 'out', size)
    assert len(kept) == 4
    assert {d.licence for d in kept} == {'CC-BY-SA-4.0'}
    assert not any('{{' in d.text or '[[' in d.text for d in kept)


def test_chat(tmp_path, real_data):
    raw = tmp_path / 'raw'
    raw.mkdir()
    lines = real_data('sft/seed_tasks.jsonl').read_text().splitlines()[:40]
    (raw / 'tasks.jsonl').write_text('\n'.join([*lines, '{"no": "turns"}']))
    tokenizer = tmp_path / 'tokenizer'
    text_table.make(list, name='bytes').save(tokenizer)
    manifest, kept, _ = run(
        'chat', raw, tmp_path / 'out', '--config.read.licence=Apache-2.0',
        f'--config.tokenizer.path={tokenizer}',
    )  # fmt: skip
    assert manifest['kinds'].keys() == {'chat'}
    assert len(kept) > 30
    assert sum(n for _, n in manifest['skipped']) == 1
    assert kept[0].messages[0]['role'] == 'user'


def test_explain_tells_each_fate(tmp_path, capsys):
    raw = tmp_path / 'raw'
    raw.mkdir()
    for number in range(4):
        text = ' '.join(SENTENCES[number:] + SENTENCES[:number])
        (raw / f'{number}.txt').write_text(text.replace('and', 'with'))
    shutil.copy(raw / '0.txt', raw / 'same.txt')
    (raw / 'bad.txt').write_bytes(b'\x00\x01\x02\xff\xfe' * 50)
    output = tmp_path / 'out'
    run(
        'books', raw, output, '--config.read.licence=MIT', '--config.run.most_bad=0.5',
        '--config.tokenizer.vocab_size=310', '--config.steps.minhash.jaccard=1.0',
    )  # fmt: skip
    capsys.readouterr()

    def explain(identity):
        verbs.run([f'--explain={identity}', f'--output={output}'])
        return capsys.readouterr().out

    assert 'skipped: raw/bad.txt' in explain('raw/bad.txt')
    told = [explain('raw/0.txt'), explain('raw/same.txt')]
    rejected, kept = sorted(told, key=lambda one: 'rejected by' not in one)
    assert 'rejected by exact: duplicate (raw/' in rejected
    assert 'kept: raw/' in kept
    assert 'gopher.words = ' in kept
    assert kept.count('raw/') == 2  # its id and its source: one account
    assert '.tokens: tokens ' in kept
    assert sum(' = ' in line for line in kept.splitlines()) <= 15
    with pytest.raises(command.UserError, match=r'never saw a document .raw/9'):
        explain('raw/9.txt')
    with pytest.raises(command.UserError, match='holds no dataset'):
        verbs.run(['--explain=x', f'--output={tmp_path / "none"}'])


def test_the_command_refuses_and_tells_why(tmp_path, capsys):
    raw = tmp_path / 'raw'
    raw.mkdir()
    (raw / 'a.txt').write_text(' '.join(SENTENCES))
    with pytest.raises(SystemExit) as ended:
        command.run(lambda: run('books', raw, tmp_path / 'out'))
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert 'licence 1' in told
    assert told.endswith('the table above says why.\n')
