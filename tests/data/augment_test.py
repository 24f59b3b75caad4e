"""What is made of documents: the operations, the endpoint, and where it came from."""

import collections
import http.server
import itertools
import json
import threading
import time

import pytest

from gptjax import command
from gptjax.data import documents, split, table
from gptjax.data.augment import back_translation, eda, parts, self_instruct
from gptjax.data.augment import endpoint as endpoint_lib
from gptjax.data.augment import table as augment_table

SYNONYMS = 'Quick, fast, rapid\nfox, vixen\njumps,leaps\n\nlonely\n'
TEXT = 'The Quick brown "fox" jumps over the lazy dog, says the quick man.'


class Server:
    """An endpoint whose `reply` says the status and the content."""

    def __init__(self):
        self.bodies, self.headers, self.pause, self.lost = [], [], 0, 0
        self.reply = lambda body: (200, body['messages'][-1]['content'].upper())
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers['Content-Length'])
                body = json.loads(self.rfile.read(length))
                server.bodies.append(body)
                server.headers.append(self.headers)
                assert self.path == '/v1/chat/completions'
                status, content = server.reply(body)
                message = {'role': 'assistant', 'content': content}
                sent = {'choices': [{'message': message}]} if status == 200 else content
                content = json.dumps(sent).encode()
                self.send_response(status)
                self.send_header('Content-Length', str(len(content) + server.lost))
                self.end_headers()
                step = 1 if server.pause else len(content)
                for at in range(0, len(content), step):
                    time.sleep(server.pause)
                    try:
                        self.wfile.write(content[at : at + step])
                    except OSError:
                        return  # who asked has gone

            def log_message(self, *args):
                pass

        self._http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.options = dict(
            base_url=f'http://127.0.0.1:{self._http.server_port}/v1', model='m',
            key_variable=None, temperature=0.5, max_tokens=9, timeout=10.0, retries=3,
            wait=0.001, at_once=4,
        )  # fmt: skip

    def endpoint(self, folder, **options):
        return endpoint_lib.Endpoint(folder / 'answers.jsonl', **self.options | options)

    def close(self):
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def synonyms(tmp_path):
    (tmp_path / 'synonyms.txt').write_text(SYNONYMS)
    return str(tmp_path / 'synonyms.txt')


KEY_AT_500 = 'hidden ' + 'x' * 487 + 'hidden'


def labelled(text=TEXT, identity='one'):
    return documents.Document(identity, 'set/a.txt', 'MIT', text=text, label='good')


def chat():
    turns = [('user', 'one two three'), ('assistant', 'four'), ('user', 'five six')]
    messages = [{'role': role, 'content': content} for role, content in turns]
    return documents.Document('talk', 'set/b', 'MIT', messages=messages)


def edit(documents_, synonyms, operation=None, **options):
    given = dict(seed=0, copies=4, rate=0.3, operations=tuple(eda.OPERATIONS))
    given |= {'operations': (operation,)} if operation else {}
    return list(eda.eda(documents_, synonyms=synonyms, **given | options))


@pytest.mark.parametrize('seed', range(20))
def test_each_operation_does_what_the_paper_says(synonyms, seed):
    """Section 2, with n = rate * words = 3 of the 12 words."""
    words = TEXT.split()

    def one(operation):
        (made,) = edit([labelled()], synonyms, operation, copies=1, seed=seed)
        return made.text.split()

    replaced = one('synonyms')
    changed = [(a, b) for a, b in zip(words, replaced, strict=True) if a != b]
    allowed = {
        'Quick': {'Fast', 'Rapid'}, 'quick': {'fast', 'rapid'}, '"fox"': {'"vixen"'},
        'jumps': {'leaps'},
    }  # fmt: skip
    assert len(changed) == 3
    assert all(b in allowed[a] for a, b in changed)
    inserted = collections.Counter(one('insertion'))
    new = inserted - collections.Counter(words)
    assert new.total() == 3
    assert not collections.Counter(words) - inserted
    assert set(new) <= {'fast', 'rapid', 'vixen', 'leaps'}
    swapped = one('swap')
    assert collections.Counter(swapped) == collections.Counter(words)
    assert 0 < sum(a != b for a, b in zip(words, swapped, strict=True)) <= 6
    kept = iter(words)
    deleted = one('deletion')
    assert all(word in kept for word in deleted)  # in order
    assert deleted


