"""Models of others into workdirs, and workdirs into files that other tools load.

An imported workdir is one like a trained one to all that starts from it: a checkpoint
(step 0, parameters alone), a tokenizer, and a config.json that says under `imported`
where the weights are from. Of an adapter it says besides which workdir is its base.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from pathlib import Path
import shutil
import sys
from typing import Any, NamedTuple

from flax import traverse_util
import jax

from gptjax import command, trees
from gptjax.data import lineage, storage
from gptjax.exchange import card, gguf, huggingface, llama2c, peft, tables, tokenizers
from gptjax.exchange.families import family
from gptjax.model import config as model_config
from gptjax.model import transformer
from gptjax.text import frames
from gptjax.text import llama2c as llama2c_text
from gptjax.text import tokenizer as text_tokenizer
from gptjax.train import adapter as adapter_lib
from gptjax.train import build, host, start, zarr
from gptjax.train import settings as settings_lib

_GENERATORS = ('tokens', 'masked')  # heads that a causal model generates with
# Settings of generation that change greedy decoding and are not done here.
_NOT_DONE = (
    'num_beams', 'no_repeat_ngram_size', 'encoder_no_repeat_ngram_size',
    'repetition_penalty', 'bad_words_ids', 'forced_bos_token_id', 'suppress_tokens',
    'begin_suppress_tokens', 'min_length', 'min_new_tokens', 'penalty_alpha',
    'sequence_bias',
)  # fmt: skip


class Read(NamedTuple):
    """A model of others, its weights not read yet."""

    arch: model_config.Architecture
    stream: Callable[[], Iterator[tuple[str, jax.Array]]]
    tokenizer: text_tokenizer.Tokenizer
    origin: dict[str, Any]


def import_model(source: Path, workdir: Path, base: Path | None = None) -> None:
    """Writes a workdir from a folder of Hugging Face, or a .bin of llama2.c.

    base: the workdir that a folder of PEFT, then, is an adapter for. One parameter of a
    model at a time is in memory. Raises UserError for a source that cannot be read as a
    whole, and for a workdir that holds something; then nothing is written.
    """
    with huggingface.new_folder(workdir) as partial:
        if (source / peft.CONFIG).is_file() or base is not None:
            _import_adapter(source, base, partial)
            return
        read = _read_bin(source) if source.is_file() else _read_folder(source)
        if read.tokenizer.vocab_size > read.arch.V:
            raise command.UserError(
                f'the tokenizer of {source} has {read.tokenizer.vocab_size} ids and '
                f'the weights are of {read.arch.V} tokens; take both from one place.'
            )
        zarr.write_params(
            partial / 'checkpoints' / f'{0:08d}',
            read.stream(),
            dataclasses.asdict(host.Host(dataclasses.asdict(read.arch))),
        )
        read.tokenizer.save(partial / 'tokenizer')
        if labels := _labels_in(read):
            storage.write_json(partial / build.LABELS, labels)
        storage.write_json(partial / 'config.json', {'imported': read.origin})
    _say_what_is_not_done(read.origin)


def _import_adapter(folder: Path, base: Path | None, partial: Path) -> None:
    if base is None:
        raise command.UserError(
            f'{folder} is an adapter of PEFT; give the workdir that holds the weights '
            'of its model, by --base=DIR.'
        )
    digest, arch = start.digest(base), start.saved(base)[1].with_head(values=False)
    read = peft.read(folder, arch)
    if read.base not in ('', digest):
        raise command.UserError(
            f'the adapter of {folder} was made for other weights than those of {base} '
            f'(digest {read.base:.12}, not {digest:.12}); give the base that it was '
            'trained over.'
        )
    zarr.write_params(
        partial / 'checkpoints' / f'{0:08d}',
        trees.paths(read.params),
        dataclasses.asdict(host.Host(dataclasses.asdict(arch), base_digest=digest)),
    )
    _copy(base, partial, 'tokenizer', build.LABELS)
    files = [folder / peft.WEIGHTS, folder / peft.CONFIG]
    settings = {
        'imported': _origin('peft', folder, files),
        'seed': 0,
        'model': {'init_from': str(base.resolve()), 'dropout': 0.0},
        'adapter': dataclasses.asdict(read.section),
    }
    storage.write_json(partial / 'config.json', settings)


def _check_adapted(workdir: Path) -> None:
    if 'adapter' not in settings_lib.stored(workdir):
        raise command.UserError(
            f'{workdir} holds no adapter: its weights are whole, and export as they '
            'are to huggingface.'
        )


def _copy(workdir: Path, partial: Path, *names: str) -> None:
    """Copies what is there of these files and folders."""
    for name in names:
        if (workdir / name).is_dir():
            shutil.copytree(workdir / name, partial / name)
        elif (workdir / name).is_file():
            shutil.copy(workdir / name, partial / name)


def merge(workdir: Path, output: Path) -> None:
    """Writes a workdir of whole weights from one of adapters and its base.

    Its config.json is the run's but for the adapter, so that what is evaluated and
    exported there knows its data. Raises UserError where there is no adapter.
    """
    _check_adapted(workdir)
    trained = build.load(workdir)
    with huggingface.new_folder(output) as partial:
        zarr.write_params(
            partial / 'checkpoints' / f'{trained.step:08d}',
            trees.paths(start.merged(trained.params, trained.model)),
            dataclasses.asdict(host.Host(dataclasses.asdict(trained.model.arch))),
        )
        _copy(workdir, partial, 'tokenizer', build.LABELS, lineage.FILE)
        settings = {k: v for k, v in trained.config.items() if k != 'adapter'}
        storage.write_json(partial / 'config.json', settings)


def _say_what_is_not_done(origin: Mapping[str, Any]) -> None:
    """A note of the generation settings that our decoding leaves out."""
    asked = {**origin.get('config', {}), **origin.get('generation', {})}
    left = [
        f'{name}={asked[name]!r:.40}'
        for name in _NOT_DONE
        if asked.get(name) not in (None, 0, 1, 1.0, [])
    ]
    if left:
        print(
            f'note: generation here has no {", ".join(left)}, which the model was '
            'published with; its texts may differ from those of transformers.',
            file=sys.stderr,
        )


def _labels_in(read: Read) -> list[str]:
    """The names of a classifier's classes in the order of their numbers, or []."""
    names = dict(read.origin.get('config', {})).get('id2label')
    numbers = [str(number) for number in range(read.arch.head.classes)]
    if not isinstance(names, Mapping) or set(names) != set(numbers):
        return []
    return [str(names[number]) for number in numbers]


