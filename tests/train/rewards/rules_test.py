"""Rewards by rule, and several of them as one."""

import json
import os
from pathlib import Path
import re

import numpy as np
import pytest

from gptjax import command
from gptjax.train.rewards import rules, table


def sample(completion='', reference='', tokens=0, ended=True):
    return table.Sample('', None, completion, reference, tokens, ended)


def graded(completion, reference, strict=False):
    return rules.answer(strict=strict)([sample(completion, reference)])[0]


@pytest.mark.parametrize(
    ('completion', 'reference'),
    [
        ('It is #### 18', '18'),
        ('so 3 + 4 = 7. She has 7.', '#### 7'),
        ('#### $1,234.50', '1234.5'),
        ('#### -3', '-3'),
        ('#### \u22123.0', '-3'),
        ('#### $-3', '-3'),
        ('a half: 1/2', '0.5'),
        ('it is .5 of them', '1 / 2'),
        ('from 10-3', '3'),
        ('#### 18 dollars\nThe next question has 5', '18'),
        ('#### 1 and not #### 2', '1'),
        ('1,000,000', '1000000'),
        ('18.00', '18'),
        ('2, 3', '3'),
        ('#### 7%', '7'),
        ('#### 5 apples, $3 each', '5'),
        ('#### Step 2\nso 3 * 6 is 18', '18'),
        ('#### Step 2\n#### 18', '18'),
        ('#### \n18', '18'),
        ('it is $18.', '18'),
        ('\\boxed{18}', '18'),
        ('\u0661\u0668', '18'),
        ('a loss of -3%', '-3'),
    ],
)
def test_equal_numbers_are_the_same_answer(completion, reference):
    assert graded(completion, reference) == 1


@pytest.mark.parametrize(
    ('completion', 'reference'),
    [
        ('#### 81', '18'),
        ('#### -18', '18'),
        ('18 of 20', '18'),
        ('1/0', '1'),
        ('', '0'),
        ('1.5', '15'),
        ('1,23', '123'),
        ('9' * 10_000, '9'),
        ('1/3', '0.333'),
    ],
)
def test_other_numbers_are_wrong(completion, reference):
    assert graded(completion, reference) == 0


def test_strict_answers_have_the_marker_and_a_reference_has_a_number():
    assert graded('it is 18', '18', strict=True) == 0
    assert graded('#### 18', '18', strict=True) == 1
    assert graded('#### The answer is 18', '18', strict=True) == 0
    assert np.isnan(graded('18', 'nothing'))
    assert np.isnan(graded('18', ''))


# The filters of lm-evaluation-harness, lm_eval/tasks/gsm8k/gsm8k.yaml (version 3).
STRICT, FLEXIBLE = r'#### (\-?[0-9\.\,]+)', r'(-?[$0-9.,]{2,})|(-?[0-9]+)'


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize(
    'completion',
    [
        'So 2 * 9 = 18.\n#### 18',
        'It is 18',
        'She makes $18.',
        '#### 1,018',
        '#### -18 degrees',
        '#### 18 and later #### 19',
        '#### Step 1\n2 + 16 = 18\n#### 18',
        'the sum is 10 and the rest 8',
        'no number',
        '',
    ],
)
def test_answers_are_read_as_the_usual_graders_read_them(completion, strict):
    marked = re.findall(STRICT, completion)
    found = [a or b for a, b in re.findall(FLEXIBLE, completion)]
    wanted = marked[0] if marked else None if strict or not found else found[-1]
    if wanted is not None:
        wanted = float(re.sub(r'[,$]|\.$', '', wanted))
    assert rules.number(completion, strict) == wanted


def test_answers_of_gsm8k():
    data = os.environ.get('GPTJAX_DATA')
    if not data:
        pytest.skip('GPTJAX_DATA is not set')
    path = Path(data) / 'gsm8k' / 'test.jsonl'
    golds = [json.loads(line)['answer'] for line in path.read_text().splitlines()]
    assert len(golds) == 1319

    def mean(change, strict=True):
        samples = [sample(change(gold), gold) for gold in golds]
        return rules.answer(strict=strict)(samples).mean()

    assert mean(lambda gold: gold) == 1
    assert mean(lambda gold: f'The answer is ${gold.rpartition(" ")[2]}.', False) == 1
    assert mean(lambda gold: f'{gold}.00') == 1
    assert mean(lambda gold: f'{gold}1') == 0
    assert mean(lambda gold: gold.replace('#### ', '#### 1')) == 0
    assert mean(lambda gold: gold.replace('#### ', '#### -').replace('--', '')) == 0
    assert mean(lambda gold: gold.partition('####')[0], True) == 0


def test_length_is_free_inside_and_linear_outside_to_minus_one():
    reward = rules.length(least=2, most=4, slope=0.25)
    found = reward([sample(tokens=n) for n in (0, 1, 2, 4, 5, 8, 100)])
    np.testing.assert_array_equal(found, [-0.5, -0.25, 0, 0, -0.25, -1, -1])