def test_deletion_leaves_its_share_and_at_least_a_word(synonyms):
    long = labelled(' '.join(map(str, range(5000))))
    (made,) = edit([long], synonyms, 'deletion', copies=1, rate=0.1)
    assert len(made.text.split()) == pytest.approx(4500, abs=5 * (5000 * 0.09) ** 0.5)
    (made,) = edit([labelled('word')], synonyms, 'deletion', copies=1, rate=1.0)
    assert made.text == 'word'


def test_a_long_word_takes_no_long_time():
    """A megabyte of punctuation in one word: with a regular expression once hours."""
    word = 'a' + '!' * 1_000_000 + 'b'
    ((number, core),) = eda._cores(['...', f'({word})'])
    assert (number, core[0]) == (1, word)


def test_draws_depend_on_seed_document_and_copy_alone(synonyms):
    found = [labelled(identity=name) for name in 'abc']
    whole = edit(found, synonyms, copies=8)
    apart = [
        one for document in found[::-1] for one in edit([document], synonyms, copies=8)
    ]
    key = lambda one: one.id  # noqa: E731
    assert sorted(whole, key=key) == sorted(apart, key=key)
    assert len({one.id for one in whole}) == 24
    assert len({one.text for one in whole}) > 12
    assert edit(found, synonyms, seed=1) != edit(found, synonyms)


def test_what_is_made_tells_of_its_parent(synonyms):
    parent = documents.Document(
        'p', 'set/a.txt', 'CC-BY-4.0', text='a quick fox\nand  a dog', label='x',
        text_pair='fox', unit='u', evidence='LICENSE', steps=('clean:-3',),
    )  # fmt: skip
    one = edit([parent], synonyms, 'synonyms')[0]
    assert (one.label, one.licence, one.unit) == ('x', 'CC-BY-4.0', 'u')
    assert one.source == 'augment:eda/set/a.txt'
    assert one.group == 'augment:eda'
    assert one.steps[0] == 'clean:-3'
    assert one.steps[1].startswith('eda:')
    assert one.evidence == 'made of p by EDA, synonyms; LICENSE'
    assert one.text.split('\n')[1] == 'and a dog'  # each line by itself
    assert one.text_pair == 'vixen'
    assert edit([labelled()], synonyms)[0].unit == 'one'
    (talk,) = edit([chat()], synonyms, 'swap', copies=1)
    roles = [(m['role'], m['content']) for m in talk.messages]
    assert roles[1:] == [('assistant', 'four'), ('user', 'six five')]
    pair = documents.Document(
        't', 's', 'MIT', translation={'source': 'a', 'target': 'b'}
    )
    with pytest.raises(command.UserError, match='of translation, which is not augm'):
        edit([pair], synonyms)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(operation='swop'), "did you mean 'swap'"),
        (dict(rate=0.0), r'rate=0\.0'),
        (dict(synonyms=None), r'need method\.synonyms'),
        (dict(synonyms='nowhere.txt'), "'nowhere.txt', which cannot be read"),
    ],
)
def test_wrong_options_are_refused(synonyms, options, message):
    with pytest.raises(command.UserError, match=message):
        edit([labelled()], **{'synonyms': synonyms} | options)


def test_nothing_is_asked_twice(server, tmp_path):
    """Within a call, in another one, and after a kill in the middle of a line."""
    ask = server.endpoint(tmp_path)
    prompts = list('abca')
    assert ask.ask(prompts, [0] * 4) == ['A', 'B', 'C', 'A']
    assert len(server.bodies) == 3
    assert server.bodies[0].keys() == {
        'model', 'temperature', 'max_tokens', 'messages', 'seed'
    }  # fmt: skip
    with (tmp_path / 'answers.jsonl').open('a') as file:
        file.write('{"digest": "12')
    again = server.endpoint(tmp_path)
    assert again.ask(['b', 'd'], [0, 0]) == ['B', 'D']
    assert len(server.bodies) == 4
    assert again.ask(['b'], [1]) == ['B']  # another seed is another request
    assert len(server.bodies) == 5
    assert server.endpoint(tmp_path).ask(prompts, [0] * 4) == ['A', 'B', 'C', 'A']
    assert len(server.bodies) == 5