def export_model(
    workdir: Path, output: Path, format: str = 'huggingface', dtype: str = 'float32'
) -> None:
    """Writes the newest checkpoint of a workdir as a folder of `FORMATS`, with a card.

    dtype: of the weights; float32 is exact, the others round. An adapter is merged into
    its base, but for the format peft. Raises UserError where the format has no such
    model or dtype, or `output` holds something.
    """
    write = command.lookup(FORMATS, format, 'format')
    if format == 'peft':
        _check_adapted(workdir)
    trained = _without_values(build.load(workdir))
    if 'adapter' in trained.config and format != 'peft':
        merged = start.merged(trained.params, trained.model)
        trained = dataclasses.replace(trained, params=merged)
        print(
            'note: the adapter is merged into its base; --format=peft writes it alone.',
            file=sys.stderr,
        )
    write(trained, output, dtype)


def _without_values(trained: build.Trained) -> build.Trained:
    """A model without the head of values that RL trains beside that of tokens."""
    model = trained.model
    if not model.arch.head.values:
        return trained
    print('note: head/value is left out, which only training needs.', file=sys.stderr)
    flat = traverse_util.flatten_dict(trained.params, sep='/')
    del flat['head/value']
    arch = model.arch.with_head(values=False)
    return dataclasses.replace(
        trained,
        model=transformer.make(arch, model.compute, model.sharding),
        params=traverse_util.unflatten_dict(flat, sep='/'),
    )


