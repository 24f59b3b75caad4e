"""Recorded pages, against what warcio finds and what stands in the files."""

import base64
import gzip
import hashlib
import logging
import zlib

import brotli
import pytest
from raw_files import PAGE, record, response
from warcio.archiveiterator import ArchiveIterator
import zstandard

from gptjax.data.origin import archive
from gptjax.data.read import packed

GOOD = [
    'example.warc', 'example.warc.gz', 'example.arc', 'example.arc.gz', 'warcfile.warc',
    'warcfile.warc.gz', 'clueweb-quirk.warc.gz', 'example-iana.org-chunked.warc',
    'example-wget-bad-target-uri.warc.gz', 'post-test.warc.gz', 'example-digest.warc',
    'example-space-in-url.arc', 'block-sized-records.warc',
]  # fmt: skip


def pages(path):
    """(URL, payload) of the HTML of status 200, as warcio reads it."""
    found = []
    with path.open('rb') as stream:
        for one in ArchiveIterator(stream, arc2warc=True):
            http = one.http_headers
            kind = http.get_header('content-type') if http else None
            if one.rec_type == 'response' and 'text/html' in (kind or ''):
                url = one.rec_headers.get_header('WARC-Target-URI')
                found.append((url, one.content_stream().read()))
    return found


@pytest.mark.parametrize('name', GOOD)
def test_good_files_give_what_warcio_finds(real_data, read, name):
    logging.getLogger('warcio').setLevel(logging.CRITICAL)
    path = real_data('warc') / name
    made, skipped = read(path)
    assert not skipped
    expected = pages(path)
    assert len(made) == len(expected)
    for document, (url, payload) in zip(made, expected, strict=True):
        assert document.url.replace(' ', '%20') == url
        assert document.media == 'text/html'
        encodings = ('utf-8-sig', 'gbk', 'cp1251', 'euc_jp', 'cp1252')
        texts = {payload.decode(encoding, 'replace') for encoding in encodings}
        assert document.text in texts


@pytest.mark.parametrize(
    ('name', 'documents', 'skipped'),
    [
        # Lengths -1, -1 and 'abc'; the record of length 1 is no response.
        ('bad.arc', 0, {(0, 'no length'), (134, 'no length'), (262, 'no length')}),
        # All records in one member of gzip, which warcio refuses.
        ('example-bad-non-chunked.warc.gz', 1, set()),
        ('example-bad.warc.gz.bad', 1, set()),
        # A page whose length and digest are those of another.
        (
            'example-trunc.warc',
            0,
            {(1197, 'wrong digest'), (2560, 'no record begins here')},
        ),
        # 'Transfer-Encoding: chunked' before a page without chunks.
        ('example-wrong-chunks.warc.gz', 1, set()),
        ('example-resource.warc.gz', 1, set()),
        # An image of a file: no page of the web.
        ('example-space-in-target-uri.warc.gz', 0, set()),
    ],
)
def test_broken_files_give_what_is_whole_in_them(
    real_data, read, name, documents, skipped
):
    made, bad = read(real_data('warc') / name)
    assert len(made) == documents
    assert {(one.offset, one.reason) for one in bad} == skipped


def test_where_a_page_comes_from_is_kept(tmp_path, read):
    (tmp_path / 'a.warc').write_bytes(
        response(WARC_Date='2026-01-02T05:04:05.5+02:00')
        + response(number=1, http='X-Robots-Tag: noai\r\n')
        + response(number=2, WARC_Date='2008-10-294T05:21:46-0700')
    )
    made, _ = read(tmp_path)
    assert [one.id for one in made] == [one.url for one in made]
    assert {one.source for one in made} == {f'{tmp_path.name}/site.test'}
    assert [one.url for one in made] == [f'http://site.test/{n}' for n in range(3)]
    times = [one.retrieved for one in made]
    assert times == ['2026-01-02T03:04:05Z'] * 2 + [None]
    assert [one.opt_out for one in made] == ['unknown', 'noai', 'unknown']


def test_the_same_records_in_other_files_are_the_same_documents(tmp_path, read):
    records = [response(number=n) for n in range(4)]
    folders = tmp_path / 'one' / 'x', tmp_path / 'two' / 'x'
    for folder in folders:
        folder.mkdir(parents=True)
    (folders[0] / 'all.warc').write_bytes(b''.join(records))
    (folders[1] / 'a.warc.gz').write_bytes(b''.join(map(gzip.compress, records[2:])))
    (folders[1] / 'b.warc').write_bytes(b''.join(records[:2]))
    one, two = ({d.id: d for d in read(folder)[0]} for folder in folders)
    assert one == two
    assert len(one) == 4


def test_statuses_and_media_that_are_no_pages_are_passed_over(tmp_path, read):
    image = record(
        'response', b'HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n\x89'
    )
    (tmp_path / 'a.warc').write_bytes(
        response(status='404 Not Found') + image + record('request', b'GET / HTTP/1.1')
    )
    assert read(tmp_path) == ([], [])


def chunked(data):
    return b'%x\r\n%s\r\n%x;ext\r\n%s\r\n0\r\n\r\n' % (
        9,
        data[:9],
        len(data) - 9,
        data[9:],
    )