def test_a_busy_server_is_asked_again_and_a_refusal_is_kept(server, tmp_path):
    count = itertools.count()
    server.reply = lambda body: (429, 'slow') if next(count) < 2 else (200, 'yes')
    assert server.endpoint(tmp_path).ask(['x'], [0]) == ['yes']
    assert len(server.bodies) == 3
    server.reply = lambda body: (400, 'too long')
    for _ in range(2):
        assert server.endpoint(tmp_path).ask(['y'], [0]) == [None]
    assert len(server.bodies) == 4


@pytest.mark.parametrize('status', [200, 400, 503])
def test_an_answer_that_breaks_off_is_asked_for_again(server, tmp_path, status):
    server.reply, server.lost = lambda body: (status, 'half'), 10
    with pytest.raises(command.UserError, match='IncompleteRead'):
        server.endpoint(tmp_path, retries=1).ask(['x'], [0])
    assert len(server.bodies) == 2


def test_what_was_answered_before_a_failure_stays(server, tmp_path):
    server.reply = lambda body: (
        (503, 'no') if body['messages'][0]['content'] == 'c' else (200, 'yes')
    )
    ask = server.endpoint(tmp_path, at_once=1, retries=1)
    with pytest.raises(command.UserError, match=r'503.* goes on from there'):
        ask.ask(list('abcd'), [0] * 4)
    asked = len(server.bodies)
    server.reply = lambda body: (200, 'yes')
    found = server.endpoint(tmp_path).ask(list('abcd'), [0] * 4)
    assert found == ['yes'] * 4
    assert len(server.bodies) - asked <= 2


def test_the_key_is_sent_and_not_kept(server, tmp_path, monkeypatch):
    with pytest.raises(command.UserError, match=r'OUR_KEY.*is not set'):
        server.endpoint(tmp_path, key_variable='OUR_KEY')
    monkeypatch.setenv('OUR_KEY', 'hid\nden')
    with pytest.raises(command.UserError, match='more than one line') as told:
        server.endpoint(tmp_path, key_variable='OUR_KEY')
    assert 'hid' not in str(told.value)
    monkeypatch.setenv('OUR_KEY', 'hidden')
    server.endpoint(tmp_path, key_variable='OUR_KEY').ask(['x'], [0])
    assert server.headers[0]['Authorization'] == 'Bearer hidden'
    assert 'hidden' not in (tmp_path / 'answers.jsonl').read_text()
    for reply in ((401, 'hidden is no key'), (200, {'hidden': 1}), (401, KEY_AT_500)):
        server.reply = lambda body, reply=reply: reply
        with pytest.raises(command.UserError, match=r'\[key\]') as told:
            server.endpoint(tmp_path, key_variable='OUR_KEY').ask(['y'], [0])
        assert 'hid' not in str(told.value)


def test_what_is_no_endpoint_is_named(server, tmp_path):
    server.reply = lambda body: (200, 7)
    with pytest.raises(command.UserError, match='no chat completion'):
        server.endpoint(tmp_path).ask(['x'], [0])
    server.reply = lambda body: (401, 'who are you')
    with pytest.raises(command.UserError, match=r'401: .*who are you'):
        server.endpoint(tmp_path).ask(['x'], [0])
    with pytest.raises(command.UserError, match='cannot answer'):
        server.endpoint(
            tmp_path, base_url='http://127.0.0.1:1/v1', retries=0
        ).ask(['x'], [0])  # fmt: skip
    for url in ('localhost', 'http://[::1/v1', 'http://me:secret@host/v1'):
        with pytest.raises(command.UserError, match=r'base_url is .*; it needs'):
            server.endpoint(tmp_path, base_url=url)
    for wrong in (dict(at_once=0), dict(retries=-1), dict(timeout=0.0)):
        with pytest.raises(command.UserError, match=r'at_once=.*timeout='):
            server.endpoint(tmp_path, **wrong)


