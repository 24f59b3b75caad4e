"""The fetcher against a server on this machine that notes what it is asked."""

import contextlib
import datetime
import gzip
import http.server
import json
from pathlib import Path
import socket
import socketserver
import threading
import time
from urllib import parse

import pytest

from gptjax import command
from gptjax.data.origin import archive, fetch, web

AGENT = 'examplebot/1.0 (+https://example.org/bot)'
START = 1_790_000_000.0


class Clock:
    """Time that passes only by waiting."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def monotonic(self):
        return self.now

    def time(self):
        return START + self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        self.server.times.append(self.server.clock.monotonic())
        found = self.server.pages.get(self.path, (404, {}, b''))
        if callable(found):
            found = found(self)
            if found is None:
                return
        if isinstance(found, str):
            found = (200, {'Content-Type': 'text/html'}, found.encode())
        status, headers, body = found
        self.send_response(status)
        for name, value in {'Content-Length': len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """pages: by path, HTML or (status, headers, body) or a function of the handler."""

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.pages, self.asked, self.times, self.clock = {}, [], [], Clock()

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)  # that of HTTP asks for our name
        self.server_name, self.server_port = self.server_address

    @property
    def root(self):
        return f'http://127.0.0.1:{self.server_port}'

    def paths(self):
        return [path for path, _ in self.asked]

    def handle_error(self, *_):
        pass


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def run(server, tmp_path):
    """Fetches addresses (paths are those of the server): the counts."""

    def make(*urls, **also):
        file = tmp_path / 'urls.txt'
        lines = [u if '//' in u else server.root + u for u in urls]
        file.write_text(''.join(f'{line}\n' for line in lines))
        options = dict(
            urls=str(file), agent=AGENT, respect=('CCBot',), delay=1.0, timeout=2.0,
            seconds=5.0, most_bytes=100_000, most_urls=100, private=True, previous=None,
            output=tmp_path / 'pages.warc.gz', clock=server.clock,
        )  # fmt: skip
        return fetch.fetch(**(options | also))

    return make


def records(path):
    """What warcio's own reader finds: (type, address, fields, status, body)."""
    from warcio import archiveiterator

    with path.open('rb') as file:
        return [
            (
                record.rec_type,
                record.rec_headers.get_header('WARC-Target-URI'),
                record.rec_headers,
                record.http_headers,
                record.content_stream().read(),
            )
            for record in archiveiterator.ArchiveIterator(file, check_digests='raise')
        ]


def responses(path):
    return {r[1]: r for r in records(path) if r[0] == 'response'}


def test_a_page_is_written_with_its_time_and_what_allowed_it(server, run, tmp_path):
    server.pages['/a?b=%20c'] = '<p>héllo'
    assert run('/a?b= c', '/missing') == {'written': 1, 'status 404': 1}
    kinds = [record[:2] for record in records(tmp_path / 'pages.warc.gz')]
    url = f'{server.root}/a?b=%20c'
    assert [kind for kind, target in kinds if target == url] == [
        'metadata', 'request', 'response',
    ]  # fmt: skip
    _, _, fields, head, body = responses(tmp_path / 'pages.warc.gz')[url]
    assert body.decode() == '<p>héllo'
    assert head.get_statuscode() == '200'
    asked_at = server.times[server.paths().index('/a?b=%20c')]
    moment = datetime.datetime.fromtimestamp(START + asked_at, datetime.UTC)
    assert fields.get_header('WARC-Date') == moment.strftime('%Y-%m-%dT%H:%M:%SZ')
    assert fields.get_header(archive.OPT_OUT) == 'none'
    text = records(tmp_path / 'pages.warc.gz')[0][4]
    assert b'robots.txt: allows examplebot, CCBot' in text
    assert {headers['User-Agent'] for _, headers in server.asked} == {AGENT}


def fixtures(kind):
    path = Path(__file__).parents[2] / 'golden' / 'opt_outs.json'
    return json.loads(path.read_text())[kind]


