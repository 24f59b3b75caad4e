"""Records come back sorted, whatever has to go by disk."""

import random

import pytest

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
    assert runs < 64  # the last case makes more than that, and merges them
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
    with pytest.raises(OSError, match='ends within the record'):
        list(spill.read(tmp_path / 'x', *parts[-1][1:]))