def test_a_model_that_gives_no_text(server, tmp_path):
    """No content, as of a refusal, is an answer; half a surrogate pair is no text."""
    server.reply = lambda body: (200, None)
    for _ in range(2):
        assert server.endpoint(tmp_path).ask(['x'], [0]) == [None]
    assert len(server.bodies) == 1
    server.reply = lambda body: (200, 'a\ud83d')
    assert server.endpoint(tmp_path).ask(['y'], [0]) == ['a?']


def test_an_answer_has_an_end(server, tmp_path, monkeypatch):
    """Neither one that is too long nor one that takes too long is waited for."""
    monkeypatch.setattr(endpoint_lib, '_MOST', 1000)
    server.reply = lambda body: (200, 'x' * 1000)
    with pytest.raises(command.UserError, match='no end after 1'):
        server.endpoint(tmp_path, retries=0).ask(['x'], [0])
    server.reply, server.pause = lambda body: (200, 'x' * 50), 0.02
    with pytest.raises(command.UserError, match='no end after'):
        server.endpoint(tmp_path, retries=0, timeout=0.1).ask(['x'], [0])


def test_back_translation_goes_there_and_back(server, tmp_path):
    """A server that turns words around, and marks each direction."""

    def reply(body):
        head, text = body['messages'][0]['content'].split('\n\n', 1)
        if 'bad' in text:
            return 400, 'no'
        mark = '' if 'into English' in head else head.split(' into ')[1][0]
        return 200, f" {mark}{text[1:] if not mark else text}'\n"

    server.reply = reply
    found = [labelled('good'), labelled('bad', 'b'), chat()]
    made = list(
        back_translation.back_translation(
            found, server.endpoint(tmp_path), seed=0, language='English',
            through=('French', 'German'),
        )
    )  # fmt: skip
    assert [one.source for one in made] == [
        f'augment:back_translation/{s}' for s in ('set/a.txt',) * 2 + ('set/b',) * 2
    ]
    assert made[0].evidence == 'made of one by m, through French; its licence'
    assert not any(m['messages'][0]['content'].endswith('\n\n') for m in server.bodies)
    with pytest.raises(command.UserError, match="through is 'French'"):
        next(back_translation.back_translation(
            found, server.endpoint(tmp_path), seed=0, language='English',
            through='French',
        ))  # fmt: skip
    assert len({one.id for one in made}) == 4
    assert made[0].label == 'good'
    assert made[2].messages[1]['content'] == 'four'
    assert made[2].messages[0]['content'] != 'one two three'


def test_rouge_l_against_the_table():
    """The longest common subsequence by the plain recursion."""

    def common(a, b):
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, j in itertools.product(range(len(a)), range(len(b))):
            table[i + 1][j + 1] = (
                table[i][j] + 1
                if a[i] == b[j]
                else max(table[i][j + 1], table[i + 1][j])
            )
        return table[-1][-1]

    import random

    draw = random.Random(0)
    for _ in range(300):
        a, b = (draw.choices('abcd', k=draw.randint(1, 80)) for _ in range(2))
        expected = 2 * common(a, b) / (len(a) + len(b))
        assert self_instruct.rouge_l(a, b) == pytest.approx(expected)
    # Lin (2004), section 3: sentences S1 and S2.
    one, two = (
        ['police', 'killed', 'the', 'gunman'],
        ['police', 'kill', 'the', 'gunman'],
    )
    assert self_instruct.rouge_l(one, two) == 0.75