@pytest.mark.parametrize(
    ('http', 'encode'),
    [
        ('Content-Encoding: gzip', gzip.compress),
        ('Content-Encoding: deflate', zlib.compress),
        ('Content-Encoding: deflate', lambda x: zlib.compress(x, wbits=-15)),
        ('Content-Encoding: br', brotli.compress),
        ('Content-Encoding: zstd', zstandard.compress),
        ('Content-Encoding: gzip', lambda x: x),  # it only says so
        ('Transfer-Encoding: chunked', chunked),
        ('Transfer-Encoding: chunked', lambda x: x),
        (
            'Transfer-Encoding: chunked\r\nContent-Encoding: gzip',
            lambda x: chunked(gzip.compress(x)),
        ),
    ],
)
def test_encodings_of_http_are_undone(tmp_path, read, http, encode):
    page = response(encode(PAGE.encode()), http=f'{http}\r\n')
    (tmp_path / 'a.warc').write_bytes(page)
    ((document,), skipped) = read(tmp_path)
    assert document.text == PAGE
    assert not skipped


@pytest.mark.parametrize('algorithm', ['sha1', 'sha256', 'md5'])
@pytest.mark.parametrize('form', ['hex', 'base32'])
def test_digests_are_verified(tmp_path, read, algorithm, form):
    digest = hashlib.new(algorithm, PAGE.encode()).digest()
    text = digest.hex() if form == 'hex' else base64.b32encode(digest).decode()
    headers = {'WARC_Payload_Digest': f'{algorithm}:{text}'}
    damaged = PAGE.replace('river', 'liver').encode()
    good, bad = response(**headers), response(damaged, 1, **headers)
    (tmp_path / 'a.warc').write_bytes(good + bad)
    made, skipped = read(tmp_path)
    assert [one.id for one in made] == ['http://site.test/0']
    assert [(one.reason, one.offset) for one in skipped] == [
        ('wrong digest', len(good))
    ]
    assert len(read(tmp_path, verify=False)[0]) == 2


def test_reading_goes_on_behind_what_is_broken(tmp_path, read):
    """Each damage costs its own record, in plain files and in gzipped ones."""
    records = [response(number=n) for n in range(6)]
    broken = list(records)
    broken[1] = b'rubbish\r\n' * 3
    broken[3] = records[3].replace(b'Content-Length: ', b'Content-Length: 9')
    (tmp_path / 'a.warc').write_bytes(b''.join(broken))
    made, skipped = read(tmp_path)
    assert [one.id[-1] for one in made] == ['0', '2', '4', '5']
    reasons = [one.reason for one in skipped]
    assert reasons == [
        'no record begins here',
        'its length goes past the next record',
    ]
    members = [gzip.compress(one) for one in records]
    members[2] = members[2][:40] + b'\xff' * 20 + members[2][60:]
    members[4] = members[4][:-30]
    (tmp_path / 'a.warc').write_bytes(b''.join(members))
    made, skipped = read(tmp_path)
    assert [one.id[-1] for one in made] == ['0', '1', '3', '5']
    offsets = [len(b''.join(members[:n])) for n in (2, 4)]
    assert [one.offset for one in skipped] == offsets


@pytest.mark.parametrize('pack', [bytes, gzip.compress])
def test_a_length_beyond_the_file_costs_one_record(tmp_path, read, pack):
    records = [response(number=n) for n in range(4)]
    records[1] = records[1].replace(b'Content-Length: ', b'Content-Length: 9999999')
    (tmp_path / 'a.warc').write_bytes(b''.join(map(pack, records)))
    made, skipped = read(tmp_path)
    assert [one.id[-1] for one in made] == ['0', '2', '3']
    (one,) = skipped
    assert one.reason == 'truncated, or of a wrong length'
    assert one.offset == len(pack(records[0]))


def test_a_page_that_the_fetcher_wrote_says_so(tmp_path, read):
    """It writes only what neither the site nor the page asks to be left out."""
    known = {archive.OPT_OUT.replace('-', '_'): 'none'}
    plain, asks = response(**known), response(number=1, http='TDM-Reservation: 1\r\n')
    (tmp_path / 'a.warc').write_bytes(plain + asks)
    made, _ = read(tmp_path)
    assert [one.opt_out for one in made] == ['none', 'tdmrep']


def test_a_file_that_seems_to_begin_again_everywhere_ends_soon(
    tmp_path, read, monkeypatch
):
    """Each of these headers has a name that ends nowhere."""
    monkeypatch.setattr(packed, '_AGAIN', 1 << 20)
    (tmp_path / 'a.warc').write_bytes(response() + b'\x1f\x8b\x08' * 20_000)
    (tmp_path / 'b.warc.gz').write_bytes(b'\x1f\x8b\x08' * 20_000)
    made, skipped = read(tmp_path)
    assert (len(made), len(skipped)) == (1, 20)
    assert skipped[-1].reason == 'too much damage'


def test_a_bomb_in_a_member_is_left(tmp_path, read):
    bomb = gzip.compress(response(b'<html>' + b' ' * (20 << 20)))
    (tmp_path / 'a.warc.gz').write_bytes(bomb + gzip.compress(response(number=1)))
    made, skipped = read(tmp_path)
    assert [one.id for one in made] == ['http://site.test/1']
    assert [(one.reason, one.offset) for one in skipped] == [('bomb', 0)]
