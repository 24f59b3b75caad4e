"""Questions out of rows, and the count of answers that stopped."""

import math

import numpy as np
import pytest

from gptjax import command
from gptjax.data import dataset
from gptjax.evals import answers
from gptjax.generate import engine as engine_lib
from gptjax.text import chat, table

TOKENIZER = table.make(lambda: [], name='bytes')


class StubEngine(engine_lib.Engine):
    """Answers 'ok', and stops by itself except for every third request."""

    def __init__(self):
        pass

    def generate(self, requests):
        self.requests = requests
        reasons = ['length' if i % 3 == 2 else 'stop' for i in range(len(requests))]
        return [
            engine_lib.Completion('ok', (111, 107), reason, len(request.prompt))
            for request, reason in zip(requests, reasons, strict=True)
        ]


def row(*conversations, T=80):
    """A row of conversations side by side, as `ChatRows` packs them."""
    arrays = {name: np.zeros((1, T), np.int32) for name in ('tokens', 'targets',
                                                            'segments')}  # fmt: skip
    at = 0
    for number, said in enumerate(conversations, 1):
        ids, _ = chat.encode(TOKENIZER, said)
        end = min(at + len(ids) - 1, T)
        arrays['tokens'][0, at:end] = ids[: end - at]
        arrays['targets'][0, at:end] = ids[1 : end - at + 1]
        arrays['segments'][0, at:end] = number
        at = end
    return arrays


def turn(question, answer):
    return [
        {'role': 'user', 'content': question},
        {'role': 'assistant', 'content': answer},
    ]


def test_questions_are_the_last_ones_of_each_conversation():
    first, second = turn('what?', 'that'), [*turn('hi', 'yo'), *turn('who?', 'me é')]
    found = list(answers.questions(row(first, second), TOKENIZER.control))
    assert [TOKENIZER.decode(q.reference) for q in found] == ['that', 'me é']
    assert list(found[0].prompt) == chat.prompt(TOKENIZER, first[:1])
    assert list(found[1].prompt) == chat.prompt(TOKENIZER, second[:3])
    assert chat.decode(TOKENIZER, found[1].prompt) == second[:3]


def test_a_cut_conversation_asks_nothing():
    whole = turn('what?', 'a long answer')
    length = len(chat.encode(TOKENIZER, whole)[0])
    assert len(list(answers.questions(row(whole, T=length), TOKENIZER.control))) == 1
    assert not list(answers.questions(row(whole, T=length - 2), TOKENIZER.control))


def test_stopped_are_those_that_ended_by_themselves():
    asked = [
        answers.Question(
            tuple(chat.prompt(TOKENIZER, turn(f'number {n}?', '')[:1])),
            tuple(TOKENIZER.encode(f'answer {n}')),
        )
        for n in range(20)
    ]
    engine = StubEngine()

    def judge(said):
        assert [sample.ended for sample in said] == [n % 3 != 2 for n in range(20)]
        assert said[3].prompt == said[3].messages[0]['content'] == 'number 3?'
        values = [int(sample.reference.split()[1]) for sample in said]
        return np.array([*values[:-1], math.nan], np.float32), {}

    found = answers.ask(engine, TOKENIZER, asked, judge)
    assert (found['asked'], found['stopped']) == (20, 14)
    assert all(r.temperature == 0 and r.max_tokens == 96 for r in engine.requests)
    assert [r.prompt for r in engine.requests] == [q.prompt for q in asked]
    assert len(found['samples']) == 8
    for sample in found['samples']:
        number = int(sample['reference'].removeprefix('answer '))
        assert sample['question'] == f'number {number}?'
        assert sample['answer'] == 'ok'
        assert sample['stopped'] == (number % 3 != 2)
        assert sample['reward'] == number
    assert found['reward'] == 9  # of those that have one
    nothing = np.full(20, np.nan, np.float32)
    found = answers.ask(engine, TOKENIZER, asked, lambda said: (nothing, {}))
    assert 'reward' not in found
    assert found['samples'][0]['reward'] is None


def test_questions_are_picked_from_the_whole_split(stages):
    rows = dataset.open(stages.chat).rows('validation', T=64)
    all_of_them = answers.pick(rows, TOKENIZER.control, 1000)
    documents = dataset.open(stages.chat).manifest['splits']['validation']['documents']
    assert len(all_of_them) == documents
    half = answers.pick(rows, TOKENIZER.control, documents // 2)
    assert len(half) == documents // 2
    assert half[0] == all_of_them[0]
    assert set(half) & set(all_of_them[-3:])


def test_a_dataset_without_questions_is_refused(stages):
    rows = dataset.open(stages.chat).rows('validation', T=6)
    with pytest.raises(command.UserError, match='no held-out conversation fits'):
        answers.pick(rows, TOKENIZER.control, 5)


def test_spread_is_even():
    assert answers.spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert answers.spread(range(3), 8) == [0, 1, 2]
