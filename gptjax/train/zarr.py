"""Parameters alone as a checkpoint, a leaf at a time: how imported weights come in."""

from collections.abc import Iterable, Mapping
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gptjax import trees
from gptjax.train import manifest

_CHUNK = 1 << 26  # bytes of a parameter in one file


def write_params(
    folder: Path, leaves: Iterable[tuple[str, jax.Array]], host: Mapping[str, Any]
) -> None:
    """Writes a checkpoint of parameters alone, as `restore_params` reads it.

    folder: of the step, which is made.
    leaves: (path, parameter), of which one at a time is held: Orbax, which takes whole
        trees, needs 2.0 to 2.4 times their bytes.

    The format is Orbax's without its database of chunks: one Zarr array (version 2) a
    parameter, uncompressed.
    """
    params = folder / 'state' / 'params'
    params.mkdir(parents=True)
    arrays: dict[str, Any] = {}
    tree: dict[str, Any] = {}
    for path, leaf in leaves:
        name = f'params/{path}'
        arrays[name] = {
            'shape': list(leaf.shape),
            'dtype': str(leaf.dtype),
            'digest': trees.digest({name: leaf})[name],
        }
        keys = path.split('/')
        tree[str(tuple(keys))] = {
            'key_metadata': [{'key': key, 'key_type': 2} for key in keys],
            'value_metadata': {
                'value_type': 'jax.Array',
                'skip_deserialize': False,
                'write_shape': list(leaf.shape),
            },
        }
        _write_zarr(params / '.'.join(keys), np.asarray(leaf))
        del leaf  # or the next one is made while this one is still held
    metadata = {
        'tree_metadata': tree,
        'use_ocdbt': False,
        'use_zarr3': False,
        'store_array_data_equal_to_fill_value': True,
        'custom_metadata': None,
    }
    (params / '_METADATA').write_text(json.dumps(metadata))
    handler = ocp.StandardCheckpointHandler
    items = {'params': f'{handler.__module__}.{handler.__qualname__}'}
    (folder / 'state' / '_CHECKPOINT_METADATA').write_text(
        json.dumps({'item_handlers': items})
    )
    step = int(folder.name)
    manifest.write(
        folder, {'format': 1, 'step': step, 'host': dict(host), 'arrays': arrays}
    )


def _write_zarr(folder: Path, array: np.ndarray) -> None:
    """One array, cut along its first axis into files of about `_CHUNK` bytes."""
    folder.mkdir()
    rows = max(1, _CHUNK * len(array) // max(1, array.nbytes))
    rows = min(rows, len(array))
    described = {
        'zarr_format': 2,
        'shape': list(array.shape),
        'chunks': [rows, *array.shape[1:]],
        'dtype': array.dtype.str,
        'compressor': None,
        'fill_value': None,
        'filters': None,
        'order': 'C',
        'dimension_separator': '.',
    }
    (folder / '.zarray').write_text(json.dumps(described))
    for number in range(math.ceil(len(array) / rows)):
        part = np.ascontiguousarray(array[number * rows : (number + 1) * rows])
        with (folder / '.'.join([str(number), *'0' * (array.ndim - 1)])).open(
            'wb'
        ) as f:
            f.write(part.data)
            f.write(bytes((rows - len(part)) * (part.nbytes // len(part))))
