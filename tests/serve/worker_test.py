"""Cancelling, overload, failure and the end, with an engine that waits when told to."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading

import httpx
import openai
import pytest

from gptjax import command
from gptjax.serve import server as server_lib

BODY = {'model': 'scripted', 'prompt': 'x', 'max_tokens': 1000}


@pytest.fixture
def client(scripted_server):
    with httpx.Client(base_url=scripted_server.url, timeout=20) as client:
        yield client


def post_in_thread(client, **changes):
    """A request whose answer lands in the list that comes back with its thread."""
    answers = []

    def post():
        answers.append(client.post('/v1/completions', json={**BODY, **changes}))

    thread = threading.Thread(target=post)
    thread.start()
    return thread, answers


def test_closing_a_stream_frees_the_engine(scripted, scripted_server, client, until):
    for reads in (0, 1, 5):
        with client.stream(
            'POST', '/v1/completions', json={**BODY, 'stream': True}
        ) as r:
            lines = r.iter_lines()
            for _ in range(reads):
                next(lines)
        until(lambda: scripted_server.jobs.idle)
    assert scripted.made < 200  # of 1,200, at 20 ms each
    assert scripted.closed in (2, 3)  # left at once, it may not have begun


def test_leaving_before_the_answer_frees_the_engine(
    scripted, scripted_server, client, until
):
    with pytest.raises(httpx.ReadTimeout):
        client.post('/v1/completions', json=BODY, timeout=0.1)
    until(lambda: scripted_server.jobs.idle)
    assert scripted.made < 200  # of 400


def test_leaving_while_waiting_frees_the_place(
    scripted, scripted_server, client, until
):
    scripted.gate.clear()
    scripted.pieces = 3
    thread, answers = post_in_thread(client)
    until(lambda: scripted_server.jobs.running)
    for _ in range(5):  # more than the queue holds: each leaves before the next comes
        with pytest.raises(httpx.ReadTimeout):
            client.post('/v1/completions', json=BODY, timeout=0.1)
    scripted.gate.set()
    thread.join(10)
    assert answers[0].status_code == 200
    until(lambda: scripted_server.jobs.idle)
    assert scripted.made == 3  # those who left cost nothing


def test_a_full_queue_says_when_to_come_back(scripted, scripted_server, client, until):
    scripted.gate.clear()
    scripted.pieces = 3
    posted = [post_in_thread(client)]
    until(lambda: scripted_server.jobs.running)
    posted += [post_in_thread(client) for _ in range(2)]
    until(lambda: scripted_server.jobs.waiting == 2)
    refused = client.post('/v1/completions', json=BODY)
    assert refused.status_code == 429
    assert refused.headers['retry-after'] == '1'
    assert refused.json()['error']['type'] == 'rate_limit_error'
    with (
        openai.OpenAI(
            base_url=scripted_server.url, api_key='none', max_retries=0
        ) as official,
        pytest.raises(openai.RateLimitError, match='2 requests wait'),
    ):
        official.completions.create(model='scripted', prompt='x')
    assert client.get('/health').status_code == 200  # the event loop is free
    scripted.gate.set()
    for thread, answers in posted:
        thread.join(10)
        assert answers[0].json()['choices'][0]['text'] == 'ababab'


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_failure_of_the_engine_is_told_and_survived(
    scripted, scripted_server, client, caplog
):
    scripted.fails_at = 3
    answer = client.post('/v1/completions', json=BODY)
    assert answer.status_code == 500
    assert answer.headers['x-should-retry'] == 'false'
    assert answer.json()['error']['type'] == 'server_error'
    assert 'fire' not in answer.text  # what happened inside stays in the log
    assert 'the accelerator is on fire' in caplog.text
    scripted.fails_at = scripted.made + 3
    with openai.OpenAI(base_url=scripted_server.url, api_key='none') as official:
        stream = official.completions.create(model='scripted', prompt='x', stream=True)
        assert next(stream).choices[0].text == 'ab'
        with pytest.raises(openai.APIError, match='the generation failed'):
            list(stream)
    scripted.pieces = 2
    assert client.post('/v1/completions', json=BODY).status_code == 200


def test_shutdown_ends_streams_with_an_error_and_done(scripted_server, client):
    events = []
    body = {**BODY, 'stream': True}
    with client.stream('POST', '/v1/completions', json=body) as response:
        for line in response.iter_lines():
            if line:
                events.append(line.removeprefix('data: '))
            if len(events) == 2:
                scripted_server.should_exit = True
    assert events[-1] == '[DONE]'
    assert 'shutting down' in json.loads(events[-2])['error']['message']


def test_a_busy_port_is_named_with_the_way_out():
    with server_lib.bind('127.0.0.1', 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(command.UserError, match=rf'port {port}.*busy.*--port'):
            server_lib.run(str, [Path('anywhere')], '127.0.0.1', port)


@pytest.mark.parametrize(
    ('host', 'port', 'said'),
    [
        ('127.0.0.1', 70_000, '--port is 70000; ports are 0 to 65535'),
        ('no such host', 8000, 'cannot listen on no such host port 8000'),
    ],
)
def test_an_impossible_address_is_refused(host, port, said):
    with pytest.raises(command.UserError, match=said):
        server_lib.bind(host, port)


def test_two_workdirs_of_one_name_are_refused():
    with pytest.raises(command.UserError, match="two workdirs are called 'sft'"):
        server_lib.run(str, [Path('a/sft'), Path('b/sft')], '127.0.0.1', 0)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly(number):
    script = (
        'from gptjax.serve import server\n'
        'listener = server.bind("127.0.0.1", 0)\n'
        'server.serve({}, listener)\n'
    )
    with subprocess.Popen(
        [sys.executable, '-c', script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    ) as process:
        try:
            url = process.stdout.readline().split()[-1]
            assert httpx.get(url + '/health').json() == {'status': 'ok'}
        finally:
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, '', '')