@pytest.mark.parametrize('case', fixtures('sites'))
def test_what_a_site_forbids_is_never_asked(server, run, tmp_path, case):
    path, content = case['path'], case['content'].encode()
    server.pages |= {case['file']: (200, {}, content), path: 'x'}
    counts = run(path, agent=f'{case["agent"]}/2 (a@example.org)', respect=())
    assert counts == {case['refusal'] or 'written': 1}
    assert (path in server.paths()) is (case['refusal'] is None)


@pytest.mark.parametrize(
    ('robots', 'outcome'),
    [
        ((404, {}, b''), 'written'),
        ((403, {}, b''), 'written'),
        ((500, {}, b''), 'robots.txt: status 500'),
        ((503, {}, b''), 'robots.txt: status 503'),
        ((429, {}, b''), 'robots.txt: status 429'),
        ((301, {'Location': '/r2'}, b''), 'robots.txt'),  # /r2 forbids all
        ((302, {'Location': '/robots.txt'}, b''), 'robots.txt: redirects'),
        (
            lambda handler: handler.connection.close(),
            'robots.txt: connection (RemoteDisconnected)',
        ),
        ((200, {}, b'\xef\xbb\xbfUser-agent: *\r\nDisallow: /a'), 'robots.txt'),
        # Of the first 500 KiB every rule counts, and no rule after twice as much.
        ((200, {}, b'#' * 500_000 + b'\nUser-agent: *\nDisallow: /'), 'robots.txt'),
        ((200, {}, b'#' * 1_024_000 + b'\nUser-agent: *\nDisallow: /'), 'written'),
        ((200, {}, b'User-agent: CCBot\nDisallow: /'), 'robots.txt'),
        ((200, {}, b'User-agent: bot\nDisallow: /'), 'written'),  # another name
        ((200, {}, b'User-agent: *\nContent-Signal: ai-train=no'), 'content-usage'),
        ((200, {}, b'Content-Usage: train-ai=n\nUser-agent: *'), 'content-usage'),
        ((200, {}, b'User-agent: *\nContent-Signal: ai-train=yes'), 'written'),
    ],
)
def test_what_the_answer_for_robots_txt_means(server, run, robots, outcome):
    server.pages |= {'/robots.txt': robots, '/a': 'x'}
    server.pages['/r2'] = (200, {}, b'User-agent: *\nDisallow: /')
    assert run('/a') == {outcome: 1}
    assert ('/a' in server.paths()) is (outcome == 'written')


@pytest.mark.parametrize('case', fixtures('pages'))
def test_a_page_that_asks_to_be_left_out_is_not_written(server, run, tmp_path, case):
    headers = {'Content-Type': 'text/html', **case['headers']}
    server.pages['/a'] = (200, headers, case['html'].encode())
    assert run('/a') == {case['asked'] or 'written': 1}
    assert len(responses(tmp_path / 'pages.warc.gz')) == (case['asked'] is None)


def test_utf_16_and_gzip_are_looked_into(server, run):
    page = '<meta name=robots content=noai>'
    html = {'Content-Type': 'text/html'}
    server.pages |= {
        '/a': (200, html, page.encode('utf-16')),
        '/b': (200, html | {'Content-Encoding': 'gzip'}, gzip.compress(page.encode())),
        '/c': (200, html | {'Content-Encoding': 'gzip'}, gzip.compress(bytes(10**8))),
        '/d': (200, html | {'Content-Encoding': 'br'}, b'x'),  # cannot be looked at
    }
    counts = run('/a', '/b', '/c', '/d', most_bytes=10**6)
    assert counts == {'noai': 2, 'size': 1, 'content-encoding': 1}


def test_a_host_is_left_alone_between_requests(server, run):
    robots = b'User-agent: *\nCrawl-delay: 7\nUser-agent: CCBot\nRequest-rate: 2/60s'
    server.pages |= {'/robots.txt': (200, {}, robots), '/a': 'x', '/b': 'x'}
    run('/a', '/b')
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    # robots.txt, ai.txt, tdmrep.json at once, then the two pages.
    assert gaps == [0.0, 0.0, 30.0, 30.0]
    assert server.clock.slept == [30.0, 30.0]


