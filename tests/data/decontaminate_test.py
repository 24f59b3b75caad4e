"""Evaluation text is found wherever it was planted, and nowhere else."""

import bz2
import gzip
import json
import random
import string

import pytest

from gptjax import command
from gptjax.data import decontaminate, documents

OPTIONS = dict(find=('query', 'answer', 'overlap'), ngram=13, shortest=4)


def of(text, identity='a'):
    return documents.Document(identity, 'x/y', 'CC0-1.0', text=text)


def step(path, **options):
    return decontaminate.decontaminate(path=path, **(OPTIONS | options))


def is_hit(result):
    return isinstance(result, documents.Reject)


@pytest.fixture(scope='module')
def questions(tmp_path_factory):
    """400 questions of made-up words, with the answers."""
    rng = random.Random(0)
    made = [
        ''.join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9)))
        for _ in range(900)
    ]
    lines = [
        {
            'q': ' '.join(rng.choices(made, k=rng.randint(14, 40))).capitalize() + '?',
            'a': [' '.join(rng.choices(made, k=rng.randint(1, 20))) for _ in range(4)],
            'right': rng.randrange(4),
        }
        for _ in range(400)
    ]
    path = tmp_path_factory.mktemp('evaluation') / 'questions.jsonl'
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path, lines, made


def test_every_planted_run_of_13_words_is_found(questions):
    """Also in other case and with other punctuation, and none of 12 words."""
    path, lines, _ = questions
    found = step(str(path))
    rng = random.Random(1)
    for line in lines:
        words = line['q'].rstrip('?').split()
        at = rng.randint(0, len(words) - 13)
        for size, expected in ((13, True), (12, False)):
            run = words[at : at + size]
            rng.choice([lambda: None, lambda run=run: run.insert(5, '--')])()
            around = [rng.choices(string.digits, k=30) for _ in range(2)]
            text = ' '.join(
                [*around[0], '“' + ', '.join(run).upper() + '”', *around[1]]
            )
            result = found(of(text))
            assert is_hit(result) == expected, (size, text)
            if expected:
                assert result.reason == 'contaminated'
                told = ' '.join(words[at : at + 8]).lower()
                assert result.value == f'questions.jsonl: {told}'


def test_runs_that_were_not_planted_are_not_found(questions):
    """The same words in other orders."""
    path, _, made = questions
    found, rng = step(str(path)), random.Random(2)
    for _ in range(500):
        assert not is_hit(found(of(' '.join(rng.choices(made, k=500)))))


def test_a_short_text_is_found_as_a_whole_only(tmp_path):
    (tmp_path / 'a.txt').write_text('What is the capital of Peru?\nYes.\n')
    found = step(str(tmp_path))
    assert found(of('what is the capital of peru')).value == (
        f'{tmp_path.name}/a.txt: what is the capital of peru'
    )
    assert not is_hit(found(of('And what is the capital of Peru?')))
    assert not is_hit(found(of('yes')))
    chat = [
        {'role': 'user', 'content': 'What is the capital of Peru?'},
        {'role': 'assistant', 'content': 'Yes.'},
    ]
    asked = documents.Document('a', 'x/y', 'CC0-1.0', messages=chat)
    assert is_hit(found(asked))


def test_the_seven_texts_of_datatrove(real_data, tmp_path):
    """Which of them stay, by its three modes, on HellaSwag (Apache-2.0, MIT)."""
    data = bz2.decompress(real_data('hellaswag/hellaswag_val.txt.bz2').read_bytes())
    lines = data.decode().splitlines()[:1200]  # 200 of its questions
    with (tmp_path / 'hellaswag.jsonl').open('w') as file:
        for at in range(0, len(lines) - 5, 6):
            ctx, right, *endings = lines[at : at + 6]
            row = {'ctx': ctx, 'right': right, 'endings': endings}
            file.write(json.dumps(row) + '\n')
    texts = [
        'A lady walks to a barbell. She bends down and grabs the pole.',
        'get into formation, then begin dancing and flipping as male cheerleaders join '
        'them.',
        'He is using commercial lawn mowing equipment. he walks back and forth as he '
        'mows the grass.',
        'He is using commercial lawn mowing equipment. he is animated as he does the '
        'task.',
        'walks outside plugs his lawn mower in and gets ready to mow',
        '',
        'walks outside plugs his lawn mower in and gets ready to',
    ]
    before = 'Nothing is so painful to the human mind as a great and sudden change. '
    after = ' Beware; for I am fearless, and therefore powerful.'
    spec = dict(query='ctx', answer='endings', right='right')
    spec['path'] = str(tmp_path / 'hellaswag.jsonl')
    for find, kept in (
        (('answer',), [0, 2, 3, 4, 5, 6]),
        (('answer', 'query'), [2, 3, 5, 6]),
        (('answer', 'overlap'), [0, 3, 4, 5, 6]),
    ):
        found = step([spec], find=find, ngram=12)
        results = [found(of(before + text + after)) for text in texts]
        assert [i for i, r in enumerate(results) if not is_hit(r)] == kept, find


