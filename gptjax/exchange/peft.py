"""Adapters of PEFT: adapter_config.json and adapter_model.safetensors.

Beside a matrix of theirs lie lora_A (r, inputs) and lora_B (outputs, r), which add
s B A to it: s is lora_alpha / r (Hu et al., 2022), or lora_alpha / sqrt(r) with
use_rslora (Kalajdzievski, 2023). Names and layouts are those of the family's table.

Where n of our weights are one matrix of theirs (c_attn of GPT-2), each of ours has
factors of its own. A lora_A is copied for each on the way in. On the way out, those
that differ become blocks of rank n r with the same s, which `read` takes apart again.
"""

from collections.abc import Mapping, Sequence
import math
from pathlib import Path
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import numpy as np

from gptjax import command, core, trees
from gptjax.exchange import huggingface, safetensors, table, tables
from gptjax.model import config as model_config
from gptjax.model import lora
from gptjax.train import adapter as adapter_lib

CONFIG = 'adapter_config.json'
WEIGHTS = 'adapter_model.safetensors'
BASE = 'gptjax_base'  # in the metadata of the weights: the digest of their base
_MODEL = 'base_model.model.'
# Settings that are done here, or do not change what a trained adapter computes.
_KNOWN = """
    r lora_alpha use_rslora rank_pattern alpha_pattern peft_type modules_to_save bias
    init_lora_weights auto_mapping base_model_name_or_path exclude_modules
    fan_in_fan_out inference_mode lora_dropout megatron_core peft_version
    qalora_group_size revision runtime_config target_modules task_type
"""
_TASKS = {'tokens': 'CAUSAL_LM', 'classes': 'SEQ_CLS', 'reward': 'SEQ_CLS'}
_ALLOWED = {
    'peft_type': ('LORA',),
    'bias': ('none',),
    # Other beginnings change the base, which is then not the one that is given.
    'init_lora_weights': (True, False, 'gaussian', 'orthogonal'),
}


class Adapter(NamedTuple):
    """A tree of adapters as `lora.join` takes it, and what it is for."""

    params: core.Params
    section: adapter_lib.Adapter  # its targets and train are paths
    base: str  # the digest of the base; '' where it is not known


class _Settings(NamedTuple):
    """What an adapter_config.json says."""

    r: int
    alpha: float
    stable: bool
    ranks: Mapping[str, Any]
    alphas: Mapping[str, Any]

    def rank(self, module: str) -> int:
        return int(_of_module(self.ranks, module, self.r))

    def scale(self, module: str) -> float:
        alpha, rank = _of_module(self.alphas, module, self.alpha), self.rank(module)
        return float(alpha / (math.sqrt(rank) if self.stable else rank))


class _Part(NamedTuple):
    """The factors of one of our weights in one layer, in their layout."""

    names: Sequence[str]  # of both, as `_factors` calls them
    down: np.ndarray
    up: np.ndarray
    scale: float


def read(folder: Path, arch: model_config.Architecture) -> Adapter:
    """The adapter of a folder, for a base of that architecture.

    Ranks that differ are padded with zeros to the largest, and scales that differ go
    into `up`. Raises UserError for what is not computed here, and for tensors that the
    base has no place for, with their names.
    """
    settings = _settings(huggingface.read_json(folder / CONFIG))
    if not (folder / WEIGHTS).is_file():
        raise command.UserError(
            f'{folder} holds no {WEIGHTS}; adapter_model.bin, which can run programs '
            'when it is read, is not opened here: load it with PEFT and save it again.'
        )
    file = safetensors.File(folder / WEIGHTS)
    reading = _Reading(arch, settings, file)
    entries = huggingface.config_of(arch)[1]
    adapted = [entry for entry in entries if _matrix(entry) and reading.matrix(entry)]
    whole = [entry for entry in entries if reading.whole(entry)]
    reading.check(folder)
    R = max(len(part.down) for part in reading.parts)
    arrays, unit = reading.saved, settings.scale('')
    for part in reading.parts:
        same = math.isclose(part.scale, unit, rel_tol=1e-9)
        up = part.up if same else np.float32(part.scale / unit) * part.up
        more = (0, R - len(part.down))
        arrays[part.names[0]] = np.pad(part.down, (more, (0, 0)))
        arrays[part.names[1]] = np.pad(up, ((0, 0), more))
    targets = [path for entry in adapted for path in entry.paths]
    factors = [_factors(entry, path, R) for entry in adapted for path in entry.paths]
    wanted = [*whole, *(one for pair in factors for one in pair)]
    shapes = tables.held(arch, wanted)
    leaves = {path: jax.ShapeDtypeStruct(s, np.float32) for path, s in shapes.items()}
    stream = tables.stream(arch, wanted, tables.Arrays(arrays), leaves)
    alpha = unit * (math.sqrt(R) if settings.stable else R)
    section = adapter_lib.Adapter(
        R=R,
        alpha=settings.alpha if settings.r == R else alpha,
        rank_stabilised=settings.stable,
        targets=targets,
        train=[path for entry in whole for path in entry.paths],
        base='float32',
    )
    params = traverse_util.unflatten_dict(dict(stream), sep='/')
    return Adapter(params, section, str(file.metadata.get(BASE, '')))


