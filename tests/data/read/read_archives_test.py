"""What is made to harm: bombs, ways out of the folder, damage of every kind."""

import gzip
import io
import os
import random
import stat
import tarfile
import zipfile

import pytest
import raw_files

from gptjax.data import documents
from gptjax.data.read import files, table

OPTIONS = dict(licence='MIT', kind='text', books='whole', verify=True)


def reasons(skipped):
    return {one.source.partition('/')[2]: one.reason for one in skipped}


def test_members_that_lead_out_of_a_zip(tmp_path, read):
    link = zipfile.ZipInfo('link.txt')
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        for name in ('ok.txt', '../up.txt', '/root.txt', 'a/../../b.txt', 'C:\\c.txt'):
            archive.writestr(name, 'Text.')
        archive.writestr(link, '/etc/passwd')
        archive.writestr('folder/', '')
    made, skipped = read(tmp_path)
    assert [one.id.partition('/')[2] for one in made] == ['a.zip/ok.txt']
    out = 'path out of the archive'
    assert reasons(skipped) == {
        'a.zip/../up.txt': out,
        'a.zip//root.txt': out,
        'a.zip/a/../../b.txt': out,
        'a.zip/C:\\c.txt': out,
        'a.zip/link.txt': 'no regular file',
    }


def test_members_of_a_tar_that_are_no_files(tmp_path, read):
    kinds = {
        'soft.txt': tarfile.SYMTYPE,
        'hard.txt': tarfile.LNKTYPE,
        'device.txt': tarfile.CHRTYPE,
        'pipe.txt': tarfile.FIFOTYPE,
    }
    with tarfile.open(tmp_path / 'a.tar', 'w') as archive:
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, '/etc/passwd'
            archive.addfile(info)
        for name in ('../up.txt', 'ok.txt'):
            info = tarfile.TarInfo(name)
            info.size = 5
            archive.addfile(info, io.BytesIO(b'Text.'))
    made, skipped = read(tmp_path)
    assert [one.text for one in made] == ['Text.']
    expected = {f'a.tar/{name}': 'no regular file' for name in kinds}
    assert reasons(skipped) == {
        **expected,
        'a.tar/../up.txt': 'path out of the archive',
    }


def test_encrypted_members_are_named(tmp_path, read):
    data = bytearray(raw_files.zipped({'a.txt': b'Text.'}))
    for mark, place in ((b'PK\3\4', 6), (b'PK\1\2', 8)):  # the flag, in both headers
        data[data.index(mark) + place] |= 1
    (tmp_path / 'a.zip').write_bytes(data)
    made, skipped = read(tmp_path)
    assert not made
    assert reasons(skipped) == {'a.zip/a.txt': 'encrypted'}


def test_archives_nest_once(tmp_path, read):
    inner = raw_files.zipped({'deep.txt': b'Text.'})
    middle = raw_files.tarred({'in.zip': inner, 'b.txt': b'Middle.'}, 'w:gz')
    (tmp_path / 'a.zip').write_bytes(raw_files.zipped({'m.tar.gz': middle}))
    made, skipped = read(tmp_path)
    assert [one.text for one in made] == ['Middle.']
    reason = 'an archive in an archive in an archive'
    assert reasons(skipped) == {'a.zip/m.tar.gz/in.zip': reason}


@pytest.mark.parametrize('end', ['header', 'cut header', 'cut data', 'no end'])
def test_a_broken_tar_gives_what_is_before_and_says_so(tmp_path, read, end):
    """tarfile takes a broken header for the end of the archive."""
    data = raw_files.tarred({f'{n}.txt': b'Text.' for n in range(4)})
    damaged = {
        'header': data[:2058] + b'\xff\xff' + data[2060:],
        'cut header': data[:2100],
        'cut data': data[:2562],
        'no end': data[:2048],
    }
    (tmp_path / 'a.tar').write_bytes(damaged[end])
    made, skipped = read(tmp_path)
    assert {f'{n}.txt' for n in (0, 1)} <= {one.id[-5:] for one in made}
    assert {one.reason for one in skipped} & {'broken or truncated .tar'} or (
        end == 'cut data' and skipped
    )


def test_the_nearest_licence_of_an_archive_is_its_own(tmp_path, read):
    mit, gpl = (f'SPDX-License-Identifier: {x}\n' for x in ('MIT', 'GPL-3.0-only'))
    (tmp_path / 'LICENSE').write_text(mit)
    members = {'a.txt': b'Text.' * 999, 'LICENSE': gpl.encode()}
    (tmp_path / 'a.zip').write_bytes(raw_files.zipped(members))
    tar = raw_files.tarred(members)
    (tmp_path / 'b.tar').write_bytes(tar)
    (tmp_path / 'c.tar').write_bytes(tar[:5632])  # without what is behind the text
    made, skipped = read(tmp_path, licence='unknown')
    assert [one.licence for one in made] == ['GPL-3.0-only'] * 2 + ['unknown']
    assert len(skipped) == 1
    assert {one.licence for one in read(tmp_path)[0]} == {'CC0-1.0'}


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path, read, monkeypatch):
    (tmp_path / 'a.txt').write_text('Text.')
    (tmp_path / 'closed').mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith('closed'):
            raise PermissionError(13, 'closed', str(path))
        return real(path)

    monkeypatch.setattr(os, 'scandir', scandir)
    made, skipped = read(tmp_path)
    assert len(made) == 1
    assert reasons(skipped) == {'closed': 'a folder that cannot be listed'}