def test_files_of_every_kind(tmp_path):
    run = 'one two three four five six seven eight nine ten eleven twelve thirteen'
    (tmp_path / 'a.csv').write_text(f'"{run} a, b",y\n', encoding='utf-8-sig')
    (tmp_path / 'b.txt.bz2').write_bytes(bz2.compress(f'{run} c\n'.encode()))
    nested = {'deep': [{'er': f'{run} d'}], 'number': 3}
    (tmp_path / 'c.jsonl').write_text(json.dumps(nested) + '\n')
    (tmp_path / 'd.bin').write_bytes(b'\xff')
    found = step([str(tmp_path), dict(path=str(tmp_path / 'a.csv'), query='0')])
    names = {
        found(of(text)).value.split(':')[0]
        for text in (run, *(f'{run.partition(" ")[2]} {end}' for end in 'cd'))
    }
    assert names == {f'{tmp_path.name}/{n}' for n in ('a.csv', 'b.txt.bz2', 'c.jsonl')}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(find=('query', 'anwser')), "did you mean 'answer'"),
        (dict(shortest=14), 'shortest is from 1 to ngram'),
        (dict(shortest=1, ngram=1), 'ngram is at least 2'),
        (dict(path='nowhere'), r"'nowhere', which holds no \.jsonl"),
        (dict(path=[dict(path='FILE', quest='q')]), 'unknown option'),
        (
            dict(path=[dict(path='FILE', answer='a', right='q')]),
            'number of the right one',
        ),
        (dict(path=[dict(path='FILE', query='text')]), r"no field 'text'; it has q, a"),
    ],
)
def test_wrong_options_are_refused(questions, options, message):
    path = options.pop('path', str(questions[0]))
    if isinstance(path, list):
        path = [{**path[0], 'path': str(questions[0])}]
    with pytest.raises(command.UserError, match=message):
        step(path, **options)


def test_texts_are_not_joined(tmp_path):
    """A run of words from the end of one text into the next one is none."""
    lines = ['a b c d e f g h i j k l m', 'n o p q r s t u v w x y z', '1 2 3 4', '5 6']
    (tmp_path / 'a.txt').write_text('\n'.join(lines))
    found = step(str(tmp_path))
    whole = ' '.join(lines).split()
    hits = [i for i in range(20) if is_hit(found(of(' '.join(whole[i : i + 13]))))]
    assert hits == [0, 13]
    hits = [i for i in range(32) if is_hit(found(of(' '.join(whole[i : i + 4]))))]
    assert hits == [26]


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.jsonl', b'{"text": \n', r'a\.jsonl cannot be read'),
        ('a.jsonl', b'[1, 2]\n', r'a\.jsonl cannot be read.*an object a line'),
        ('a.txt', b'caf\xe9\n', r'a\.txt cannot be read.*utf-8'),
        (
            'a.txt.gz',
            gzip.compress(b'one two three four', mtime=0)[:-9],
            r'a\.txt\.gz cannot',
        ),
        ('a.txt.bz2', b'no bzip2', r'a\.txt\.bz2 cannot'),
        ('a.jsonl', b'{"text": "no"}\n', 'no text of 4 words or more'),
    ],
)
def test_broken_and_empty_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(command.UserError, match=message):
        step(str(tmp_path))
