import io
import sys

import pytest

from gptjax import command
from gptjax.generate import engine as engine_lib
from gptjax.generate import terminal
from gptjax.text import chat

SETTINGS = dict(max_tokens=30, temperature=1.0, top_k=0, top_p=1.0, seed=1)


@pytest.fixture(autouse=True)
def compiled_engine(tiny, monkeypatch):
    monkeypatch.setattr(engine_lib, 'Engine', lambda *parts: tiny.engine)


@pytest.mark.parametrize('as_chat', [False, True])
def test_standard_output_holds_the_completion_alone(tiny, capfd, as_chat):
    terminal.complete(tiny, prompt='Grüße', chat=as_chat, stop=[], **SETTINGS)
    prompt = tiny.engine.document('Grüße')
    if as_chat:
        messages = [{'role': 'user', 'content': 'Grüße'}]
        prompt = tuple(chat.prompt(tiny.tokenizer, messages))
    [expected] = tiny.engine.generate([engine_lib.Request(prompt, **SETTINGS)])
    out, err = capfd.readouterr()
    assert out == expected.text
    assert f'{len(prompt)} + {len(expected.tokens)} tokens' in err


def test_a_dash_reads_standard_input(tiny, capfd, monkeypatch):
    outputs = []
    for prompt, typed in [('Grüße', ''), ('-', 'Grüße')]:
        monkeypatch.setattr(
            sys, 'stdin', io.TextIOWrapper(io.BytesIO(typed.encode()), 'ascii')
        )
        terminal.complete(tiny, prompt=prompt, chat=False, stop=['e'], **SETTINGS)
        outputs.append(capfd.readouterr().out)
    assert outputs[0] == outputs[1]
    assert 'e' not in outputs[0]


def test_a_prompt_that_is_not_utf8_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'ab\xff'), 'ascii'))
    for prompt in ('-', 'ab\udcff'):  # as Python gives an argument with that byte
        with pytest.raises(command.UserError, match=r'not UTF-8.*byte 2'):
            terminal.complete(tiny, prompt=prompt, chat=False, stop=[], **SETTINGS)
