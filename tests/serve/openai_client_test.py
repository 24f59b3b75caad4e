"""The official client against a real server: what it sees is what users see."""

import openai
import pytest

from gptjax.generate import engine as engine_lib
from gptjax.text import chat

MESSAGES = [{'role': 'user', 'content': 'Say something.'}]
SETTINGS = dict(temperature=0.9, seed=11, max_tokens=40)


@pytest.fixture(scope='module')
def client(tiny_server):
    with openai.OpenAI(
        base_url=tiny_server.url + '/v1', api_key='none', max_retries=0
    ) as client:
        yield client


def expected(engine, prompt, **settings):
    """The engine's own answer."""
    return engine.generate([engine_lib.Request(prompt, **settings)])[0]


@pytest.fixture
def chat_prompt(tiny_engine):
    return tuple(chat.prompt(tiny_engine.tokenizer, MESSAGES))


def test_models(client):
    assert [model.id for model in client.models.list()] == ['tiny', 'other']
    model = client.models.retrieve('other')
    assert (model.id, model.object, model.owned_by) == ('other', 'model', 'gptjax')
    with pytest.raises(openai.NotFoundError, match="did you mean 'tiny'"):
        client.models.retrieve('tiny2')


def test_without_v1_and_health(tiny_server):
    with openai.OpenAI(base_url=tiny_server.url, api_key='none') as client:
        assert client.completions.create(model='tiny', prompt='a', max_tokens=1)
        assert len(client.models.list().data) == 2
        assert client.get('/health', cast_to=object) == {'status': 'ok'}


def test_completions(client, tiny_engine):
    response = client.completions.create(model='tiny', prompt='Hello', **SETTINGS)
    whole = expected(tiny_engine, tiny_engine.document('Hello'), **SETTINGS)
    assert response.object == 'text_completion'
    assert response.choices[0].text == whole.text
    assert response.choices[0].finish_reason == whole.finish_reason
    assert response.usage.prompt_tokens == 6
    assert response.usage.completion_tokens == len(whole.tokens)
    assert response.usage.total_tokens == 6 + len(whole.tokens)
    assert response._request_id.startswith('req_')


def test_completions_of_several_prompts(client, tiny_engine):
    prompts = ['one', 'two, which is longer', '']
    response = client.completions.create(model='tiny', prompt=prompts, **SETTINGS)
    stream = client.completions.create(
        model='tiny', prompt=prompts, stream=True, **SETTINGS
    )
    streamed = [''] * 3
    for chunk in stream:
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    for i, prompt in enumerate(prompts):
        whole = expected(tiny_engine, tiny_engine.document(prompt), **SETTINGS)
        assert response.choices[i].index == i
        assert response.choices[i].text == streamed[i] == whole.text


def test_chat(client, tiny_engine, chat_prompt):
    response = client.chat.completions.create(
        model='tiny', messages=MESSAGES, **SETTINGS
    )
    whole = expected(tiny_engine, chat_prompt, **SETTINGS)
    [choice] = response.choices
    assert response.object == 'chat.completion'
    assert (choice.message.role, choice.message.content) == ('assistant', whole.text)
    assert choice.finish_reason == whole.finish_reason
    assert response.usage.prompt_tokens == len(chat_prompt)
    assert response.usage.completion_tokens == len(whole.tokens)


def test_chat_streams_the_same_text_in_the_order_clients_expect(
    client, tiny_engine, chat_prompt
):
    chunks = list(
        client.chat.completions.create(
            model='tiny',
            messages=MESSAGES,
            stream=True,
            stream_options={'include_usage': True},
            **SETTINGS,
        )
    )
    whole = expected(tiny_engine, chat_prompt, **SETTINGS)
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {'chat.completion.chunk'}
    *said, usage = chunks
    deltas = [chunk.choices[0].delta for chunk in said]
    assert [delta.role for delta in deltas] == ['assistant'] + [None] * (len(said) - 1)
    assert ''.join(delta.content or '' for delta in deltas) == whole.text
    assert len(deltas) > 4
    reasons = [chunk.choices[0].finish_reason for chunk in said]
    assert reasons == [None] * (len(said) - 1) + [whole.finish_reason]
    assert deltas[-1].content is None
    assert usage.choices == []
    assert usage.usage.completion_tokens == len(whole.tokens)
    assert usage.usage.prompt_tokens == len(chat_prompt)


