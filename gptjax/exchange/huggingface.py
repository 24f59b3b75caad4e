"""Folders of Hugging Face: config.json, safetensors, tokenizer, generation settings."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
from pathlib import Path
import shutil
import sys
import tempfile
from typing import Any

import jax
import numpy as np

from gptjax import command, core
from gptjax import sharding as sharding_lib
from gptjax.exchange import aliases, safetensors, table, tables, tokenizers
from gptjax.exchange.families import family as family_lib
from gptjax.model import config as model_config
from gptjax.text import frames
from gptjax.text import tokenizer as text_tokenizer

CONFIG = 'config.json'
GENERATION = 'generation_config.json'
# What is not set would be the default of the class, perhaps beyond the vocabulary.
IDS = dict.fromkeys(('bos_token_id', 'eos_token_id', 'pad_token_id'))
DECODER_IDS = {'decoder_start_token_id': 0, 'forced_eos_token_id': None}
DROPOUTS = (
    'attn_pdrop', 'embd_pdrop', 'attention_dropout', 'activation_dropout',
    'attention_probs_dropout_prob',
)  # fmt: skip
LABELS = ('id2label', 'label2id')
JSON_LIMIT = 10_000_000  # bytes


@dataclasses.dataclass(frozen=True)
class Opened:
    """A folder whose settings and tensors fit: nothing of it has been read yet."""

    arch: model_config.Architecture
    entries: Sequence[tables.Entry]
    leaves: Mapping[str, jax.ShapeDtypeStruct]
    source: tables.Source
    files: Sequence[Path]  # of weights
    config: Mapping[str, Any]
    generation: Mapping[str, Any]  # of generation_config.json; {} without

    def stream(self) -> Iterator[tuple[str, jax.Array]]:
        """(path, parameter), one at a time."""
        return tables.stream(self.arch, self.entries, self.source, self.leaves)


def load(
    folder: Path | str, sharding: sharding_lib.Sharding | None = None
) -> tuple[model_config.Architecture, core.Params]:
    """The model of a folder, in float32, each device reading its own part.

    Raises UserError for all that is missing, damaged, unknown or contradictory.
    """
    opened = open_folder(Path(folder), sharding)
    params = tables.load(opened.arch, opened.entries, opened.source, opened.leaves)
    return opened.arch, params


def open_folder(folder: Path, sharding: sharding_lib.Sharding | None = None) -> Opened:
    """Reads settings and headers and checks that every tensor has its place."""
    config = read_json(folder / CONFIG)
    weights = safetensors.Folder(folder)
    family = _family(config)
    plain = {aliases.plain(family, name) for name in weights.shapes}
    settings = family_lib.Settings(config)
    arch = family.to_architecture(settings, frozenset(plain))
    settings.done()
    _note_dropouts(config, arch.dropout)
    _check_sizes(arch, weights.shapes)
    leaves = tables.leaves(arch, sharding)
    entries = tables.present(family.table(arch), leaves)
    source = aliases.named(family, arch, tables.expected(arch, entries), weights)
    tables.check(arch, entries, source, leaves)
    generation = folder / GENERATION
    return Opened(
        arch=arch,
        entries=entries,
        leaves=leaves,
        source=source,
        files=weights.paths,
        config=config,
        generation=read_json(generation) if generation.exists() else {},
    )


def save(
    arch: model_config.Architecture,
    params: core.Params,
    folder: Path | str,
    tokenizer: Any = None,
    *,
    settings: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
    dtype: str = 'float32',
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that transformers loads; nothing of it stands before it is whole.

    tokenizer: one of gptjax.text, written as Hugging Face's files.
    settings: more of config.json, such as the ids of tokens; labels of classes.
    generation: of generation_config.json; without, none is written.
    files: name -> text of more files.
    dtype: of the weights; float32 is exact, bfloat16 and float16 round.

    Raises UserError for a model that no class of transformers computes, a folder that
    is not empty, and a number that the dtype cannot hold.
    """
    config, entries = config_of(arch)
    more = {
        name: value
        for name, value in (settings or {}).items()
        if name not in config or name in LABELS
    }
    ids = IDS | (DECODER_IDS if arch.encoder_L else {})
    config = ids | config | more | {'dtype': dtype}
    if config['pad_token_id'] is None:
        config['pad_token_id'] = _padding(arch, config, tokenizer)
    shapes = tables.expected(arch, entries)
    prefix = table.FAMILIES[arch.family].prefix if arch.head.kind == 'none' else ''
    tensors = tables.dump(arch, entries, params)
    with new_folder(Path(folder)) as partial:
        if tokenizer is not None:
            tokenizers.write(tokenizer, partial, _frame(arch, tokenizer))
        safetensors.write(
            partial,
            ((name.removeprefix(prefix), tensor) for name, tensor in tensors),
            {name.removeprefix(prefix): shape for name, shape in shapes.items()},
            dtype,
            shard_bytes,
        )
        write_json(partial / CONFIG, config)
        if generation is not None:
            write_json(partial / GENERATION, generation)
        for name, text in (files or {}).items():
            (partial / name).write_text(text)