def origin_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What an imported workdir, or one that began with its weights, came from; or {}.

    Follows `model.init_from` from workdir to workdir, as far as they are there.
    """
    seen: set[str] = set()
    while (begun := settings_lib.begun_from(config)) is not None:
        if begun in seen:
            return {}
        seen.add(begun)
        config = storage.read_json(Path(begun) / 'config.json') or {}
    return dict(config['imported']) if 'imported' in config else {}


def _read_folder(folder: Path) -> Read:
    if not folder.is_dir():
        raise command.UserError(
            f'no folder or file {str(folder)!r}; --source is a folder in the format of '
            'Hugging Face, or a .bin of llama2.c.'
        )
    opened = huggingface.open_folder(folder)
    origin = _origin(
        'huggingface', folder, [*opened.files, folder / huggingface.CONFIG]
    )
    origin |= {
        'config': dict(opened.config),
        'generation': dict(opened.generation),
        'licence': card.licence_of(folder / 'README.md'),
    }
    return Read(opened.arch, opened.stream, tokenizers.read(folder), origin)


def _read_bin(path: Path) -> Read:
    arch, entries, source = llama2c.read(path)
    leaves = tables.leaves(arch)
    tables.check(arch, entries, source, leaves)
    return Read(
        arch,
        lambda: tables.stream(arch, entries, source, leaves),
        llama2c.tokenizer(path, arch.V),
        _origin('llama2c', path, [path]),
    )


def _origin(format: str, source: Path, files: list[Path]) -> dict[str, Any]:
    digests = {path.name: storage.file_digest(path) for path in files}
    return {'format': format, 'source': str(source.resolve()), 'sha256': digests}


def _write_huggingface(trained: build.Trained, output: Path, dtype: str) -> None:
    arch, tokenizer = trained.model.arch, trained.tokenizer
    origin = origin_of(trained.config)
    theirs = dict(origin.get('config', {}))
    settings = {
        name: value for name, value in theirs.items() if name.endswith('_token_id')
    }
    if not settings:
        settings = _ids(tokenizer, arch)
    if trained.labels and (trained.workdir / build.LABELS).is_file():
        settings |= family.names_of_labels(trained.labels)
    huggingface.save(
        arch,
        trained.params,
        output,
        tokenizer,
        settings=settings,
        generation=_generation(trained, origin, settings),
        files={'README.md': card.text(trained, origin, 'huggingface', dtype)},
        dtype=dtype,
    )


def _ids(
    tokenizer: text_tokenizer.Tokenizer, arch: model_config.Architecture
) -> dict[str, int | None]:
    """The ids of tokens that config.json names, by the tokenizer."""
    begin = tokenizer.control[text_tokenizer.BEGIN]
    named = {word: tokenizer.words.get(f'{word}_token') for word in ('bos', 'eos')}
    ids = {
        f'{word}_token_id': tokenizer.special.get(spelling or '', begin)
        for word, spelling in named.items()
    }
    if arch.encoder_L:
        ids['decoder_start_token_id'] = frames.start(tokenizer)
        ids['eos_token_id'] = tokenizer.control.get(text_tokenizer.END, begin)
    return {**ids, 'pad_token_id': tokenizer.control.get(text_tokenizer.PAD)}


def _generation(
    trained: build.Trained, origin: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """generation_config.json: theirs, with the tokens that our answers end with."""
    arch = trained.model.arch
    if not arch.causal or arch.head.kind not in _GENERATORS:
        return None
    theirs = dict(origin.get('generation', {}))
    if 'imported' in trained.config:
        return theirs or None
    if theirs.get('eos_token_id') is not None and not arch.encoder_L:
        old = theirs['eos_token_id']
        ends = old if isinstance(old, list) else [old]
        theirs['eos_token_id'] = sorted({*ends, *trained.tokenizer.ends})
        return theirs
    if theirs:
        return theirs
    begin = settings.get('bos_token_id')
    ends = list(trained.tokenizer.ends)
    return {'bos_token_id': begin, 'eos_token_id': ends[0] if len(ends) == 1 else ends}


def _write_gguf(trained: build.Trained, output: Path, dtype: str) -> None:
    origin = origin_of(trained.config)
    with huggingface.new_folder(output) as partial:
        gguf.save(
            trained.model.arch,
            trained.params,
            trained.tokenizer,
            partial / 'model.gguf',
            dtype,
            name=trained.workdir.resolve().name,
            license=card.licence(trained, origin) or '',
        )
        (partial / 'README.md').write_text(card.text(trained, origin, 'gguf', dtype))


def _write_llama2c(trained: build.Trained, output: Path, dtype: str) -> None:
    if dtype != 'float32':
        raise command.UserError(f'llama2.c reads float32 alone, not {dtype!r}.')
    if not isinstance(trained.tokenizer, llama2c_text.Llama2C):
        raise command.UserError(
            f'llama2.c has no tokenizer like {trained.tokenizer.name!r}; export to '
            'huggingface or gguf.'
        )
    origin = origin_of(trained.config)
    with huggingface.new_folder(output) as partial:
        llama2c.save(trained.model.arch, trained.params, partial / 'model.bin')
        for name, content in trained.tokenizer.files.items():
            (partial / name).write_bytes(content)
        (partial / 'README.md').write_text(card.text(trained, origin, 'llama2c', dtype))


def _write_peft(trained: build.Trained, output: Path, dtype: str) -> None:
    section = adapter_lib.of(trained.config)
    assert section is not None  # _check_adapted
    base = Path(trained.config['model']['init_from'])
    params, _ = start.adapters(trained.workdir, base, trained.model)
    origin = origin_of(trained.config)
    below = settings_lib.stored(base)
    named = below['imported']['source'] if 'imported' in below else None
    adapter = peft.Adapter(params, section, start.digest(base))
    with huggingface.new_folder(output) as partial:
        arch = trained.model.arch
        peft.write(partial, arch, adapter, base_name=named, dtype=dtype)
        alone = dataclasses.replace(trained, params=params)
        (partial / 'README.md').write_text(card.text(alone, origin, 'peft', dtype))


FORMATS: dict[str, Callable[[build.Trained, Path, str], None]] = {
    'huggingface': _write_huggingface,
    'gguf': _write_gguf,
    'llama2c': _write_llama2c,
    'peft': _write_peft,
}