def test_two_hosts_do_not_wait_for_each_other(server, run):
    server.pages |= {'/a': 'x', '/b': 'x'}
    other = f'http://localhost:{server.server_port}'
    run('/a', '/b', f'{other}/a', f'{other}/b', delay=10.0)
    assert server.clock.slept == [10.0, 10.0]
    assert server.paths()[-4:] == ['/a', '/a', '/b', '/b']


def test_a_host_that_asks_for_days_is_left(server, run):
    server.pages |= {'/robots.txt': 'User-agent: *\nCrawl-delay: 86400', '/a': 'x'}
    assert run('/a', '/b') == {'host asks to wait': 2}
    assert '/a' not in server.paths()


@pytest.mark.parametrize(('asked', 'wait'), [
    ('30', 30.0), (None, 2.0), ('soon', 2.0),
    ('Mon, 01 Jan 999999999 00:00:00 GMT', 2.0),
])  # fmt: skip
def test_429_is_tried_again_when_it_says(server, run, asked, wait):
    answers = [(429, {'Retry-After': asked} if asked else {}, b''), (200, {}, b'x')]
    server.pages['/a'] = lambda _: answers.pop(0)
    assert run('/a') == {'written': 1}
    assert server.times[-1] - server.times[-2] == wait


def test_503_with_a_date_and_without_end(server, run):
    date = time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime(START + 100))
    server.pages['/a'] = (503, {'Retry-After': date}, b'')
    assert run('/a') == {'status 503': 1}
    assert server.paths().count('/a') == 3
    server.pages['/b'] = (503, {'Retry-After': '86400'}, b'')
    server.asked.clear()
    assert run('/b', '/c') == {'status 503': 1, 'host asks to wait': 1}
    assert server.paths()[-1] == '/b', 'the host was asked no more'


def test_redirects_are_followed_where_they_are_allowed(server, run, tmp_path):
    def to(place):
        return (302, {'Location': place}, b'')

    server.pages |= {
        '/robots.txt': 'User-agent: *\nDisallow: /private',
        '/a': to('b#part'), '/b': 'x', '/c': to('/private/c'), '/private/c': 'x',
        '/loop': to('/loop'), '/ftp': to('ftp://127.0.0.1/'), '/none': (301, {}, b''),
        '/torn': to('http://[::1'),
    }  # fmt: skip
    counts = run('/a', '/c', '/loop', '/ftp', '/none', '/torn')
    assert counts == {'written': 1, 'robots.txt': 1, 'redirects': 4}
    assert '/private/c' not in server.paths()
    assert server.paths().count('/loop') == 6
    ((url, page),) = responses(tmp_path / 'pages.warc.gz').items()
    assert url == f'{server.root}/b'
    assert page[2].get_header(archive.ASKED) == f'{server.root}/a'


def test_private_addresses_are_not_asked(server, run):
    hosts = ['127.0.0.1', 'localhost', '[::1]', '[::ffff:127.0.0.1]', '0x7f000001']
    urls = [f'http://{host}:{server.server_port}/a' for host in hosts]
    assert run(*urls, private=False) == {'robots.txt: private address': 5}
    assert server.asked == []
    client = web.Client(AGENT, 1.0, 1.0, 1000, private=False)
    inside = (
        '10.0.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 [fd00::1] '
        '[::7f00:1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [::ffff:0:127.0.0.1] '
        '[2002:7f00:1::] [fec0::1] [fe80::1]'
    )
    for host in inside.split():
        with pytest.raises(web.Refused, match='private address'):
            client.get(f'http://{host}/', {})


