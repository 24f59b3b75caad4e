"""The model that a request names: the base, or an adapter beside it."""

from pathlib import Path

import httpx
import pytest

from gptjax import command
from gptjax.generate import engine as engine_lib
from gptjax.serve import server as server_lib


@pytest.fixture
def client(scripted, serving_of):
    """A server whose engine says which adapter it was asked for."""

    class Named(type(scripted)):
        adapters = ('poet', 'lawyer')

        def run(self, requests):
            for index, request in enumerate(requests):
                yield index, engine_lib.Piece(str(request.adapter), (97,), 'stop')

    with (
        serving_of({'base': Named(scripted.tokenizer)}) as server,
        httpx.Client(base_url=server.url, timeout=20) as client,
    ):
        yield client


def test_the_model_field_selects_the_adapter(client):
    listed = client.get('/v1/models').json()['data']
    assert {model['id']: model.get('parent') for model in listed} == {
        'base': None,
        'poet': 'base',
        'lawyer': 'base',
    }
    assert client.get('/v1/models/poet').json()['context_length'] == 1_000_000
    said = [{'role': 'user', 'content': 'hello'}]
    for model, adapter in [('poet', 'poet'), ('base', 'None'), ('lawyer', 'lawyer')]:
        body = {'model': model, 'prompt': ['x', 'y']}
        answer = client.post('/v1/completions', json=body).json()
        assert [choice['text'] for choice in answer['choices']] == [adapter] * 2
        assert answer['model'] == model
        body = {'model': model, 'messages': said}
        answer = client.post('/v1/chat/completions', json=body).json()
        assert answer['choices'][0]['message']['content'] == adapter
    refused = client.post('/v1/completions', json={'model': 'pot', 'prompt': 'x'})
    assert refused.status_code == 404
    assert "did you mean 'poet'" in refused.json()['error']['message']


def test_names_of_adapters_are_one_and_they_have_one_base():
    beside = [('sft', lambda base: None)]
    with pytest.raises(command.UserError, match="two workdirs are called 'sft'"):
        server_lib.run(str, [Path('a/sft')], '127.0.0.1', 0, beside)
    with pytest.raises(command.UserError, match='--adapter=sft needs one --workdir'):
        server_lib.run(str, [Path('a'), Path('b')], '127.0.0.1', 0, beside)