def _frame(arch: model_config.Architecture, tokenizer: Any) -> tokenizers.Frame | None:
    """What stands around the texts that such a model was trained to read."""
    end = [frames.end(tokenizer)]
    if arch.encoder_L:
        return [], end
    generates = arch.causal and arch.head.kind in ('tokens', 'masked')
    begin = [tokenizer.control[text_tokenizer.BEGIN]]
    return None if generates else (begin, end)


def _padding(
    arch: model_config.Architecture, config: Mapping[str, Any], tokenizer: Any
) -> int | None:
    """The token of padding where a class needs one and no setting names it.

    Encoder-decoders shift their labels with it, and a decoder that classifies takes the
    last token before it: of a batch, they accept none without.
    """
    classifies = arch.causal and arch.head.kind in ('classes', 'reward')
    if not arch.encoder_L and not classifies:
        return None
    if tokenizer is not None:
        word = tokenizers.words(tokenizer).get('pad_token', '')
        if word in tokenizer.special:
            return int(tokenizer.special[word])
    eos = config['eos_token_id']
    found = eos[0] if isinstance(eos, list) else eos
    if tokenizer is not None and classifies and found == frames.end(tokenizer):
        print(
            f'note: the tokenizer has no token for padding, so that config.json names '
            f'{found}, which ends a text. transformers classifies by the token before '
            'it, we by the end itself; set pad_token_id to an id that no text has.',
            file=sys.stderr,
        )
    return config.get('decoder_start_token_id') if found is None else found