def test_the_address_that_was_checked_is_asked(server, monkeypatch):
    """A name that is public once, and this machine the next time, and one of two."""
    named = ['93.184.215.14', '127.0.0.1', '127.0.0.1']
    tried = []

    def find(name, port, **_):
        return [(2, 1, 6, '', (named.pop(0), port))]

    def connect(address, timeout):
        tried.append(address[0])
        if address[0] != '127.0.0.1':
            raise ConnectionRefusedError
        made = socket.socket()
        made.connect(('127.0.0.1', server.server_port))
        return made

    monkeypatch.setattr(web.socket, 'getaddrinfo', find)
    monkeypatch.setattr(web.socket, 'create_connection', connect)
    client = web.Client(AGENT, 1.0, 1.0, 1000, private=False)
    for why in ('connection', 'private address'):
        with pytest.raises(web.Refused, match=why):
            client.get(f'http://example.org:{server.server_port}/', {})
    assert (tried, server.asked) == (['93.184.215.14'], [])
    both = [(10, 1, 6, '', ('2001:4860::1', 1)), (2, 1, 6, '', ('127.0.0.1', 1))]
    monkeypatch.setattr(web.socket, 'getaddrinfo', lambda *_, **__: both)
    client = web.Client(AGENT, 1.0, 1.0, 1000, private=True)
    assert client.get(f'http://example.org:{server.server_port}/', {}).status == 404
    assert tried[1:] == ['2001:4860::1', '127.0.0.1']


def test_a_redirect_to_this_machine_is_not_followed(server, run, monkeypatch):
    real = web._public
    monkeypatch.setattr(web, '_public', lambda a: a == '127.0.0.1' or real(a))
    server.pages['/a'] = (302, {'Location': 'http://10.0.0.1/secret'}, b'')
    assert run('/a', private=False) == {'robots.txt: private address': 1}


def test_what_is_no_address_of_the_web_is_counted(run):
    bad = ['ftp://a/b', 'file:///etc/passwd', '/// //x', 'http://', 'http://u:p@a/',
           'javascript://x', 'http://[::1', 'http://a:99999/',
           'http://a b/']  # fmt: skip
    assert run(*bad) == {'not an address': len(bad)}


def test_huge_bodies_and_short_ones(server, run):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(bytes(1 << 16))

    server.pages |= {
        '/said': (200, {'Content-Length': 10**12}, b''),
        '/endless': endless,
        '/short': (200, {'Content-Length': 500}, b'x'),
    }
    counts = run('/said', '/endless', '/short')
    assert counts == {'size': 2, 'incomplete': 1}


def test_chunks_are_stored_as_one_piece(server, run, tmp_path):
    def chunked(handler):
        handler.send_response(200)
        handler.send_header('Transfer-Encoding', 'chunked')
        handler.end_headers()
        handler.wfile.write(b'3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n')

    server.pages['/a'] = chunked
    assert run('/a') == {'written': 1}
    ((_, _, _, head, body),) = responses(tmp_path / 'pages.warc.gz').values()
    assert body == b'abcde'
    assert head.get_header('Content-Length') == '5'
    assert head.get_header('Transfer-Encoding') is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize('drip', [b'HTTP/1.1 200 OK\r\n', b'HTTP/1.1 200 OK\r\n\r\n'])
def test_a_slow_answer_is_cut_off(server, run, drip):
    stop = threading.Event()

    def slowly(handler):
        handler.close_connection = True
        handler.wfile.write(drip)
        try:
            while not stop.wait(0.02):
                handler.wfile.write(b'x')
        except OSError:
            pass

    server.pages['/a'] = slowly
    assert run('/a', seconds=0.3) == {'timeout': 1}
    stop.set()


