"""Models as rewards: each completion by itself, by the plain forward pass."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_family

from gptjax import command
from gptjax.data.augment import endpoint as endpoint_lib
from gptjax.model import transformer
from gptjax.text import chat, frames
from gptjax.text import table as text_table
from gptjax.train import build
from gptjax.train.rewards import models, table

T = 64
PROMPT = 'a question?'


@pytest.fixture(scope='module')
def tokenizer():
    return text_table.make(lambda: [], name='bytes')


@pytest.fixture
def trained(tokenizer, monkeypatch):
    """Makes a workdir of a model with this head, as `build.load` gives it."""

    def make(workdir='x', **head):
        arch = tiny_family.arch('gpt2', T=T, V=264, L=1).with_head(**head)
        model = transformer.make(arch, tiny.COMPUTE, tiny.sharding())
        made = build.Trained(
            workdir=Path(workdir), model=model, params=tiny_family.params(model),
            tokenizer=tokenizer, config={'imported': {}}, step=1,
            labels=['bad', 'good'],
        )  # fmt: skip
        monkeypatch.setattr(build, 'load', lambda workdir: made)
        return made

    return make


def sample(completion, prompt=PROMPT, messages=None):
    return table.Sample(prompt, messages, completion, '', 3, True)


def alone(trained, ids, of):
    """What the head says of one row of ids, without padding."""
    row = jnp.asarray(ids)[None]
    ones = jnp.ones_like(row)
    batch = dict(tokens=row, positions=jnp.arange(len(ids))[None], segments=ones)

    @jax.jit
    def say(params, batch):
        x_BTD, _ = transformer.hidden(trained.model, params, batch)
        return of(trained.model, params, x_BTD, batch['segments'])

    return np.asarray(say(trained.params, batch))[0]


def test_a_classifier_gives_the_class_of_a_completion_or_with_its_prompt(trained):
    made = trained(kind='classes', classes=2)
    said = [sample('fine'), sample(''), sample('x' * T)]

    def expected(text, log_odds):
        ids, _ = frames.example(made.tokenizer, made.tokenizer.encode(text))
        bad, good = alone(made, ids, transformer.classify)
        return good - bad if log_odds else 1 / (1 + np.exp(bad - good))

    for odds, prompt in enumerate((False, True)):
        score = 'log_odds' if odds else 'probability'
        reward = models.classifier(
            workdir='x', label='good', score=score, prompt=prompt
        )
        text = PROMPT * prompt + said[odds].completion
        found = reward(said)
        assert found[odds] == pytest.approx(expected(text, odds), rel=1e-4, abs=1e-6)
        assert np.isnan(found[2])


def test_a_reward_model_reads_the_whole_conversation_with_its_end(trained):
    made = trained(kind='reward')
    talk = [
        {'role': 'user', 'content': 'a'},
        {'role': 'assistant', 'content': 'b'},
        {'role': 'user', 'content': 'c'},
    ]
    said = [sample('yes', messages=tuple(talk)), sample('no'), sample('n' * T)]
    reward = models.reward_model(workdir='x', normalise=False)
    found = reward(said)
    end = made.tokenizer.control['<|end|>']
    for one, value, turns in zip(said[:2], found, (talk, None), strict=False):
        asked = turns or [{'role': 'user', 'content': PROMPT}]
        answer = made.tokenizer.encode(one.completion)
        ids = [*chat.prompt(made.tokenizer, asked), *answer, end]
        expected = alone(made, ids, transformer.rewards)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(found[2])


def test_rewards_may_be_normalised_as_they_were_evaluated(trained, tmp_path):
    trained(tmp_path, kind='reward')
    (plain,) = models.reward_model(workdir='x', normalise=False)([sample('yes')])
    place = tmp_path / 'evals'
    place.mkdir()
    (place / 'text.json').write_text(json.dumps({'loss': 1}))
    with pytest.raises(command.UserError, match='0 results of pairs'):
        models.reward_model(workdir=str(tmp_path), normalise=True)
    result = {'reward_mean': 2.0, 'reward_std': 4.0, 'step': 0}
    (place / 'pairs.json').write_text(json.dumps(result))
    with pytest.raises(command.UserError, match=r'0 results of pairs.* of step 1;'):
        models.reward_model(workdir=str(tmp_path), normalise=True)
    (place / 'pairs.json').write_text(json.dumps(result | {'step': 1}))
    (found,) = models.reward_model(workdir=str(tmp_path), normalise=True)(
        [sample('yes')]
    )
    assert found == pytest.approx((plain - 2) / 4, abs=1e-6)


@pytest.mark.parametrize(
    ('head', 'section', 'message'),
    [
        ('tokens', dict(name='classifier'), "a head of 'tokens', and .* 'classes'"),
        ('tokens', dict(name='reward_model', normalise=False), "needs one of 'reward'"),
        ('classes', dict(name='classifier', label='fine'), "of x 'fine'.*bad, good"),
        ('classes', dict(name='classifier', score='odds'), "'odds'.*'log_odds'"),
    ],
)
def test_a_wrong_model_or_class_is_told(trained, head, section, message):
    trained(kind=head, **({'classes': 2} if head == 'classes' else {}))
    classes = dict(label='good', score='probability', prompt=False)
    given = {'weight': 1, 'workdir': 'x', **section}
    if section['name'] == 'classifier':
        given = classes | given
    with pytest.raises(command.UserError, match=message):
        table.combine([given])


ENDPOINT = dict(
    base_url='http://127.0.0.1:9/v1', model='m', key_variable=None, temperature=0.0,
    max_tokens=9, timeout=5.0, retries=0, wait=0.0, at_once=2,
)  # fmt: skip


def judged(path, **changes):
    options = dict(
        name='judge', weight=2, question='{prompt}|{completion}|{reference}', least=1.0,
        pattern=r'(?i)score:?\s*(?P<score>-?\d+(?:\.\d+)?)', most=5.0, seed=0,
        answers=str(path / 'new' / 'answers.jsonl'), endpoint=ENDPOINT,
    ) | changes  # fmt: skip
    return table.combine([options])


def test_a_judge_is_asked_once_and_what_it_does_not_score_is_invalid(
    tmp_path, monkeypatch
):
    asked = []
    replies = {
        'good': 'Score: 4.5, for I like it',
        'bad': 'score 1',
        'wild': 'Score: 9',
        'mute': 'I cannot say.',
        '{prompt}': 'Score: 3',
    }

    def post(self, body):
        asked.append(json.loads(body)['messages'][0]['content'])
        return replies.get(asked[-1].split('|')[1])

    monkeypatch.setattr(endpoint_lib.Endpoint, '_post', post)
    said = [sample(text) for text in (*replies, 'refused', 'good')]
    pattern = r'(?i)score:?\s*(?P<score>-?[\d.]+)'
    total, each = judged(tmp_path, pattern=pattern)(said)
    wanted = [0.875, 0, np.nan, np.nan, 0.5, np.nan, 0.875]
    np.testing.assert_allclose(each['judge'], wanted)
    np.testing.assert_allclose(total, 2 * np.array(wanted))
    assert len(asked) == 6
    assert f'{PROMPT}|{{prompt}}|' in asked, 'a completion is not filled in again'
    again, _ = judged(tmp_path, pattern=pattern)(said)
    np.testing.assert_array_equal(again, total)
    assert len(asked) == 6


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(question='Is it good?'), r'put \{completion\} where'),
        (dict(least=5.0), r'least=5\.0 and most=5\.0'),
        (dict(pattern='('), r"pattern='\('"),
        (dict(pattern=r'(\d)'), 'unnamed groups'),
        (dict(pattern=r'(?P<score>\d)(?P<unit>.)'), 'alone'),
        (dict(endpoint={**ENDPOINT, 'base': 1}), r'unknown option endpoint\.base;'),
    ],
)
def test_wrong_options_of_a_judge_are_told(tmp_path, changes, message):
    with pytest.raises(command.UserError, match=message):
        judged(tmp_path, **changes)


def test_a_judge_that_cannot_be_reached_is_told(tmp_path):
    asks = judged(tmp_path, pattern='(?P<score>.)')
    with pytest.raises(command.UserError, match=r'127\.0\.0\.1:9.*cannot answer'):
        asks([sample('yes')])
