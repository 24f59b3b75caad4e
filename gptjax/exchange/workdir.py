"""Models of others into workdirs, and workdirs into files that other tools load.

An imported workdir is one like a trained one to all that starts from it: a checkpoint
(step 0, parameters alone), a tokenizer, and a config.json that says under `imported`
where the weights are from.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from pathlib import Path
import sys
from typing import Any, NamedTuple

import jax

from gptjax import command
from gptjax.data import storage
from gptjax.exchange import card, gguf, huggingface, llama2c, tables, tokenizers
from gptjax.exchange.families import family
from gptjax.model import config as model_config
from gptjax.text import frames
from gptjax.text import llama2c as llama2c_text
from gptjax.text import tokenizer as text_tokenizer
from gptjax.train import build, checkpoint, loop
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


def import_model(source: Path, workdir: Path) -> None:
    """Writes a workdir from a folder of Hugging Face, or a .bin of llama2.c.

    One parameter at a time is in memory. Raises UserError for a source that cannot be
    read as a whole, and for a workdir that holds something; then nothing is written.
    """
    with huggingface.new_folder(workdir) as partial:
        read = _read_bin(source) if source.is_file() else _read_folder(source)
        if read.tokenizer.vocab_size > read.arch.V:
            raise command.UserError(
                f'the tokenizer of {source} has {read.tokenizer.vocab_size} ids and '
                f'the weights are of {read.arch.V} tokens; take both from one place.'
            )
        checkpoint.write_params(
            partial / 'checkpoints' / f'{0:08d}',
            read.stream(),
            dataclasses.asdict(loop.Host(dataclasses.asdict(read.arch))),
        )
        read.tokenizer.save(partial / 'tokenizer')
        if labels := _labels_in(read):
            storage.write_json(partial / build.LABELS, labels)
        storage.write_json(partial / 'config.json', {'imported': read.origin})
    _say_what_is_not_done(read.origin)


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

    dtype: of the weights; float32 is exact, the others round. Raises UserError where
    the format has no such model or dtype, or `output` holds something.
    """
    write = command.lookup(FORMATS, format, 'format')
    trained = build.load(workdir)
    write(trained, output, dtype)


def origin_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What an imported workdir, or one that began with its weights, came from; or {}.

    Follows `model.init_from` from workdir to workdir, as far as they are there.
    """
    seen: set[str] = set()
    while 'imported' not in config:
        begun = settings_lib.begun_from(config)
        if begun is None or begun in seen:
            return {}
        seen.add(begun)
        config = storage.read_json(Path(begun) / 'config.json') or {}
    return dict(config['imported'])


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


FORMATS: dict[str, Callable[[build.Trained, Path, str], None]] = {
    'huggingface': _write_huggingface,
    'gguf': _write_gguf,
    'llama2c': _write_llama2c,
}
