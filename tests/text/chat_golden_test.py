"""Chats as transformers renders, tokenizes and masks them, by published templates.

Here the formats are written by ourselves; tests/parity has the published templates.
"""

import json
from pathlib import Path

from golden import chat_cases
import pytest

from gptjax.text import chat, huggingface

TRUTH = json.loads((Path(__file__).parents[1] / 'golden' / 'chat.json').read_text())


@pytest.mark.parametrize('name', chat_cases.FORMATS)
def test_ids_and_masks_are_those_of_transformers(name):
    made = huggingface.HuggingFace(chat_cases.tokenizer_files(name))
    talks = chat_cases.conversations(name)
    expected = TRUTH['digests'][name]
    assert len(talks) == len(expected) == 100
    wrong = []
    for number, (messages, tools) in enumerate(talks):
        talk = [{**messages[0], 'tools': tools}, *messages[1:]]
        ids, weights = chat.encode(made, talk)
        mask = [int(weight) for weight in weights]
        if chat_cases.digest(ids, mask) != expected[number]:
            wrong.append(number)
        ends = [i for i, m in enumerate(mask) if m and ids[i] in made.ends]
        assert len(ends) == sum(m['role'] == 'assistant' for m in messages)
    assert not wrong