def test_settings_reach_the_engine(client, tiny_engine, chat_prompt):
    common = dict(model='tiny', messages=MESSAGES)
    greedy = client.chat.completions.create(
        temperature=0, max_completion_tokens=9, **common
    )
    whole = expected(tiny_engine, chat_prompt, temperature=0.0, max_tokens=9)
    assert greedy.choices[0].message.content == whole.text
    assert greedy.choices[0].finish_reason == 'length'
    free = expected(tiny_engine, chat_prompt, top_p=0.8, top_k=9, max_tokens=30, seed=4)
    stop = free.text[6:8]
    stopped = client.chat.completions.create(
        top_p=0.8, max_tokens=30, seed=4, stop=[stop], extra_body={'top_k': 9}, **common
    )
    assert stopped.choices[0].message.content == free.text.split(stop)[0]
    assert stopped.choices[0].finish_reason == 'stop'


def test_without_a_seed_answers_differ_and_a_chat_fills_its_context(
    client, tiny_engine, chat_prompt
):
    answers = [
        client.chat.completions.create(model='tiny', messages=MESSAGES, temperature=2)
        for _ in range(3)
    ]
    assert len({answer.choices[0].message.content for answer in answers}) == 3
    room = tiny_engine.context - len(chat_prompt)
    for answer in answers:
        if answer.choices[0].finish_reason == 'length':
            assert answer.usage.completion_tokens == room


def test_parts_of_text_and_developers_are_understood(client):
    plain, parts = (
        client.chat.completions.create(model='tiny', messages=messages, **SETTINGS)
        for messages in (
            [{'role': 'system', 'content': 'Be brief.'}, *MESSAGES],
            [
                {
                    'role': 'developer',
                    'content': [{'type': 'text', 'text': 'Be brief.'}],
                },
                *MESSAGES,
            ],
        )
    )
    assert plain.choices == parts.choices


@pytest.mark.parametrize(
    ('change', 'error', 'said'),
    [
        (dict(model='tinny'), openai.NotFoundError, "did you mean 'tiny'"),
        (dict(n=2), openai.BadRequestError, 'n is 2'),
        (dict(logprobs=True), openai.BadRequestError, 'logprobs is True'),
        (
            dict(temperature=3),
            openai.BadRequestError,
            'temperature.*less than or equal',
        ),
        (
            dict(tools=[{'type': 'function', 'function': {'name': 'f'}}]),
            openai.BadRequestError,
            'tools is',
        ),
        (
            dict(response_format={'type': 'json_object'}),
            openai.BadRequestError,
            'response_format is',
        ),
        (dict(messages=[]), openai.BadRequestError, 'messages'),
        (dict(stop=['x'] * 17), openai.BadRequestError, 'stop'),
        (
            dict(stream_options={'include_usage': True}),
            openai.BadRequestError,
            'stream_options',
        ),
    ],
)
def test_errors_have_the_types_of_the_client(client, change, error, said):
    with pytest.raises(error, match=said):
        client.chat.completions.create(
            **{'model': 'tiny', 'messages': MESSAGES, **change}
        )


def test_what_asks_for_nothing_is_let_through(client):
    answer = client.chat.completions.create(
        model='tiny', messages=MESSAGES, max_tokens=1, n=1, logprobs=False, tools=[],
        presence_penalty=0, logit_bias={}, response_format={'type': 'text'}, user='me',
        stop=None, extra_body={'nobody_knows': {'this': 1}},
    )  # fmt: skip
    assert answer.usage.completion_tokens == 1


def test_fields_of_the_other_endpoint_are_unknown_ones(client):
    answer = client.completions.create(
        model='tiny', prompt='x', max_tokens=1, extra_body={'messages': MESSAGES}
    )
    assert answer.usage.completion_tokens == 1


def test_a_prompt_longer_than_the_context(client):
    for create in (
        lambda: client.completions.create(model='tiny', prompt='x' * 127),
        lambda: client.chat.completions.create(
            model='tiny', messages=[{'role': 'user', 'content': 'x' * 127}], stream=True
        ),
    ):
        with pytest.raises(openai.BadRequestError, match=r'1\d\d tokens.* is 128') as e:
            create()
        assert e.value.code == 'context_length_exceeded'


def test_control_tokens_typed_by_a_user_are_plain_text(client):
    response = client.completions.create(model='tiny', prompt='<|end|>', max_tokens=1)
    assert response.usage.prompt_tokens == 1 + len('<|end|>')
