"""Prompts cut from texts, conversations and pairs, and the answers kept beside them."""

import json

import numpy as np
import pytest

from gptjax import command
from gptjax.data import build, dataset, prompts


def built(folder, kind, lines, name='made'):
    path = folder / f'{name}.jsonl'
    path.write_text('\n'.join(map(json.dumps, lines)))
    build.build(
        folder / name,
        corpus=dict(name=kind, path=str(path), licence='MIT'),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.3, by='document'),
        shard_tokens=64,
    )
    return dataset.open(folder / name)


def ids(made, text):
    return list(made.tokenizer().encode(text))


def test_texts_begin_as_in_training_and_short_ones_are_left_out(tmp_path, capsys):
    texts = ['abcdefgh', 'ijklmnopq', 'rst', 'uvwxyz', 'uvw', 'zyxwvut', 'st', 'r']
    made = built(tmp_path, 'text', [{'text': text} for text in texts])
    found = prompts.Prompts(made, 'train', 5)
    begin = made.tokenizer().control['<|endoftext|>']
    stream = made.rows('train', 4)._tokens
    documents = bytes(t if t < 256 else 0 for t in stream.at(np.arange(len(stream))))
    long = [d.decode() for d in documents.split(b'\0') if len(d) >= 5]
    read = found.read(np.arange(len(found)))
    assert read['tokens'].tolist() == [[begin, *ids(made, t[:4])] for t in long]
    assert read['lengths'].tolist() == [5] * len(long)
    prompt = found.prompt(0)
    assert (prompt.text, prompt.messages, prompt.reference) == (long[0][:4], None, '')
    left = sum(1 <= len(d) < 5 for d in documents.split(b'\0'))
    assert left
    assert (
        f'{left} of {left + len(long)} prompts of the train' in capsys.readouterr().err
    )


def test_a_conversation_ends_before_its_last_answer(tmp_path):
    def talk(n, answer):
        said = ['hi', f'ho{n}', f'more {n}', answer]
        roles = ['user', 'assistant'] * 2
        turns = [{'role': r, 'content': c} for r, c in zip(roles, said, strict=True)]
        return {'messages': [{'role': 'system', 'content': 'be'}, *turns]}

    made = built(tmp_path, 'chat', [talk(n, f'end {n}') for n in range(9)])
    found = prompts.Prompts(made, 'train', 64)
    control = made.tokenizer().control
    assert len(found) == len(made.rows('train', 200)._sequences)
    for i in range(len(found)):
        prompt = found.prompt(i)
        n = prompt.reference.split()[1]
        assert prompt.reference == f'end {n}'
        assert prompt.messages == tuple(talk(n, '')['messages'][:-1])
        assert prompt.tokens[-1] == control['<|assistant|>']
        assert prompt.text == f'behiho{n}more {n}'
        row = found.read(np.array([i]))
        assert row['tokens'][0, : row['lengths'][0]].tolist() == prompt.tokens.tolist()
        assert not row['tokens'][0, row['lengths'][0] :].any()


def test_answers_are_found_by_their_weights(tmp_path):
    """The last that counts, by whatever; the mask then holds numbers."""
    roles = [('user', None), ('assistant', 0.25), ('user', None), ('assistant', 0)]
    talk = [
        {'role': role, 'content': f'{n}{role}', 'weight': weight}
        for n, (role, weight) in enumerate(roles)
    ]
    made = built(tmp_path, 'chat', [{'messages': talk}] * 9)
    found = prompts.Prompts(made, 'train', 64)
    assert made.mask == '<f4'
    assert {found.prompt(i).reference for i in range(len(found))} == {'1assistant'}
    assert {found.prompt(i).text for i in range(len(found))} == {'0user'}


def test_pairs_share_a_prompt_and_long_ones_are_counted(tmp_path, capsys):
    lines = [
        {'prompt': f'{n}' * (1 + 9 * (n % 2)), 'chosen': f'{n}y', 'rejected': 'no'}
        for n in range(10)
    ]
    made = built(tmp_path, 'pairs', lines)
    found = prompts.Prompts(made, 'train', 8)
    for i in range(len(found)):
        prompt = found.prompt(i)
        assert prompt.reference == f'{prompt.text}y'
        assert int(prompt.text) % 2 == 0
        assert prompt.messages == ({'role': 'user', 'content': prompt.text},)
    assert 'are longer than prompt_tokens=8' in capsys.readouterr().err
    with pytest.raises(command.UserError, match=r'prompt_tokens=2; set it larger'):
        prompts.Prompts(made, 'train', 2)


def test_the_stream_is_another_permutation_each_epoch():
    numbers = np.arange(30)
    drawn = prompts.stream(10, 3, numbers).reshape(3, 10)
    assert [sorted(epoch) for epoch in drawn.tolist()] == [list(range(10))] * 3
    assert len({tuple(epoch) for epoch in drawn.tolist()}) == 3
    np.testing.assert_array_equal(prompts.stream(10, 3, numbers[7:9]), drawn[0, 7:9])