def test_self_instruct_makes_new_tasks_with_examples(server, tmp_path, real_data):
    """On the paper's own seed tasks (Apache-2.0); a server with a fixed repertoire."""
    numbers = itertools.count()

    def reply(body):
        content = body['messages'][0]['content']
        if content.startswith('Here is a list'):
            shown = content.count('\n')
            assert shown >= 8
            i = next(numbers)
            first = content.split('\n')[2].split('. ', 1)[1]
            return 200, (
                f'9. {first}\n10. Say the word{i} of{i} day{i} now{i}.\n'
                f'11. Draw a picture of {i}\n'
                f'12. Is sentence{i} kind{i} or{i} unkind{i}?'
            )
        if content.startswith('Is this a class'):
            return 200, 'Yes.' if 'kind' in content.split('Task:')[1] else 'No'
        if "first 'Output:'" in content:
            return 200, 'Output: kind\nInput: You are dear to me.'
        return 200, 'Input: none\nOutput: Sunshine.'

    server.reply = reply
    options = dict(
        seed=0, tasks=str(real_data('sft/seed_tasks.jsonl')), licence='Apache-2.0',
        count=9, rounds=50, novelty=0.7,
    )  # fmt: skip
    made = list(self_instruct.self_instruct(server.endpoint(tmp_path), **options))
    assert len(made) == 9
    assert len({one.id for one in made}) == 9
    for one in made:
        question, answer = (m['content'] for m in one.messages)
        if 'sentence' in question:
            assert question.endswith('?\n\nYou are dear to me.')
            assert answer == 'kind'
        else:
            assert question.startswith('Say the word')
            assert answer == 'Sunshine.'
        assert one.licence == 'Apache-2.0'
        assert one.evidence == 'made by m after the tasks of seed_tasks.jsonl'
    asked = len(server.bodies)
    again = list(self_instruct.self_instruct(server.endpoint(tmp_path), **options))
    assert again == made
    assert len(server.bodies) == asked


def test_too_few_seed_tasks_are_refused(server, tmp_path):
    (tmp_path / 'tasks.jsonl').write_text('{"instruction": "Say hello."}\n')
    options = dict(seed=0, licence='MIT', count=9, rounds=1, novelty=0.7)
    for name, message in (('tasks.jsonl', 'has 1 tasks'), ('none', 'cannot be read')):
        path = str(tmp_path / name)
        with pytest.raises(command.UserError, match=message):
            next(self_instruct.self_instruct(
                server.endpoint(tmp_path), tasks=path, **options
            ))  # fmt: skip


def test_the_command_writes_what_the_corpora_read(server, synonyms, tmp_path):
    rows = [{'text': f'{TEXT} {i}', 'label': i % 2} for i in range(5)]
    (tmp_path / 'in.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
    corpus = dict(name='labelled', path=str(tmp_path / 'in.jsonl'), licence='MIT')
    config = command.load_config('configs/data/augment.py:eda').to_dict()
    config['corpus'] = corpus
    config['method']['synonyms'] = synonyms
    output = tmp_path / 'out' / 'more.jsonl'
    told = command.splat(augment_table.augment, 'config', config, output=str(output))
    assert told == f'{output}: 20 made, 5 originals'
    read = list(table.collect({**corpus, 'path': str(output)}))
    assert len(read) == 25
    assert [one.text for one in read[:5]] == [row['text'] for row in rows]
    assert collections.Counter(one.label for one in read) == {'0': 15, '1': 10}
    units = collections.defaultdict(set)
    for one in read:
        units[one.unit].add(split.is_held_out(one, 0.5))
    assert len(units) == 5  # a document and what is made of it are held out together
    assert all(len(sides) == 1 for sides in units.values())
    before = output.read_bytes()
    command.splat(augment_table.augment, 'config', config, output=str(output))
    assert output.read_bytes() == before
    inside = dict(config, corpus=dict(corpus, path=str(tmp_path)))
    with pytest.raises(command.UserError, match=r'is in corpus\.path='):
        command.splat(augment_table.augment, 'config', inside, output=str(output))
    config['endpoint'] = server.options
    with pytest.raises(command.UserError, match='eda has no use for endpoint'):
        command.splat(augment_table.augment, 'config', config, output=str(output))
    config = command.load_config('configs/data/augment.py:back_translation').to_dict()
    config |= dict(endpoint=server.options, corpus=corpus)
    told = command.splat(augment_table.augment, 'config', config, output=str(output))
    assert told == f'{output}: 5 made, 5 originals'
    assert (tmp_path / 'out' / 'more.jsonl.answers.jsonl').read_text().count('\n') == 10


def test_a_record_leaves_out_what_is_as_by_default():
    assert parts.record(labelled('x')) == {
        'id': 'one', 'source': 'set/a.txt', 'licence': 'MIT', 'text': 'x',
        'label': 'good', 'media': 'text/plain', 'opt_out': 'unknown', 'unit': 'one',
    }  # fmt: skip