def write(
    folder: Path,
    arch: model_config.Architecture,
    adapter: Adapter,
    *,
    base_name: str | None,
    dtype: str = 'float32',
) -> None:
    """Writes an adapter into a folder that is there, as PEFT loads it.

    base_name: where the base came from. Raises UserError for what PEFT has no place
    for.
    """
    section, flat = adapter.section, dict(trees.paths(adapter.params))
    entries, tensors = huggingface.config_of(arch)[1], dict[str, np.ndarray]()
    described: dict[str, Any] = {
        'peft_type': 'LORA',
        'task_type': 'SEQ_2_SEQ_LM' if arch.encoder_L else _TASKS.get(arch.head.kind),
        'base_model_name_or_path': base_name,
        'r': section.R,
        'lora_alpha': section.alpha,
        'use_rslora': section.rank_stabilised,
        'lora_dropout': 0.0,
        'bias': 'none',
        'inference_mode': True,
        'fan_in_fan_out': False,
        'target_modules': [],
        'rank_pattern': {},
        'alpha_pattern': {},
        'modules_to_save': {},
    }
    done = set()
    for entry in filter(_matrix, entries):
        if used := {path for path in entry.paths if f'{path}/down' in flat}:
            tensors |= _write_matrix(arch, entry, used, section, flat, described)
            done |= {f'{path}/{side}' for path in used for side in ('down', 'up')}
    saved = _saved(arch, entries, set(flat) - done)
    for name, tensor in tables.written(arch, saved, flat):
        tensors[_key(arch, name)] = tensor
        described['modules_to_save'] |= {_module(arch, name): None}
    described['modules_to_save'] = list(described['modules_to_save']) or None
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    [path] = safetensors.write(
        folder, tensors.items(), shapes, dtype, 1 << 62, {BASE: adapter.base}
    )
    path.rename(folder / WEIGHTS)
    huggingface.write_json(folder / CONFIG, described)


def _saved(
    arch: model_config.Architecture, entries: Sequence[tables.Entry], paths: set[str]
) -> list[tables.Entry]:
    """The tensors that replace others; UserError unless they are whole modules."""
    saved = [entry for entry in entries if set(entry.paths) <= paths]
    modules = {entry.name.rsplit('.', 1)[0] for entry in saved}
    left = paths - {path for entry in saved for path in entry.paths}
    for entry in entries:
        if entry not in saved and entry.name.rsplit('.', 1)[0] in modules:
            left |= set(entry.paths)
    if arch.head.tied:
        left |= paths & {'tokens'}
    if left:
        raise command.UserError(
            f'PEFT has no place for {", ".join(sorted(left))} of this adapter: it '
            'replaces modules as a whole, and none that are tied; export it merged, '
            'with --format=huggingface.'
        )
    return saved