BLANK = b' ' * (20 << 20)


@pytest.mark.parametrize(
    ('name', 'data', 'reason'),
    [
        ('a.zip', lambda: raw_files.zipped({'a.txt': BLANK}), 'bomb'),
        ('a.jsonl.gz', lambda: gzip.compress(BLANK), 'bomb'),
        ('a.tar.gz', lambda: gzip.compress(raw_files.tarred({'a.txt': BLANK})), 'bomb'),
        (
            'b.zip',  # it lies about the size
            lambda: raw_files.zipped({'a.txt': BLANK}).replace(
                len(BLANK).to_bytes(4, 'little'), (99).to_bytes(4, 'little')
            ),
            'broken (BadZipFile)',
        ),
    ],
)
def test_bombs_do_not_go_off(tmp_path, read, name, data, reason):
    (tmp_path / name).write_bytes(data())
    made, skipped = read(tmp_path)
    assert not made
    assert {one.reason for one in skipped} <= {reason, 'empty'}
    assert skipped


def test_a_truncated_gzip_gives_the_lines_before(tmp_path, read):
    noise = random.Random(0).randbytes(200_000).hex()
    lines = [f'{{"text": "{noise[i : i + 4000]}"}}' for i in range(0, 400_000, 4000)]
    data = gzip.compress('\n'.join(lines).encode())
    (tmp_path / 'a.jsonl.gz').write_bytes(data[: len(data) // 2])
    made, skipped = read(tmp_path)
    assert 30 < len(made) < 55
    assert [one.reason for one in skipped] == ['broken or truncated .gz']
    assert skipped[0].offset is not None


def test_links_out_of_the_folder_are_not_followed(tmp_path, read):
    outside = tmp_path / 'outside'
    outside.mkdir()
    (outside / 'secret.txt').write_text('Secret.')
    folder = tmp_path / 'raw'
    folder.mkdir()
    (folder / 'a.txt').write_text('Text.')
    (folder / 'to_file.txt').symlink_to(outside / 'secret.txt')
    (folder / 'to_folder').symlink_to(outside)
    (folder / 'inside.txt').symlink_to(folder / 'a.txt')
    (folder / 'loop').symlink_to(folder)
    (folder / 'gone.txt').symlink_to(tmp_path / 'nowhere')
    (folder / 'lost.txt').symlink_to(folder / 'nowhere')
    os.mkfifo(folder / 'pipe.txt')
    made, skipped = read(folder)
    assert [one.text for one in made] == ['Text.']
    out = 'link out of the folder'
    assert reasons(skipped) == {
        'gone.txt': out,
        'lost.txt': 'no regular file',
        'pipe.txt': 'no regular file',
        'to_file.txt': out,
        'to_folder': out,
    }


def test_a_name_that_is_no_text_is_reported(tmp_path, read):
    (tmp_path / 'a.txt').write_text('Text.')
    with open(os.fsencode(tmp_path) + b'/\xff.txt', 'w') as file:
        file.write('Text.')
    made, skipped = read(tmp_path)
    assert len(made) == 1
    assert reasons(skipped) == {r'\xff.txt': 'no regular file'}


def test_what_breaks_a_library_is_reported(tmp_path, read, monkeypatch):
    def broken(item):
        yield item.document(item.name, text='before')
        raise RecursionError

    monkeypatch.setitem(table.FORMATS['text'], '.md', broken)
    (tmp_path / 'a.md').write_text('Text.')
    made, skipped = read(tmp_path)
    assert [one.text for one in made] == ['before']
    assert [one.reason for one in skipped] == ['broken (RecursionError)']


def mutations(data, random):
    """Truncated, with bytes changed, with a piece left out, doubled and zeroed."""
    at, to = sorted(random.choices(range(len(data) + 1), k=2))
    yield data[:at]
    yield data[:at] + data[to:]
    yield data[:to] + data[at:to] + data[to:]
    yield data[:at] + bytes(to - at) + data[to:]
    for share in (1, 10):
        changed = bytearray(data)
        for _ in range(share):
            changed[random.randrange(len(data))] = random.randrange(256)
        yield bytes(changed)


@pytest.mark.parametrize('name', sorted(raw_files.every_format()))
def test_damaged_files_never_raise(tmp_path, name):
    generator = random.Random(name)
    data, path = raw_files.every_format()[name], tmp_path / name
    kinds = ('text', 'chat') if name.endswith(('.jsonl', '.parquet')) else ('text',)
    for _ in range(2 if name == 'a.pdf' else 5):
        for damaged in mutations(data, generator):
            path.write_bytes(damaged)
            for kind in kinds:
                reader = files.files(str(path), **{**OPTIONS, 'kind': kind})
                for found in reader.read(name):
                    assert isinstance(found, documents.Document | documents.Skipped)
                    if isinstance(found, documents.Skipped):
                        # A mistake of ours would be one of these.
                        ours = ('TypeError', 'AttributeError', 'NameError', 'Beartype')
                        own = [x for x in ours if x in found.reason]
                        assert not own or name == 'a.pdf', (found, damaged)