def test_pages_that_did_not_change_are_kept(server, run, tmp_path):
    tag = {'ETag': '"1"', 'Last-Modified': 'Wed, 21 Oct 2015 07:28:00 GMT'}

    def page(handler):
        same = handler.headers['If-None-Match'] == '"1"'
        return (304, tag, b'') if same else (200, tag, b'old')

    server.pages |= {'/a': page, '/b': 'b', '/c': page}
    run('/a', '/b')
    first = responses(tmp_path / 'pages.warc.gz')
    server.pages['/b'] = 'new'
    server.clock.now += 10_000
    again = tmp_path / 'again.warc.gz'
    counts = run(
        '/a', '/b', '/c', previous=str(tmp_path / 'pages.warc.gz'), output=again
    )
    assert counts == {'not modified': 1, 'written': 2}
    second = responses(again)
    url = f'{server.root}/a'
    assert second[url][4] == b'old'
    date = second[url][2].get_header('WARC-Date')
    assert date == first[url][2].get_header('WARC-Date'), 'it was retrieved then'
    assert second[f'{server.root}/b'][4] == b'new'
    # A third visit can build on the second.
    third = tmp_path / 'third.warc.gz'
    assert run('/a', previous=str(again), output=third) == {'not modified': 1}


def test_a_page_that_now_asks_to_be_left_out_is_not_kept(server, run, tmp_path):
    server.pages['/a'] = (200, {'ETag': 'x'}, b'old')
    run('/a')
    server.pages['/a'] = (304, {'X-Robots-Tag': 'noai'}, b'')
    again = tmp_path / 'again.warc.gz'
    counts = run('/a', previous=str(tmp_path / 'pages.warc.gz'), output=again)
    assert counts == {'noai': 1}
    assert not responses(again)


def test_nothing_is_asked_twice(server, run, tmp_path):
    server.pages |= {'/a': 'a', '/n': '<meta name=robots content=noai>'}
    run('/a', '/n')
    server.asked.clear()
    server.pages['/b'] = 'b'
    counts = run('/a', '/n', '/a#x', '/b')
    assert counts == {'already there': 2, 'written': 1}
    assert [p for p in server.paths() if p in ('/a', '/n', '/b')] == ['/b']
    assert len(responses(tmp_path / 'pages.warc.gz')) == 2


def test_a_host_that_was_down_is_asked_again(server, run):
    server.pages |= {'/robots.txt': (503, {}, b''), '/a': 'a'}
    assert run('/a') == {'robots.txt: status 503': 1}
    server.pages['/robots.txt'] = 'User-agent: *\nDisallow: /b'
    assert run('/a') == {'written': 1}


def test_files_of_others_stay_as_they_are(run, tmp_path):
    file = tmp_path / 'theirs.warc.gz'
    record = b'WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n\r\n\r\n'
    for content in (gzip.compress(record), b'no gzip'):
        file.write_bytes(content)
        with pytest.raises(command.UserError, match='not written by this'):
            run('/a', output=file)
        assert file.read_bytes() == content


def test_a_name_with_digits_is_looked_for_whole(server, run):
    server.pages |= {'/robots.txt': 'User-agent: gpt4bot\nDisallow: /', '/a': 'a'}
    assert run('/a', agent='gpt4bot/1 (a@example.org)') == {'robots.txt': 1}


def test_a_path_that_looks_like_a_host_is_one_of_ai_txt_too(server, run):
    server.pages |= {'/ai.txt': 'User-agent: *\nDisallow: *.html', '//[x': 'x'}
    assert run('//[x') == {'not an address': 1}
    assert run(f'{server.root}//[x', f'{server.root}//a.org/b') == {'ai.txt': 2}


def test_a_killed_run_goes_on(server, run, tmp_path):
    """Cut anywhere, the file is read up to there, and a run makes it whole."""
    server.pages |= {'/a': 'a' * 50, '/b': 'b' * 50, '/n': (410, {}, b'')}
    run('/a', '/n', '/b')
    whole = tmp_path / 'pages.warc.gz'
    content = whole.read_bytes()
    partial = tmp_path / 'pages.warc.gz.partial'
    for size in [0, 1, *range(7, len(content), 211), len(content) - 1]:
        whole.unlink(missing_ok=True)
        partial.write_bytes(content[:size])
        done = list(archive.members(partial))
        assert all(member.end <= size for member in done)
        server.asked.clear()
        counts = run('/a', '/n', '/b')
        pages = responses(whole)
        assert [r[4] for r in pages.values()] == [b'a' * 50, b'b' * 50]
        assert counts['already there'] == 3 - len(
            set(server.paths()) & {'/a', '/n', '/b'}
        )
        assert not partial.exists()