def config_of(
    arch: model_config.Architecture,
) -> tuple[dict[str, Any], list[tables.Entry]]:
    """config.json of an architecture and the table of its tensors.

    Raises UserError, naming the fields, where the settings read back are another model.
    """
    if arch.family in table.ALONE:
        raise command.UserError(
            f'the family {arch.family!r} cannot be exported to transformers: '
            f'{table.ALONE[arch.family]}.'
        )
    family = command.lookup(table.FAMILIES, arch.family, 'family of transformers')
    try:
        config = family.to_config(arch)
        leaves = tables.leaves(arch)
        entries = tables.present(family.table(arch), leaves)
        names = frozenset(tables.expected(arch, entries))
        settings = family_lib.Settings(config)
        back = family.to_architecture(settings, names)
        settings.done()
    except command.UserError as error:
        raise command.UserError(
            f'this model cannot be exported as {arch.family}: {error}'
        ) from None
    differ = _differences(_computed(arch), _computed(back))
    if differ:
        raise command.UserError(
            f'transformers has no {arch.family} with {"; ".join(differ)}. Train with '
            'what the family has, or keep the model here.'
        )
    return config, entries


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a folder; UserError where it is missing or damaged."""
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise command.UserError(
                f'{path} has {path.stat().st_size} bytes; more than {JSON_LIMIT} are '
                'no settings. Download it again.'
            )
        return safetensors.read_json(path.read_bytes(), str(path))
    except OSError as error:
        raise command.UserError(
            f'{path} cannot be read ({error.strerror}); give the folder of a model in '
            'the format of Hugging Face.'
        ) from None


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` at the end, or vanishes at an error.

    Raises UserError where `folder` is a file or holds something.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise command.UserError(f'{folder} is a file or a link; name a new folder.')
    if folder.is_dir() and any(folder.iterdir()):
        raise command.UserError(f'{folder} is not empty; name a new folder.')
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    except OSError as error:
        raise command.UserError(
            f'{folder} cannot be made ({error.strerror}); name another place.'
        ) from None
    try:
        yield partial
        partial.chmod(0o755)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _family(config: Mapping[str, Any]) -> family_lib.Family:
    name = config.get('model_type')
    if not isinstance(name, str):
        raise command.UserError(
            f'model_type of config.json is {name!r:.80}; it needs to be one of '
            f'{", ".join(table.FAMILIES)}.'
        )
    if config.get('auto_map'):
        print(
            'note: the folder brings code of its own (auto_map), which is not run; the '
            f'weights are read as those of {name}.',
            file=sys.stderr,
        )
    return command.lookup(table.FAMILIES, name, 'model_type of config.json')


def _note_dropouts(config: Mapping[str, Any], dropout: float) -> None:
    """Says where training would differ: transformers has several dropouts, we one."""
    names = [name for name in config if name in DROPOUTS]
    others = [f'{n} {config[n]}' for n in names if config[n] not in (None, dropout)]
    if others:
        print(
            f'note: of the dropouts of config.json ({", ".join(others)}), training '
            f'here has one, which is {dropout} unless model.dropout says otherwise.',
            file=sys.stderr,
        )


def _check_sizes(
    arch: model_config.Architecture,
    shapes: Mapping[str, tuple[tuple[int, ...], Any]],
) -> None:
    """Refuses sizes beyond what the file holds, before anything is made of them."""
    held = sum(int(np.prod(shape, dtype=object)) for shape, _ in shapes.values())
    layers = max(arch.L, arch.encoder_L) * (arch.experts.E if arch.experts else 1)
    largest = arch.D * max(arch.V, arch.F, arch.N * arch.H, arch.types)
    if arch.positions.kind == 'learned':
        largest = max(largest, arch.D * arch.T)
    if layers > len(shapes) or largest > held:
        raise command.UserError(
            f'config.json describes {layers} layers and experts and a matrix of '
            f'{largest} numbers, and the weights are {len(shapes)} tensors of {held} '
            'numbers together; take both from one place.'
        )


def _computed(arch: model_config.Architecture) -> dict[str, Any]:
    """The fields that say what is computed from tokens outside of training, flat."""
    fields = dataclasses.asdict(arch)
    for name in ('dropout', 'init_std', 'zero_init'):
        del fields[name]
    if arch.shrink == 1:
        del fields['base_D']
    seen = [arch.window(layer) for layer in range(arch.L)]
    fields['windows'] = family_lib.period(seen)
    if arch.experts:
        fields['experts'] = {'E': arch.experts.E, 'k': arch.experts.k}
    if arch.norms.kind == 'rms':
        del fields['norms']['bias']
    if arch.head.kind not in ('tokens', 'masked', 'pretraining'):
        del fields['head']['tied'], fields['head']['bias']
    if arch.head.kind != 'classes':
        del fields['head']['classes']
    return fields


def _differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = ''
) -> list[str]:
    found: list[str] = []
    for name, value in ours.items():
        other = theirs.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            found += _differences(value, other, f'{prefix}{name}.')
        elif value != other:
            found.append(f'{prefix}{name}={value!r} (it would be {other!r})')
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + '\n')