def _write_matrix(
    arch: model_config.Architecture,
    entry: tables.Entry,
    used: set[str],
    section: adapter_lib.Adapter,
    flat: Mapping[str, Any],
    described: dict[str, Any],
) -> dict[str, np.ndarray]:
    """lora_A and lora_B of one matrix in all layers; adds to what is described."""
    R, downs, ups = section.R, [], []  # by weight, then by layer
    for path in entry.paths:
        lora_A, lora_B = _factors(entry, path, R)
        shapes = tables.expected(arch, [lora_B]).values()
        ups.append([np.zeros(shape, np.float32) for shape in shapes])
        if path in used:
            downs.append([array for _, array in tables.written(arch, [lora_A], flat)])
            ups[-1] = [array for _, array in tables.written(arch, [lora_B], flat)]
    n = 1 if all(np.array_equal(downs[0], down) for down in downs) else len(downs)
    names = [_module(arch, name) for name in tables.expected(arch, [entry])]
    tensors = {}
    for layer, name in enumerate(names):
        blocks, at = [], 0
        for path, up in zip(entry.paths, ups, strict=True):
            after = n * R - at - R
            blocks.append(np.pad(up[layer], ((0, 0), (at, after))))
            at += R * (n > 1 and path in used and after > 0)
        factors = [down[layer] for down in downs[:n]], blocks
        for side, parts in zip('AB', factors, strict=True):
            tensors[f'{_MODEL}{name}.lora_{side}.weight'] = np.concatenate(parts)
    inner, _ = lora.sides(entry.paths[0], entry.ours.split())
    described['fan_in_fan_out'] |= entry.theirs.startswith(_joined(inner))
    described['target_modules'] += names
    if n > 1:
        grown = math.sqrt(n) if section.rank_stabilised else n
        described['rank_pattern'] |= dict.fromkeys(names, n * R)
        described['alpha_pattern'] |= dict.fromkeys(names, section.alpha * grown)
    return tensors


class _Reading:
    """The tensors of a file, taken one matrix after another; what is wrong is noted."""

    def __init__(
        self,
        arch: model_config.Architecture,
        settings: _Settings,
        file: safetensors.File,
    ) -> None:
        self.parts: list[_Part] = []
        self.saved: dict[str, np.ndarray] = {}
        self._arch, self._settings, self._file = arch, settings, file
        self._left = {name: shape for name, (shape, _) in file.shapes.items()}
        self._faults: list[str] = []

    def matrix(self, entry: tables.Entry) -> bool:
        """Takes lora_A and lora_B of all layers of a matrix, if there are some."""
        modules = [_module(self._arch, name) for name in self._names(entry)]
        sides = [f'{_MODEL}{m}.lora_{side}.weight' for m in modules for side in 'AB']
        if self._left.keys().isdisjoint(sides):
            return False
        for layer, module in enumerate(modules):
            A, B = (self._take(key) for key in sides[2 * layer : 2 * layer + 2])
            if A is not None and B is not None:
                self._layer(entry, layer, module, A, B)
        return True

    def _layer(
        self, entry: tables.Entry, layer: int, module: str, A: np.ndarray, B: np.ndarray
    ) -> None:
        n, r = len(entry.paths), self._settings.rank(module)
        pairs = [_factors(entry, path, r) for path in entry.paths]
        found = [[list(self._names(one).items())[layer] for one in p] for p in pairs]
        (_, down_shape), (_, up_shape) = found[0]
        need = down_shape, (n * up_shape[0], r)
        if (A.shape, B.shape) != need:
            self._faults.append(f'{module} has {A.shape} and {B.shape}, not {need}')
            return
        downs, ups = [A] * n, np.split(B, n)
        if n > 1 and r == n * self._settings.r:  # perhaps blocks of `write`
            blocks = np.stack([np.split(up, n, axis=1) for up in ups])
            if not blocks[~np.eye(n, dtype=bool)].any():
                downs, ups = np.split(A, n), list(blocks[np.arange(n), np.arange(n)])
        for (down, up), pair in zip(zip(downs, ups, strict=True), found, strict=True):
            names = [name for name, _ in pair]
            self.parts.append(_Part(names, down, up, self._settings.scale(module)))

    def whole(self, entry: tables.Entry) -> bool:
        """Takes a tensor, of all layers, that replaces the base's, if there is one."""
        names = self._names(entry)
        if not any(_key(self._arch, name) in self._left for name in names):
            return False
        if 'tokens' in entry.paths and self._arch.head.tied:
            self._faults.append(f'{entry.name} is tied to the head of this base')
        for name, shape in names.items():
            tensor = self._take(_key(self._arch, name))
            if tensor is not None and tensor.shape != shape:
                self._faults.append(f'{name} has {tensor.shape}, not {shape}')
            elif tensor is not None:
                self.saved[name] = tensor
        return True

    def check(self, folder: Path) -> None:
        """Raises UserError where something was missing, wrong, or is left."""
        unknown = [f'{name} {shape}' for name, shape in self._left.items()]
        faults = self._faults + [f'{name} is not of this model' for name in unknown]
        if not faults and not self.parts:
            faults = ['it holds no lora_A and lora_B']
        if faults:
            shown = '; '.join(faults[:6]) + ('; ...' if len(faults) > 6 else '')
            raise command.UserError(
                f'the adapter of {folder} does not fit this {self._arch.family} base: '
                f'{shown}. Give the workdir of the base that it was made for.'
            )

    def _names(self, entry: tables.Entry) -> dict[str, tuple[int, ...]]:
        return tables.expected(self._arch, [entry])

    def _take(self, key: str) -> np.ndarray | None:
        dtype = str(self._file.shapes[key][1]) if key in self._left else 'missing'
        self._left.pop(key, None)
        if dtype not in tables.WIDENED:
            self._faults.append(f'{key} is {dtype}')
            return None
        return np.asarray(self._file.read(key), np.float32)