def test_sitemaps(server, run):
    def map_of(*urls, name='urlset'):
        inside = ''.join(f'<url><loc> {url}</loc></url>' for url in urls)
        return f'<?xml version="1.0"?><{name} xmlns="x">{inside}</{name}>'.encode()

    root = server.root
    server.pages |= {
        '/robots.txt': 'User-agent: *\nDisallow: /no.xml',
        '/index.xml': (200, {}, map_of(
            *(f'{root}/{n}' for n in (
                '1.xml.gz', '2.txt', 'no.xml', 'index.xml', 'in.xml'
            )),
            name='sitemapindex',
        )),
        '/in.xml': (200, {}, map_of(f'{root}/deep.xml', name='sitemapindex')),
        '/1.xml.gz': (200, {}, gzip.compress(
            map_of(f'{root}/a?x=1&amp;y=2', f'<![CDATA[{root}/b]]>', 'http://other/c')
        )),
        '/2.txt': (200, {}, f'{root}/c\n{root}/a?x=1&y=2\n'.encode()),
        '/bomb.xml.gz': (200, {}, gzip.compress(bytes(60 * 2**20))),
        '/torn.xml.gz': (200, {}, gzip.compress(bytes(1000))[:-9]),
        '/a?x=1&y=2': 'a', '/b': 'b', '/c': 'c',
    }  # fmt: skip
    maps = [f'sitemap: {root}/{name}' for name in ('index.xml', 'bomb.xml.gz')]
    counts = run(*maps, f'Sitemap: {root}/torn.xml.gz', f'sitemap: {root}/gone.xml')
    assert counts == {
        'written': 3,
        'sitemap: address of another host': 1,
        'sitemap: robots.txt': 1,
        'sitemap: again': 1,
        'sitemap: too deep': 1,
        'sitemap: size': 1,
        'sitemap: broken gzip': 1,
        'sitemap: status 404': 1,
    }
    assert '/no.xml' not in server.paths()


def test_at_most_so_many(server, run):
    assert run(*(f'/{n}' for n in range(9)), most_urls=4) == {
        'status 404': 4, 'stopped at most_urls': 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'agent': 'bot'}, 'where to complain'),
        ({'agent': 'bot/1.0 (nice)'}, 'where to complain'),
        ({'urls': 'none.txt'}, 'a file of addresses'),
        ({'previous': 'none.warc.gz'}, 'a .warc.gz file'),
        ({'output': 'pages.txt'}, r'FILE\.warc\.gz'),
        ({'delay': -1.0}, 'delay needs'),
        ({'most_bytes': 0}, 'most_bytes'),
    ],
)
def test_wrong_options_say_what_to_change(run, options, message):
    with pytest.raises(command.UserError, match=message):
        run('/a', **options)


def test_one_process_writes_a_file(tmp_path):
    first = archive.Archive(tmp_path / 'a.warc.gz')
    with pytest.raises(command.UserError, match='another process'):
        archive.Archive(tmp_path / 'a.warc.gz')
    first.close()


def test_addresses_have_one_form():
    forms = {
        'HTTP://EXAMPLE.org:80/a b#c': 'http://example.org/a%20b',
        'https://example.org:443': 'https://example.org/',
        'https://bücher.example/ü?q=ü': 'https://xn--bcher-kva.example/%C3%BC?q=%C3%BC',
        'http://[::1]:8080/': 'http://[::1]:8080/',
        'http://a/%41?b=%2F': 'http://a/%41?b=%2F',
    }
    assert {given: web.normal(given) for given in forms} == forms
    assert parse.urlsplit(web.normal('http://a')).path == '/'
