"""Records come back sorted, whatever has to go by disk."""

import random
import resource

import pytest

from gptjax import command
from gptjax.data.refine import spill


@pytest.mark.parametrize(('memory', 'count'), [(1 << 20, 500), (2000, 500), (400, 900)])
def test_records_come_back_sorted(tmp_path, memory, count):
    rng = random.Random(0)
    given = [
        (rng.randbytes(2 + rng.randrange(3)), rng.randbytes(rng.randrange(9)))
        for _ in range(count)
    ]
    given += given[:7]
    sorter = spill.Sorter(tmp_path / 'x', memory)
    for record in given:
        sorter.add(*record)
    runs = len(list(tmp_path.iterdir()))
    assert list(sorter) == list(sorter) == sorted(given)
    sorter.close()
    assert not list(tmp_path.iterdir())
    assert (runs > 0) == (memory < 1 << 20)


def test_a_bucket_is_a_range_of_a_file(tmp_path):
    records = [(bytes([0, b, k]), bytes(k)) for b in (0, 3, 200) for k in range(4)]
    records.append((b'\x01\x02', b''))
    parts = spill.write(tmp_path / 'x', iter(records))
    assert [part for part, _, _ in parts] == [0, 3, 200, 258]
    found = [list(spill.read(tmp_path / 'x', a, b)) for _, a, b in parts]
    assert found == [records[:4], records[4:8], records[8:12], records[12:]]
    size = (tmp_path / 'x').stat().st_size
    assert parts[-1][2] == size
    with (tmp_path / 'x').open('ab') as file:
        file.truncate(size - 1)
    with pytest.raises(command.UserError, match='was damaged after it was written'):
        list(spill.read(tmp_path / 'x', *parts[-1][1:]))


def test_records_are_longer_and_shorter_than_a_block(tmp_path):
    sizes = (0, 1, spill._BUFFER - 9, spill._BUFFER, 5 * spill._BUFFER, 3)
    records = [(bytes([0, 0, n]), bytes([n]) * size) for n, size in enumerate(sizes)]
    ((_, begin, end),) = spill.write(tmp_path / 'x', iter(records))
    assert list(spill.read(tmp_path / 'x', begin, end)) == records


def test_more_files_are_merged_than_may_be_open(tmp_path):
    records = [(n.to_bytes(4, 'big'), b'') for n in range(300)]
    for number, record in enumerate(records):
        spill.write(tmp_path / str(number), [record])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, limits[1]))
    try:
        found = [spill.read(tmp_path / str(n), 0, 12) for n in range(300)]
        assert list(spill.merge(found)) == records
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