def test_format_is_whole_or_a_part_and_never_takes_long():
    whole = rules.format(pattern=r'(?s)<think>.*</think>\s*\d+', whole=True)
    part = rules.format(pattern=r'\d', whole=False)
    said = [sample('<think>a\nb</think> 7'), sample('x <think></think> 7'), sample('')]
    np.testing.assert_array_equal(whole(said), [1, 0, 0])
    np.testing.assert_array_equal(part(said), [1, 1, 0])
    # Of a backtracking engine, this pattern takes 2^30000 steps.
    nested = rules.format(pattern='(a|a?)+b', whole=True)
    assert nested([sample('a' * 30_000)]) == 0
    either = rules.format(pattern='a|b', whole=True)
    np.testing.assert_array_equal(either([sample('ax'), sample('b')]), [0, 1])


def test_ended_repetition_and_contains():
    assert rules.ended()([sample(ended=False), sample()]).tolist() == [0, 1]
    twice = rules.repetition(words=2)([sample('a b a b a'), sample('a'), sample('a b')])
    np.testing.assert_array_equal(twice, [-0.5, 0, 0])
    unspaced = [sample('\u6211\u6211\u6211\u6211'), sample('\u0e01\u0e02\u0e01\u0e02')]
    np.testing.assert_allclose(rules.repetition(words=1)(unspaced), [-0.75, -0.5])
    some = rules.contains(texts=('Cat', 'dog'), ignore_case=True)
    np.testing.assert_array_equal(some([sample('the CAT'), sample('')]), [0.5, 0])
    own = rules.contains(texts=None, ignore_case=False)
    np.testing.assert_array_equal(
        own([sample('xcatx', 'cat'), sample('x')]), [1, np.nan]
    )


def test_overlap_counts_words_as_often_as_they_stand():
    of = rules.overlap()
    said = sample('the cat the dog', 'The cat, the cat.')
    values = of([said, sample('dog', 'cat'), sample('cat', 'cat'), sample('cat', '')])
    np.testing.assert_allclose(values, [6 / 8, 0, 1, np.nan])
    near = sample('\u6211\u7231\u732b\u3002', '\u6211\u7231\u72d7')
    np.testing.assert_allclose(of([near, sample('', 'cat')]), [4 / 6, 0])


def test_several_are_added_with_weights_and_one_that_fails_makes_the_total_nan():
    combined = table.combine(
        (
            dict(name='ended', weight=2),
            dict(name='answer', weight=0.5, strict=True),
            dict(name='ended', weight=-1.0),
        )
    )
    total, each = combined([sample('#### 1', '1'), sample('#### 1', '', ended=False)])
    np.testing.assert_array_equal(total, [1.5, np.nan])
    assert list(each) == ['ended', 'answer', 'ended-2']
    np.testing.assert_array_equal(each['answer'], [1, np.nan])
    np.testing.assert_array_equal(each['ended-2'], [1, 0])
    assert total.dtype == np.float32


def test_what_is_not_finite_is_invalid(monkeypatch):
    def infinite():
        return lambda samples: np.array([np.inf, 1], np.float32)

    huge = table.combine([dict(name='ended', weight=1e38)] * 5)([sample()])[0]
    assert np.isnan(huge), 'no infinity, either, where it is added up'

    monkeypatch.setitem(table.REWARDS, 'infinite', infinite)
    total, each = table.combine([dict(name='infinite', weight=2.0)])([sample()] * 2)
    np.testing.assert_array_equal(total, [np.nan, 2])
    np.testing.assert_array_equal(each['infinite'], [np.nan, 1])
    told = [dict(name='infinite', weight=0), dict(name='ended', weight=1)]
    total, each = table.combine(told)([sample()] * 2)
    np.testing.assert_array_equal(total, [1, 1])
    np.testing.assert_array_equal(each['infinite'], [np.nan, 1])


@pytest.mark.parametrize(
    ('sections', 'message'),
    [
        ((), 'needs one or more sections'),
        (dict(name='ended', weight=1), 'needs one or more sections'),
        (('ended',), 'needs one or more sections'),
        ('ended', 'needs one or more sections'),
        ([dict(name='lenght', weight=1)], "unknown reward 'lenght'.*'length'"),
        ([dict(weight=1)], "unknown reward 'None'"),
        ([dict(name='ended')], r'rewards\.ended\.weight is None'),
        ([dict(name='ended', weight=float('nan'))], 'weight is nan'),
        ([dict(name='ended', weight=1, most=3)], r'unknown option rewards\.ended\.mo'),
        ([dict(name='answer', weight=1)], r'rewards\.answer lacks strict'),
        ([dict(name='format', weight=1, pattern='(', whole=True)], 'RE2'),
        ([dict(name='format', weight=1, pattern='(?=a)', whole=False)], 'lookarounds'),
        ([dict(name='repetition', weight=1, words=0)], 'words=0'),
        (
            [dict(name='contains', weight=1, texts='cat', ignore_case=True)],
            "texts='cat'",
        ),
        (
            [dict(name='length', weight=1, least=5, most=3, slope=1.0)],
            'least=5, most=3',
        ),
    ],
)
def test_wrong_sections_are_told(sections, message):
    with pytest.raises(command.UserError, match=message):
        table.combine(sections)
