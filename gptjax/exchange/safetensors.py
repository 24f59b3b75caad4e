"""Safetensors files: read lazily with every fault named, written tensor by tensor.

A file is the length of a header (8 bytes, little-endian), the header (JSON: name ->
dtype, shape, data_offsets) and the tensors without gaps. A model is one such file, or
several and an index that says which tensor lies in which.
"""

from collections.abc import Iterable, Mapping
import json
import math
from pathlib import Path
import struct
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from gptjax import command

WHOLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
HEADER_LIMIT = 100_000_000  # bytes; the reference implementation has the same
DTYPES: dict[str, np.dtype[Any]] = {
    'F64': np.dtype('<f8'),
    'F32': np.dtype('<f4'),
    'F16': np.dtype('<f2'),
    'BF16': np.dtype(ml_dtypes.bfloat16),
    'F8_E4M3': np.dtype(ml_dtypes.float8_e4m3fn),
    'F8_E5M2': np.dtype(ml_dtypes.float8_e5m2),
    'I64': np.dtype('<i8'),
    'I32': np.dtype('<i4'),
    'I16': np.dtype('<i2'),
    'I8': np.dtype('i1'),
    'U64': np.dtype('<u8'),
    'U32': np.dtype('<u4'),
    'U16': np.dtype('<u2'),
    'U8': np.dtype('u1'),
    'BOOL': np.dtype('bool'),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# What holds weights in other ways, mostly as pickled programs.
_OTHERS = ('*.bin', '*.pt', '*.pth', '*.ckpt', '*.h5', '*.msgpack', '*.pkl')


class File:
    """One file, as a Source (tables.py): its header is read and checked at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self.metadata: dict[str, Any] = {}
        self._offsets: dict[str, int] = {}
        try:
            with path.open('rb') as file:
                self._read_header(file, path.stat().st_size)
        except OSError as error:
            raise command.UserError(
                f'{path} cannot be read ({error.strerror}); copy it again.'
            ) from None

    def read(self, name: str) -> np.ndarray:
        """A memory map of the tensor; what was read of it leaves memory with it."""
        shape, dtype = self.shapes[name]
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(self.path, dtype, 'r', self._offsets[name], shape)

    def _read_header(self, file: BinaryIO, size: int) -> None:
        head = file.read(8)
        if len(head) < 8:
            raise self._fault(f'it has {len(head)} bytes, and its header alone 8')
        (length,) = struct.unpack('<Q', head)
        if length > HEADER_LIMIT:
            raise self._fault(f'its header claims {length} bytes')
        if length > size - 8:
            raise self._fault(f'it ends at {size} bytes, inside its header')
        header = read_json(file.read(length), f'the header of {self.path}')
        self.metadata = header.pop('__metadata__', {})
        if not isinstance(self.metadata, dict):
            raise self._fault('its __metadata__ is not a table')
        end = 8 + length
        begins = {name: self._entry(name, entry) for name, entry in header.items()}
        for name in sorted(begins, key=lambda name: begins[name]):
            begin, stop = begins[name]
            if 8 + length + begin != end:
                what = 'overlaps the one before' if begin + 8 + length < end else 'gap'
                raise self._fault(f'tensor {name!r} at offset {begin}: {what}')
            self._offsets[name] = end
            end = 8 + length + stop
        if end != size:
            raise self._fault(f'it has {size} bytes and its tensors end at {end}')

    def _entry(self, name: str, entry: Any) -> tuple[int, int]:
        """(begin, end) of a tensor, whose shape and dtype are noted."""
        keys = {'dtype', 'shape', 'data_offsets'}
        if not isinstance(entry, dict) or set(entry) != keys:
            raise self._fault(f'tensor {name!r} has not the keys {sorted(keys)}')
        dtype = entry['dtype']
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise self._fault(f'tensor {name!r} is of an unknown type {dtype!r:.40}')
        shape, offsets = entry['shape'], entry['data_offsets']
        if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
            raise self._fault(f'tensor {name!r} has no shape and two offsets')
        need = math.prod(shape) * DTYPES[dtype].itemsize
        if offsets[1] - offsets[0] != need:
            raise self._fault(
                f'tensor {name!r} of shape {shape} needs {need} bytes and has '
                f'{offsets[1] - offsets[0]}'
            )
        if len(shape) > 32 or math.prod(size or 1 for size in shape) >= 2**56:
            raise self._fault(f'tensor {name!r} has the shape {shape!r:.80}')
        self.shapes[name] = tuple(shape), DTYPES[dtype]
        return offsets[0], offsets[1]

    def _fault(self, what: str) -> command.UserError:
        return command.UserError(
            f'{self.path} is damaged: {what}. Copy or download it again.'
        )


class Folder:
    """The weights of a folder as a Source: one file, or shards and their index."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, File] = {}
        if (folder / WHOLE).exists():
            files = [File(folder / WHOLE)]
        elif (folder / INDEX).exists():
            files = _shards(folder)
        else:
            raise command.UserError(_absent(folder))
        for file in files:
            self._files |= dict.fromkeys(file.shapes, file)
        self.paths = [file.path for file in files]
        self.shapes = {name: f.shapes[name] for name, f in self._files.items()}

    def read(self, name: str) -> np.ndarray:
        return self._files[name].read(name)


def write(
    folder: Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str = 'float32',
    shard_bytes: int = 5_000_000_000,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes tensors, of which it holds one at a time, into a folder that is there.

    tensors: (name, float32 array), in the order of `shapes`.
    dtype: of the file: float32 is exact, bfloat16 and float16 round to the nearest.
    shard_bytes: a file grows no larger, unless one tensor is.
    metadata: more of each file's than the format.

    Raises UserError for a number that float16 cannot hold; ValueError where `tensors`
    are not those of `shapes`. The caller clears what was written before.
    """
    kind = np.dtype(command.lookup(TYPES, dtype, 'dtype of weights'))
    shards = _plan(shapes, kind.itemsize, shard_bytes)
    names = [WHOLE]
    if len(shards) > 1:
        count = len(shards)
        names = [
            f'model-{i:05d}-of-{count:05d}.safetensors' for i in range(1, count + 1)
        ]
    left = iter(tensors)
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open('wb') as file:
            file.write(_header(shard, kind, metadata or {}))
            for expected in shard:
                got, tensor = next(left, ('nothing', np.empty(0)))
                if got != expected or tensor.shape != shard[expected]:
                    raise ValueError(f'{got} {tensor.shape} in place of {expected}')
                file.write(_cast(got, tensor, kind).reshape(-1).view('u1').data)
    if next(left, None) is not None:
        raise ValueError('more tensors than shapes')
    if len(shards) > 1:
        total = sum(map(math.prod, shapes.values())) * kind.itemsize
        where = {t: name for name, s in zip(names, shards, strict=True) for t in s}
        index = {'metadata': {'total_size': total}, 'weight_map': where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')
    return [folder / name for name in names]


TYPES = {'float32': '<f4', 'float16': '<f2', 'bfloat16': ml_dtypes.bfloat16}


def _plan(
    shapes: Mapping[str, tuple[int, ...]], itemsize: int, shard_bytes: int
) -> list[dict[str, tuple[int, ...]]]:
    """The tensors of each shard, in order."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    held = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * itemsize
        if shards[-1] and held + size > shard_bytes:
            shards.append({})
            held = 0
        shards[-1][name] = shape
        held += size
    return shards


def _header(
    shard: Mapping[str, tuple[int, ...]],
    kind: np.dtype[Any],
    metadata: Mapping[str, str],
) -> bytes:
    header: dict[str, Any] = {'__metadata__': {'format': 'pt', **metadata}}
    end = 0
    for name, shape in shard.items():
        begin, end = end, end + math.prod(shape) * kind.itemsize
        header[name] = {
            'dtype': _NAMES[kind],
            'shape': list(shape),
            'data_offsets': [begin, end],
        }
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # so that tensors are aligned in memory maps
    return struct.pack('<Q', len(text)) + text


def _cast(name: str, tensor: np.ndarray, kind: np.dtype[Any]) -> np.ndarray:
    if tensor.dtype == kind:
        return np.ascontiguousarray(tensor)
    with np.errstate(over='ignore'):
        cast = tensor.astype(kind)
    if not np.array_equal(np.isfinite(cast), np.isfinite(tensor)):
        raise command.UserError(
            f'{name} holds {float(np.nanmax(np.abs(tensor))):g}, which is beyond '
            f'{kind.name}; export with --dtype=bfloat16 or float32.'
        )
    return cast


def _shards(folder: Path) -> list[File]:
    """The files of an index, which must name every tensor of them and no other."""
    path = folder / INDEX
    try:
        index = read_json(path.read_bytes(), str(path))
    except OSError as error:
        raise command.UserError(f'{path} cannot be read ({error.strerror}).') from None
    where = index.get('weight_map')
    if not isinstance(where, dict) or not where:
        raise command.UserError(f'{path} has no weight_map; download it again.')
    files: dict[str, File] = {}
    for name in where.values():
        if (
            not isinstance(name, str)
            or name in ('', '.', '..')
            or set(name) & set('/\\\0')
        ):
            raise command.UserError(
                f'{path} names the file {name!r:.80}; a shard is a file beside it.'
            )
        if name not in files:
            if not (folder / name).is_file():
                raise command.UserError(
                    f'{folder} lacks {name}, which {INDEX} names; download it too.'
                )
            files[name] = File(folder / name)
    for name, file in files.items():
        listed = {tensor for tensor, shard in where.items() if shard == name}
        differ = sorted(listed ^ set(file.shapes))
        if differ:
            raise command.UserError(
                f'{INDEX} and {name} disagree about {", ".join(differ[:5])}: a tensor '
                'is in the one file that the index says; download both again.'
            )
    return list(files.values())


def _absent(folder: Path) -> str:
    others = sorted(p.name for kind in _OTHERS for p in folder.glob(kind))
    if not others:
        return (
            f'{folder} holds no {WHOLE} and no {INDEX}; give the folder of a model in '
            'the format of Hugging Face.'
        )
    return (
        f'{folder} holds its weights as {others[0]}, which can run programs when it is '
        'read and is not opened here; convert it where torch and transformers are: '
        'python -c "import transformers as t; '
        f"t.AutoModelForCausalLM.from_pretrained('{folder}')"
        f".save_pretrained('{folder}-safetensors')\" (or the Auto class of the model)"
    )


def read_json(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object in which no name stands twice; UserError naming `what`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f'{twice!r} stands twice')
        return made

    try:
        made = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise command.UserError(
            f'{what} is not JSON ({error!s:.200}); download it again.'
        ) from None
    if not isinstance(made, dict):
        raise command.UserError(f'{what} is not a JSON object; download it again.')
    return made


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )
