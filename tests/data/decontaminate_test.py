"""Evaluation text is found wherever it was planted, and nowhere else."""

import bz2
import json
import random
import string

import pytest

from gptjax import command
from gptjax.data import decontaminate, documents

OPTIONS = dict(
    find=('query', 'answer', 'overlap'), ngram=13, shortest=4, action='reject'
)


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


def test_a_hit_is_cut_with_what_is_around_it(questions):
    path, lines, _ = questions
    found = step(str(path), action='cut')
    planted = lines[0]['q']
    left, right = ('alpha ' * 200).strip(), ('omega ' * 300).strip()
    result = found(of(f'{left} {planted} {right}'))
    kept = result.text.split('\n\n')
    assert result.signals == {'decontaminate.hits': 1}
    assert left.startswith(kept[0])
    assert right.endswith(kept[1])
    assert len(left) - len(kept[0]) == pytest.approx(200, abs=3)
    assert len(right) - len(kept[1]) == pytest.approx(200, abs=3)
    for text in (f'{left[:300]} {planted} {right[:300]}', planted):
        assert is_hit(found(of(text)))  # nothing of at least 200 characters is left
    many = ' '.join(f'{left} {line["q"]}' for line in lines[:11])
    assert is_hit(found(of(many)))
    assert not is_hit(found(of(many.rsplit(left, 1)[0])))
    clean = of(left)
    assert found(clean) is clean


def test_files_of_every_kind(tmp_path):
    run = 'one two three four five six seven eight nine ten eleven twelve thirteen'
    (tmp_path / 'a.csv').write_text(f'x,"{run} a, b",y\n')
    (tmp_path / 'b.txt.bz2').write_bytes(bz2.compress(f'{run} c\n'.encode()))
    nested = {'deep': [{'er': f'{run} d'}], 'number': 3}
    (tmp_path / 'c.jsonl').write_text(json.dumps(nested) + '\n')
    (tmp_path / 'd.bin').write_bytes(b'\xff')
    found = step([str(tmp_path), dict(path=str(tmp_path / 'a.csv'), query='0')])
    names = {
        found(of(f'two {run.split(maxsplit=2)[2]} {end}')).value.split(':')[0]
        for end in 'acd'
    }
    assert names == {f'{tmp_path.name}/{n}' for n in ('a.csv', 'b.txt.bz2', 'c.jsonl')}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(find=('query', 'anwser')), "did you mean 'answer'"),
        (dict(action='drop'), 'unknown action'),
        (dict(shortest=14), 'shortest is from 1 to ngram'),
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


def test_broken_and_empty_files_are_named(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"text": \n')
    with pytest.raises(command.UserError, match=r'a\.jsonl cannot be read'):
        step(str(tmp_path))
    (tmp_path / 'a.jsonl').write_text('{"text": "no"}\n')
    with pytest.raises(command.UserError, match='no text of 4 words or more'):
        step(str(tmp_path))
