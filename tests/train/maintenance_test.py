"""Notices of Google's metadata server, here one of our own."""

import http.server
import threading

import pytest
import tiny_config

from gptjax.train import build, checkpoint, loop, maintenance, stop


@pytest.fixture
def machine(monkeypatch):
    """What the metadata server says, by name; and the requests that it refused."""
    said = {'preempted': 'FALSE', 'maintenance-event': 'NONE', 'refused': []}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            base, _, name = self.path.rpartition('/')
            named = self.headers['Metadata-Flavor'] == 'Google'
            fine = named and base == '/computeMetadata/v1/instance' and name in said
            if not fine:
                said['refused'].append(self.path)
            self.send_response(200 if fine else 403)
            self.end_headers()
            self.wfile.write(said[name].encode() if fine else b'no')

        def log_message(self, *_):
            pass

    monkeypatch.setattr(maintenance, '_EVERY', 0.01)
    monkeypatch.setenv('http_proxy', 'http://127.0.0.1:9')  # not for this machine
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        monkeypatch.setenv('GCE_METADATA_HOST', f'127.0.0.1:{server.server_port}')
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield said
        server.shutdown()
        thread.join()
    assert said['refused'] == []


@pytest.mark.parametrize(
    ('name', 'value', 'asks'),
    [
        ('preempted', 'TRUE', True),
        ('maintenance-event', 'TERMINATE_ON_HOST_MAINTENANCE', True),
        ('maintenance-event', 'MIGRATE_ON_HOST_MAINTENANCE', False),
    ],
)
def test_a_notice_asks_once(machine, capsys, name, value, asks):
    """Fails if either name is not read, or if a pause counts as an end."""
    asked, event = [], threading.Event()

    def ask(why):
        asked.append(why)
        event.set()

    with maintenance.watching('gce', ask):
        assert not event.wait(0.05)
        machine[name] = value
        event.wait(5 if asks else 0.1)
    assert asked == [f'maintenance notice ({name} is {value})'] * asks
    assert capsys.readouterr().err == ''


def test_a_machine_without_notices_is_told_of_once(monkeypatch, capsys):
    """Fails if a missing server ends or floods a run; and without a kind, none asks."""
    monkeypatch.setattr(maintenance, '_EVERY', 0.001)
    monkeypatch.setenv('GCE_METADATA_HOST', '127.0.0.1:9')
    tried, real = threading.Semaphore(0), maintenance._get

    def get(address):
        tried.release()
        return real(address)

    monkeypatch.setattr(maintenance, '_get', get)
    for kind in (None, 'gce'):
        with maintenance.watching(kind, print):
            for _ in range(9):
                assert tried.acquire(timeout=5 if kind else 0.01) == bool(kind)
    told = capsys.readouterr()
    assert told.out == ''
    assert told.err.count('\n') == 1
    assert 'run.maintenance: 127.0.0.1:9 does not answer' in told.err


def test_a_notice_stops_a_run_which_saves(machine, tmp_path, monkeypatch):
    """Fails if the loop does not watch."""
    real = loop._Loop._dispatch

    def dispatch(self, *batch):
        real(self, *batch)
        if self.step == 3:
            machine['preempted'] = 'TRUE'
            while not self.stop._asked:
                pass

    monkeypatch.setattr(loop._Loop, '_dispatch', dispatch)
    config = tiny_config.get_config()
    (tmp_path / 'text.txt').write_text(tiny_config.text())
    config.data.path, config.run.maintenance = str(tmp_path / 'text.txt'), 'gce'
    assert not loop.train(build.build(config, tmp_path / 'run'))
    assert checkpoint.Checkpoints(tmp_path / 'run', keep=1).newest()['step'] == 3


def test_a_signal_after_a_notice_is_the_same_request(capsys):
    """Fails if it is said or done twice: SIGTERM follows, and may not end a save."""
    one = stop.Stop()
    one.idle = False
    for why in ('maintenance notice', 'SIGTERM'):
        one.ask(why)
    assert one.agreed()
    told = capsys.readouterr().err
    assert told == 'maintenance notice: saving; once more ends at once\n'
