"""Bad requests: always 4xx in the shape of OpenAI's errors, never a dead server."""

import json

import httpx
import pytest

from gptjax.serve import api

GOOD = {'model': 'tiny', 'messages': [{'role': 'user', 'content': 'x'}]}
TEXT = {'model': 'tiny', 'prompt': 'x', 'max_tokens': 1}


def changed(base, **changes):
    return json.dumps({**base, **changes}).encode()


def without(base, name):
    return json.dumps({key: value for key, value in base.items() if key != name})


BODIES = [
    b'',
    b'{',
    b'null',
    b'[]',
    b'"text"',
    b'17',
    b'NaN',
    b'\xff\xfe\x00',
    b'{"model": "tiny", "prompt": "\xff"}',
    b'{"model": "tiny", "prompt": "\\ud800"}',
    b'{"model": "tiny", "prompt": "x", "temperature": NaN}',
    b'{"model": "tiny", "prompt": "x", "temperature": Infinity}',
    b'{"model": "tiny", "prompt": "x", "temperature": 1e999}',
    b'{"model": "tiny", "prompt": "x", "seed": ' + b'9' * 5000 + b'}',
    b'{"model": "tiny", "prompt": "x",}',
    b"{'model': 'tiny', 'prompt': 'x'}",
    b'{"model": "tiny", "prompt": "x"} trailing',
    b'[' * 100_000,
    b'{"a":' * 100_000,
    b'{"model": "tiny", "prompt": ' + b'[' * 5000 + b']' * 5000 + b'}',
    b'x' * (api.MAX_BODY + 1),
    without(TEXT, 'model'),
    without(TEXT, 'prompt'),
    without(GOOD, 'messages'),
    changed(TEXT, model=None),
    changed(TEXT, model=3),
    changed(TEXT, model=''),
    changed(TEXT, model='x' * 100_000),
    changed(TEXT, prompt=3),
    changed(TEXT, prompt=[]),
    changed(TEXT, prompt=[1, 2]),
    changed(TEXT, prompt=['x', None]),
    changed(TEXT, prompt={'x': 1}),
    changed(TEXT, prompt=['x'] * 33),
    changed(TEXT, prompt='x' * 1_000_000),
    changed(TEXT, max_tokens=0),
    changed(TEXT, max_tokens=-5),
    changed(TEXT, max_tokens=1.5),
    changed(TEXT, max_tokens='7'),
    changed(TEXT, max_tokens=True),
    changed(TEXT, temperature='hot'),
    changed(TEXT, temperature=-0.1),
    changed(TEXT, temperature=[]),
    changed(TEXT, top_p=1.01),
    changed(TEXT, top_p=-1),
    changed(TEXT, top_k=-2),
    changed(TEXT, top_k=10**30),
    changed(TEXT, seed=2**63),
    changed(TEXT, seed=0.5),
    changed(TEXT, stop=''),
    changed(TEXT, stop=['a', '']),
    changed(TEXT, stop=[3]),
    changed(TEXT, stop={'a': 1}),
    changed(TEXT, stream='yes'),
    changed(TEXT, stream=1),
    changed(TEXT, stream=True, stream_options=3),
    changed(TEXT, stream=True, stream_options={'include_usage': 'x'}),
    changed(TEXT, echo=True),
    changed(TEXT, best_of=3),
    changed(TEXT, logprobs=0),
    changed(TEXT, suffix='end'),
    changed(TEXT, n=True),
    changed(TEXT, logit_bias={'5': -100}),
    changed(TEXT, frequency_penalty=0.5),
    changed(GOOD, messages='hello'),
    changed(GOOD, messages=[3]),
    changed(GOOD, messages=[{}]),
    changed(GOOD, messages=[{'role': 'user'}]),
    changed(GOOD, messages=[{'role': 'robot', 'content': 'x'}]),
    changed(GOOD, messages=[{'role': 'user', 'content': None}]),
    changed(GOOD, messages=[{'role': 'user', 'content': [{'type': 'image_url'}]}]),
    changed(GOOD, messages=[{'role': 'user', 'content': 'x'}] * 513),
    changed(GOOD, messages=[{'role': 'user', 'content': 'x', 'tool_calls': [{}]}]),
    changed(GOOD, functions=[{'name': 'f'}]),
]


@pytest.fixture(scope='module')
def client(tiny_server):
    with httpx.Client(base_url=tiny_server.url, timeout=20) as client:
        yield client


def check_shape(response):
    assert 400 <= response.status_code < 500, response.text[:300]
    assert response.headers['content-type'] == 'application/json'
    assert response.headers['x-request-id'].startswith('req_')
    error = response.json()['error']
    assert set(error) == {'message', 'type', 'param', 'code'}
    assert isinstance(error['message'], str)
    assert 5 < len(error['message']) < 600
    assert error['type'] == 'invalid_request_error'
    return error


def test_malformed_bodies(client):
    assert len(BODIES) >= 50
    for body in BODIES:
        names = (
            ('prompt',) if b'prompt' in bytes(str(body), 'latin1') else ('messages',)
        )
        path = '/v1/completions' if names == ('prompt',) else '/v1/chat/completions'
        check_shape(client.post(path, content=body))
    assert client.post('/v1/completions', json=TEXT).status_code == 200
    assert client.post('/v1/chat/completions', json=GOOD).status_code == 200


@pytest.mark.parametrize(
    ('change', 'param', 'said'),
    [
        ({'temperature': 'hot'}, 'temperature', "got 'hot'"),
        ({'prompt': ['x', 7]}, 'prompt.1', 'got 7'),
        ({'stop': ['a', '']}, 'stop.1', 'at least 1 character'),
        ({'n': 3}, 'n', 'n is 3, which this server does not do'),
        ({'max_tokens': 0}, 'max_tokens', 'greater than or equal to 1'),
    ],
)
def test_errors_say_which_field_and_what_it_was(client, change, param, said):
    error = check_shape(client.post('/v1/completions', json={**TEXT, **change}))
    assert error['param'] == param
    assert said in error['message']


@pytest.mark.parametrize(
    ('method', 'path', 'status'),
    [
        ('GET', '/nothing', 404),
        ('GET', '/v1/models/', 404),
        ('GET', '/v1/models/x%2Fy', 404),
        ('GET', '/v1/models/%ff%00', 404),
        ('GET', '/v1/completions', 405),
        ('DELETE', '/v1/models/tiny', 405),
        ('POST', '/', 405),
        ('GET', '/../../etc/passwd', 404),
    ],
)
def test_wrong_paths_and_methods(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    check_shape(response)
