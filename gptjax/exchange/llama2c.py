"""Models of llama2.c (Karpathy, 2023): one `.bin` file, a header and float32 arrays.

    version 0   7 integers, then the arrays by kind, those of all layers together, and
                two tables of rotary positions that its reader skips; run.c reads it
    version 1   the magic number 'ak42', a version, the same integers, one byte for a
                shared classifier, zeros up to byte 256, then the arrays, no tables

Version 2 holds 8-bit weights and is refused. Rows of wq and wk come in interleaved
pairs (0, 1), (2, 3).. of each head, where ours are halves: (0, H/2), (1, H/2 + 1)..
"""

from collections.abc import Iterator
import dataclasses
import os
from pathlib import Path
import struct
from typing import Any, BinaryIO

import numpy as np

from gptjax import command, core
from gptjax import sharding as sharding_lib
from gptjax.exchange import fixed, tables
from gptjax.model import config as model_config
from gptjax.text import llama2c as words
from gptjax.text import spm
from gptjax.text import tokenizer as text_tokenizer

Entry = tables.Entry
FLOAT = np.dtype('<f4')
INTEGERS = struct.Struct('<7i')  # D, F, L, N, K, V, T
MAGIC = 0x616B3432
HEADER_1 = 256  # bytes of the header of version 1
EPS, BASE = 1e-5, 10_000.0  # constants of run.c

TABLE = (
    Entry('tok_embeddings.weight', ('tokens',), 'V D', 'V D'),
    Entry(
        'layers.{l}.attention_norm.weight', ('blocks/attention_norm/scale',), 'D', 'D'
    ),
    Entry(
        'layers.{l}.attention.wq.weight',
        ('blocks/attention/query',),
        '(N h 2) D',
        'D N (2 h)',
    ),
    Entry(
        'layers.{l}.attention.wk.weight',
        ('blocks/attention/key',),
        '(K h 2) D',
        'D K (2 h)',
    ),
    Entry(
        'layers.{l}.attention.wv.weight',
        ('blocks/attention/value',),
        '(K H) D',
        'D K H',
    ),
    Entry(
        'layers.{l}.attention.wo.weight', ('blocks/attention/out',), 'D (N H)', 'N H D'
    ),
    Entry('layers.{l}.ffn_norm.weight', ('blocks/mlp_norm/scale',), 'D', 'D'),
    Entry('layers.{l}.feed_forward.w1.weight', ('blocks/mlp/gate',), 'F D', 'D F'),
    Entry('layers.{l}.feed_forward.w2.weight', ('blocks/mlp/down',), 'D F', 'F D'),
    Entry('layers.{l}.feed_forward.w3.weight', ('blocks/mlp/up',), 'F D', 'D F'),
    Entry('norm.weight', ('norm/scale',), 'D', 'D'),
    Entry('output.weight', ('head/unembed',), 'V D', 'V D'),
)
COSINES, SINES = 'freqs_cos', 'freqs_sin'  # version 0: (T, H / 2), in front of output

FIXED = fixed.LLAMA | {
    'attention_bias': ('none',),
    'experts': (None,),
    'mlp_bias': (False,),
    'norms.eps': (EPS,),
    'norms.query_key': (False,),
    'positions.base': (BASE,),
    'positions.scaling': ('none',),
}


def entries(arch: model_config.Architecture) -> list[Entry]:
    """The table of such a model: without a classifier where it is the embedding."""
    return [e for e in TABLE if not (arch.head.tied and e.paths == ('head/unembed',))]


class File:
    """The arrays of a file as a `tables.Source`: parts of one memory map."""

    def __init__(self, path: Path, places: dict[str, 'Place']) -> None:
        self._data = np.memmap(path, np.uint8, 'r')
        self._places = places
        self.shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            name: (place.shape, FLOAT)
            for name, place in places.items()
            if name not in (COSINES, SINES)
        }

    def read(self, name: str) -> np.ndarray:
        place = self._places[name]
        part = self._data[place.offset : place.offset + place.size]
        return np.asarray(part).view(FLOAT).reshape(place.shape)


def read(
    path: str | os.PathLike[str],
) -> tuple[model_config.Architecture, list[Entry], File]:
    """What `tables.load` takes: architecture, table and source of a file.

    Raises UserError, before any array is read, unless the header describes a Llama and
    the file has exactly the bytes of one; then, unless version 0's tables of rotary
    positions are those of base 10,000, which run.c would rotate by in any case.
    """
    path = Path(path)
    size, head = _beginning(path)
    version, start = _version(path, head)
    integers = INTEGERS.unpack_from(head, 8 if version else 0)
    tied = integers[5] > 0 if version == 0 else bool(head[36])
    arch = _architecture(path, integers, tied, signed=version == 0)
    needed = start + FLOAT.itemsize * _count(arch, version)
    if size != needed:
        difference = (
            f'{abs(size - needed)} bytes {"fewer" if size < needed else "more"}'
        )
        raise command.UserError(
            f'{path} has {size} bytes, and a version {version} file with D, F, L, N, '
            f'K, V, T = {", ".join(map(str, integers))} has {needed}: these are '
            f'{difference}, so it is damaged or of another kind; get it again.'
        )
    source = File(path, places(arch, version))
    if version == 0:
        _check_rotary(path, arch, source)
    return arch, entries(arch), source