def _settings(config: Mapping[str, Any]) -> _Settings:
    """The settings of an adapter; UserError, with its name, for one not done here."""
    for name, value in config.items():
        allowed = _ALLOWED.get(name, ())
        nothing = value is None or value is False or value in ({}, [], '', 0)
        if allowed and value is not None and value not in allowed:
            known = ' or '.join(map(repr, allowed))
            raise command.UserError(
                f'{name} of {CONFIG} is {value!r:.80}; here it can only be {known}.'
            )
        if name not in _KNOWN.split() and not nothing:
            raise command.UserError(
                f'{CONFIG} has {name}={value!r:.80}, which is not computed here; '
                'only plain LoRA adapters are read.'
            )
    patterns = [dict(config.get(f'{name}_pattern') or {}) for name in ('rank', 'alpha')]
    r, alpha = config.get('r'), config.get('lora_alpha')
    for given in ({'r': r, 'lora_alpha': alpha}, *patterns):
        for name, value in given.items():
            if type(value) not in (int, float) or not 0 < value < 1e6:
                raise command.UserError(
                    f'{name} of {CONFIG} is {value!r:.80}; it needs to be above 0.'
                )
            if set(name) & set('^$*+?()[]{}|\\'):
                raise command.UserError(
                    f'{CONFIG} has a pattern {name!r:.80}; write out the module names.'
                )
    stable = bool(config.get('use_rslora'))
    return _Settings(int(r or 0), float(alpha or 0), stable, *patterns)


def _of_module(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first name that is the module, or a part of its end."""
    for name, value in pattern.items():
        if module == name or module.endswith(f'.{name}'):
            return value
    return default


def _key(arch: model_config.Architecture, name: str) -> str:
    """The name of a tensor in the file of an adapter; that of a trunk has no prefix."""
    prefix = table.FAMILIES[arch.family].prefix if arch.head.kind == 'none' else ''
    return _MODEL + name.removeprefix(prefix)


def _module(arch: model_config.Architecture, name: str) -> str:
    """The module of a tensor."""
    whole = _key(arch, name).removeprefix(_MODEL)
    return whole.removesuffix('.weight').removesuffix('.bias')


def _matrix(entry: tables.Entry) -> bool:
    """Whether it is a matrix whose sides are those of our weights in it."""
    if entry.per_expert or not all(map(lora.adaptable, entry.paths)):
        return False
    n = len(entry.paths)
    inner, outer = map(_joined, lora.sides(entry.paths[0], entry.ours.split()))
    one = entry.theirs if n == 1 else entry.theirs.replace(f'({n} ', '(')
    return one in (f'{inner} {outer}', f'{outer} {inner}')


def _joined(letters: Sequence[str]) -> str:
    return letters[0] if len(letters) == 1 else f'({" ".join(letters)})'


def _factors(
    entry: tables.Entry, path: str, R: int
) -> tuple[tables.Entry, tables.Entry]:
    """lora_A and lora_B of one of the weights in a matrix, as entries of a table."""
    inner, outer = lora.sides(path, entry.ours.split())
    down = f'{R} {_joined(inner)}', f'{" ".join(inner)} {R}'
    up = f'{_joined(outer)} {R}', f'{R} {" ".join(outer)}'
    return (
        tables.Entry(f'{entry.name}:{path}:A', (f'{path}/down',), *down),
        tables.Entry(f'{entry.name}:{path}:B', (f'{path}/up',), *up),
    )
