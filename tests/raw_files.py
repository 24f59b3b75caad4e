"""Small files of every format: what the tests of the readers read."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

PAGE = (
    '<html><head><title>A river</title></head><body><nav><a href="/">Home</a></nav>'
    '<article><h1>The river</h1>'
    + ''.join(
        f'<p>Paragraph {n} tells how the river ran down from the hills to the sea, '
        f'past {n} villages and their old stone bridges, in every season.</p>'
        for n in range(1, 6)
    )
    + '</article><footer>Imprint</footer></body></html>'
)


def zipped(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def tarred(members, mode='w'):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def record(kind, body, **headers):
    """A WARC record; names of headers with _ for -."""
    lines = [f'WARC/1.0\r\nWARC-Type: {kind}']
    lines += [f'{name.replace("_", "-")}: {value}' for name, value in headers.items()]
    lines.append(f'Content-Length: {len(body)}\r\n\r\n')
    return '\r\n'.join(lines).encode() + body + b'\r\n\r\n'


def response(page=None, number=0, http='', status='200 OK', **headers):
    page = PAGE.encode() if page is None else page
    body = f'HTTP/1.1 {status}\r\nContent-Type: text/html\r\n{http}\r\n'.encode() + page
    known = {
        'WARC_Record_ID': f'<urn:test:{number}>',
        'WARC_Target_URI': f'http://site.test/{number}',
        'WARC_Date': '2026-01-02T03:04:05Z',
    }
    return record('response', body, **{**known, **headers})


OPF = """<package xmlns="http://www.idpf.org/2007/opf"
 xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>
<dc:rights>{rights}</dc:rights><dc:language>en-GB</dc:language></metadata>
<manifest><item id="a" href="text/a.xhtml"/>
<item id="b" href="text/b.xhtml"/></manifest>
<spine><itemref idref="b"/><itemref idref="a"/></spine></package>"""


def book(rights='SPDX-License-Identifier: CC0-1.0'):
    def chapter(title):
        return (
            '<html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body>'
            f'<h2>{title}</h2><span id="page"/><p>It began &amp; ended.</p>'
            '</body></html>'
        ).encode()

    return {
        'src/epub/content.opf': OPF.format(rights=rights).encode(),
        'src/epub/text/a.xhtml': chapter('Second'),
        'src/epub/text/b.xhtml': chapter('First'),
    }


WIKI = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">
<siteinfo><dbname>xwiki</dbname><base>https://x.wiki.test/wiki/Main_Page</base>
<namespaces><namespace key="6">Datei</namespace></namespaces></siteinfo>
<page><title>The river</title><ns>0</ns><id>7</id><revision><id>1</id>
<text>{text}</text></revision></page>
<page><title>Talk:River</title><ns>1</ns><id>8</id><revision><text>no</text></revision>
</page><page><title>Stream</title><ns>0</ns><id>9</id><redirect title="The river"/>
<revision><text>#REDIRECT [[The river]]</text></revision></page></mediawiki>"""


def pdf(text='Hello river'):
    """A PDF of one page, as small as can be."""
    stream = f'BT /F1 12 Tf 20 100 Td ({text}) Tj ET'.encode()
    objects = [
        b'<</Type/Catalog/Pages 2 0 R>>',
        b'<</Type/Pages/Kids[3 0 R]/Count 1>>',
        b'<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R'
        b'/Resources<</Font<</F1 5 0 R>>>>>>',
        b'<</Length %d>>stream\n%s\nendstream' % (len(stream), stream),
        b'<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>',
    ]
    out, places = b'%PDF-1.4\n', []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b'%d 0 obj%s endobj\n' % (number, body)
    table = b''.join(b'%010d 00000 n \n' % place for place in places)
    head = b'xref\n0 %d\n0000000000 65535 f \n' % (len(objects) + 1)
    tail = b'trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF'
    return out + head + table + tail % (len(objects) + 1, len(out))


def parquet(rows):
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def every_format():
    """{name: bytes}: a good file of each format, each of which has a document."""
    lines = b'\n'.join(json.dumps({'text': f'Line {n}.'}).encode() for n in range(5))
    pages = [response(number=n) for n in range(3)]
    return {
        'a.txt': b'A text.',
        'a.md': b'# A title',
        'a.html': PAGE.encode(),
        'a.jsonl': lines,
        'a.json': json.dumps([{'text': 'One.'}, {'text': 'Two.'}]).encode(),
        'a.jsonl.gz': gzip.compress(lines),
        'a.jsonl.bz2': bz2.compress(lines),
        'a.jsonl.xz': lzma.compress(lines),
        'a.jsonl.zst': zstandard.compress(lines),
        'a.parquet': parquet([{'text': 'A row.'}]),
        'a.warc': b''.join(pages),
        'a.warc.gz': b''.join(map(gzip.compress, pages)),
        'a.arc': b'http://a.test/ 1.2.3.4 20140216050221 text/html %d\n' % 25
        + b'HTTP/1.1 200 OK\n\n<html>A\n',
        'a.wet': record('conversion', b'Text.', Content_Type='text/plain'),
        'a.epub': zipped(book()),
        'a.pdf': pdf(),
        'a.xml': WIKI.format(text='It runs.').encode(),
        'a.xml.bz2': bz2.compress(WIKI.format(text='It runs.').encode()),
        'a.zip': zipped({'b.txt': b'Text.', 'c.jsonl': lines}),
        'a.tar.gz': tarred({'b.txt': b'Text.', 'c.jsonl': lines}, 'w:gz'),
        'a.tar': tarred({'b.txt': b'Text.', 'd.zip': zipped({'e.txt': b'Deep.'})}),
    }