def load(
    path: str | os.PathLike[str], sharding: sharding_lib.Sharding | None = None
) -> tuple[model_config.Architecture, core.Params]:
    """The model of a file, each device reading its own part; raises as `read`."""
    arch, table, source = read(path)
    return arch, tables.load(arch, table, source, tables.leaves(arch, sharding))


def tokenizer(path: str | os.PathLike[str], V: int) -> text_tokenizer.Tokenizer:
    """The tokenizer beside a model with V rows: `tokV.bin`, `tokenizer.bin`, a .model.

    Raises UserError where there is none, or one of another size.
    """
    folder = Path(path).parent
    names = [f'tok{V}.bin', words.FILE, spm.MODEL, f'tok{V}.model']
    found = next((name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise command.UserError(
            f'{folder} has none of {", ".join(names)}; put the tokenizer of '
            f'{Path(path).name} beside it.'
        )
    kind = words.Llama2C if found.endswith('.bin') else spm.SPM
    made = kind.make(lambda: (), path=folder / found)
    if made.vocab_size != V:
        raise command.UserError(
            f'{folder / found} has {made.vocab_size} ids, and {path} {V}; put the '
            'tokenizer that it was trained with beside it.'
        )
    return made


def save(
    arch: model_config.Architecture,
    params: core.Params,
    path: str | os.PathLike[str],
    version: int = 0,
) -> None:
    """Writes a file, one array at a time; it appears whole or not at all.

    What `read` gives for it is equal bit for bit. Raises UserError for a model with
    settings that llama2.c has no place for, and for a version other than 0 and 1.
    """
    if version not in (0, 1):
        raise command.UserError(
            f'version {version} of llama2.c files is not written; take 0, which run.c '
            'reads, or 1.'
        )
    numbers = {'H': (arch.D // arch.N,), 'windows': ((0,) * len(arch.windows),)}
    fixed.check(arch, FIXED | numbers, 'llama2.c')
    where = places(arch, version)
    with text_tokenizer.whole(Path(path)) as unfinished, unfinished.open('wb') as file:
        file.write(_header(arch, version))
        for name, array in tables.dump(arch, entries(arch), params):
            _put(file, where[name], array)
        if version == 0:
            for name, array in zip((COSINES, SINES), rotary(arch), strict=True):
                _put(file, where[name], array)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an array lies: its first byte, and its shape."""

    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return FLOAT.itemsize * int(np.prod(self.shape, dtype=np.int64))


def places(arch: model_config.Architecture, version: int) -> dict[str, Place]:
    """The place of every array of a file."""
    found: dict[str, Place] = {}
    offset = HEADER_1 if version else INTEGERS.size
    for name, shape in _ordered(arch, version):
        found[name] = Place(offset, shape)
        offset += found[name].size
    return found


def rotary(arch: model_config.Architecture) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of t / base^(2i/H), float32 [T, H/2], as version 0 has them.

    Angles are rounded to float32, and then each value to the nearest: the exporter of
    llama2.c takes torch's, which differ by one unit in the last place in 5 % of them.
    """
    powers = np.arange(0, arch.H, 2, dtype=np.float32) / np.float32(arch.H)
    frequencies = np.float32(1) / np.float32(BASE) ** powers
    angles = np.outer(np.arange(arch.T, dtype=np.float32), frequencies)
    exact = angles.astype(np.float64)
    return np.cos(exact).astype(FLOAT), np.sin(exact).astype(FLOAT)


def _beginning(path: Path) -> tuple[int, bytes]:
    """The size of a file and as many of its bytes as a header may have."""
    try:
        with path.open('rb') as file:
            return os.fstat(file.fileno()).st_size, file.read(HEADER_1)
    except OSError as error:
        raise command.UserError(
            f'{path} cannot be read ({error.strerror}); it needs to be a .bin file of '
            'llama2.c.'
        ) from error


def _version(path: Path, head: bytes) -> tuple[int, int]:
    """The version of a file, and where its arrays begin."""
    if len(head) < INTEGERS.size:
        raise command.UserError(
            f'{path} has {len(head)} bytes, and the header alone of a llama2.c file '
            f'has {INTEGERS.size}; get it again.'
        )
    magic, version = struct.unpack_from('<Ii', head)
    if magic != MAGIC:
        return 0, INTEGERS.size
    if version == 2:
        raise command.UserError(
            f'{path} is of version 2 of llama2.c, whose weights are rounded to 8 bits; '
            'export the model anew with version 0 or 1, which keep float32.'
        )
    if version != 1:
        raise command.UserError(
            f'{path} is of version {version} of llama2.c; 0 and 1 are known.'
        )
    if len(head) < HEADER_1 or head[36] > 1 or any(head[37:]):
        raise command.UserError(
            f'{path} has a damaged header: after 36 bytes it holds one of 0 or 1, then '
            f'zeros up to byte {HEADER_1}; get it again.'
        )
    return 1, HEADER_1


def _architecture(
    path: Path, integers: tuple[int, ...], tied: bool, signed: bool
) -> model_config.Architecture:
    """The model that a header describes; UserError where there is none such."""
    D, F, L, N, K, V, T = integers
    V = abs(V) if signed else V
    if min(D, F, L, N, K, V, T) < 1 or D % N or N % K or D // N % 2:
        raise command.UserError(
            f'{path} is no llama2.c file, or a damaged one: its header says D, F, L, '
            f'N, K, V, T = {", ".join(map(str, integers))}, which are at least 1, with '
            'N a divisor of D, K one of N, and D / N even.'
        )
    return model_config.Architecture(
        family='llama', T=T, V=V, D=D, F=F, N=N, K=K, H=D // N, L=L,
        dropout=0.0, init_std=0.02,
        norms=model_config.Norms('rms', EPS),
        positions=model_config.Positions('rotary', base=BASE),
        head=model_config.Head('tokens', tied=tied),
        activation='swiglu', attention_bias='none', mlp_bias=False,
    )  # fmt: skip


def _count(arch: model_config.Architecture, version: int) -> int:
    """The numbers in a file, from its header alone, however absurd that is."""
    D, H = arch.D, arch.H
    layer = 2 * D + 2 * D * arch.N * H + 2 * D * arch.K * H + 3 * D * arch.F
    vocabulary = arch.V * D * (1 if arch.head.tied else 2)
    return vocabulary + arch.L * layer + D + (arch.T * H if version == 0 else 0)


def _ordered(
    arch: model_config.Architecture, version: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of a file's arrays, in its order."""
    shapes = tables.expected(arch, entries(arch))
    if version == 1:  # what is kept in float32 by version 2 as well comes first
        first = ('attention_norm', 'ffn_norm', 'norm.weight', 'tok_embeddings')
        names = sorted(shapes, key=lambda name: _rank(name, first))
    else:
        names = [name for name in shapes if name != 'output.weight']
        table = (arch.T, arch.H // 2)
        shapes |= {COSINES: table, SINES: table}
        names += [COSINES, SINES, *(n for n in shapes if n == 'output.weight')]
    return ((name, shapes[name]) for name in names)


def _rank(name: str, first: tuple[str, ...]) -> int:
    found = [i for i, part in enumerate(first) if part in name]
    return found[0] if found else len(first)


def _header(arch: model_config.Architecture, version: int) -> bytes:
    sign = -1 if version == 0 and not arch.head.tied else 1
    integers = INTEGERS.pack(
        arch.D, arch.F, arch.L, arch.N, arch.K, sign * arch.V, arch.T
    )
    if version == 0:
        return integers
    header = struct.pack('<Ii', MAGIC, 1) + integers + bytes([arch.head.tied])
    return header.ljust(HEADER_1, b'\0')


def _put(file: BinaryIO, place: Place, array: np.ndarray) -> None:
    file.seek(place.offset)
    file.write(np.ascontiguousarray(array, FLOAT).data)


def _check_rotary(path: Path, arch: model_config.Architecture, source: File) -> None:
    """Raises UserError for tables of other angles than run.c's.

    Exporters round t / base^(2i/H) differently, so that the error grows with t: at
    most 1e-6 is allowed, and as much again for every radian of the angle.
    """
    powers = np.arange(0, arch.H, 2) / arch.H
    allowed = 1e-6 * (1 + np.outer(np.arange(arch.T), BASE**-powers))
    for name, right in zip((COSINES, SINES), rotary(arch), strict=True):
        with np.errstate(invalid='ignore'):  # a damaged NaN is not close
            close = np.abs(source.read(name) - right) <= allowed
        if not close.all():
            t, i = np.argwhere(~close)[0]
            raise command.UserError(
                f'{path} has tables of rotary positions that are not those of base '
                f'{BASE:.0f} ({name}[{t}, {i}] is {source.read(name)[t, i]:.6f}, not '
                f'{right[t, i]:.6f}): it is damaged, or was trained with another base, '
                'which llama2.c cannot run; get the model in another format.'
            )
