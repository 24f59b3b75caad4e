"""Tokenizers in and out of folders as Hugging Face has them.

What came from such a folder goes back file by file. Ours go as a `tokenizer.json` with
equal ids, beside the files that they are made from; `tokenizer_config.json` says so
under `gptjax`, and with that they come back as what they were.
"""

from collections.abc import Mapping
import hashlib
import json
from pathlib import Path
from typing import Any

from gptjax import command
from gptjax.exchange import tokenizer_json
from gptjax.text import (
    frames,
    gpt2,
    huggingface,
    llama2c,
    marian,
    pipelines,
    proto,
    settings,
    spm,
    table,
    template,
)
from gptjax.text import sentencepiece as own
from gptjax.text import tokenizer as text_tokenizer

OURS = 'gptjax'
# The names in such a folder of the files that our tokenizers are made from.
NAMES: dict[str, dict[str, str]] = {
    'bytes': {text_tokenizer.NAMES: text_tokenizer.NAMES},
    'gpt2': {
        gpt2.ENCODER: pipelines.VOCAB,
        gpt2.MERGES: pipelines.MERGES,
        text_tokenizer.NAMES: text_tokenizer.NAMES,
    },
    'sentencepiece': {own.FILE: spm.MODEL},
    'spm': {spm.MODEL: spm.MODEL},
    'llama2c': {llama2c.FILE: llama2c.FILE},
}
# Models whose vocab.json and merges.txt say all; others cut words in their own ways.
ROBERTA = ('roberta', 'bart', 'longformer', 'led', 'blenderbot', 'xlm-roberta-xl')
CLASSES = {'vocab.txt': 'BertTokenizer', 'tokenizer.json': 'PreTrainedTokenizerFast'}


def read(folder: Path) -> text_tokenizer.Tokenizer:
    """The tokenizer of a folder: what its files allow for, the fullest first.

    `tokenizer.json`, else `source.spm` of Marian, else `tokenizer.model`, else
    `vocab.json` with `merges.txt`, else `vocab.txt`, else `tokenizer.bin` of llama2.c.
    Raises UserError for a folder that holds none, and for files that are damaged or
    contradict each other.
    """
    names = {*huggingface.FILES, *spm.FILES, *marian.FILES, llama2c.FILE}
    files = settings.gather(folder, names | {text_tokenizer.NAMES})
    config = settings.document(files, settings.CONFIG)
    if OURS in config:
        kept = _ours(files, config[OURS])
        if kept is not None:
            return kept
    if huggingface.PIPELINE in files:
        return _theirs(files, huggingface.PIPELINE)
    if marian.SOURCE in files:
        return marian.Marian(files)
    if spm.MODEL in files:
        return spm.SPM(files)
    if pipelines.VOCAB in files and pipelines.MERGES in files:
        return _byte_bpe(folder, files, config)
    if pipelines.WORDS in files:
        return _theirs(files, pipelines.WORDS)
    if llama2c.FILE in files:
        return llama2c.Llama2C(files[llama2c.FILE])
    raise command.UserError(
        f'{folder} holds no tokenizer: no {huggingface.PIPELINE}, {spm.MODEL}, '
        f'{marian.SOURCE}, {pipelines.VOCAB} with {pipelines.MERGES}, or '
        f'{pipelines.WORDS}; put the files of the tokenizer beside the weights.'
    )


Frame = tuple[list[int], list[int]]


def write(
    tokenizer: text_tokenizer.Tokenizer, folder: Path, frame: Frame | None = None
) -> None:
    """Writes the files that `AutoTokenizer` and `read` load with equal ids.

    frame: what the model has before and after a text, where that is not the prefix and
    suffix of a tokenizer of ours; those of others keep their own. All files are made
    before the first is written. Raises UserError for a tokenizer that has no such form.
    """
    for name, content in contents(tokenizer, frame).items():
        text_tokenizer.write(folder / name, content)


def contents(
    tokenizer: text_tokenizer.Tokenizer, frame: Frame | None = None
) -> dict[str, bytes]:
    """What `write` writes: the content of each file, by name."""
    files = _contents(tokenizer, frame)
    files.pop(settings.MODEL, None)  # that is the model's to write
    return files


def _contents(tokenizer: Any, frame: Frame | None) -> dict[str, bytes]:
    if isinstance(tokenizer, huggingface.HuggingFace):
        source = next(name for name in huggingface.FILES if name in tokenizer.theirs)
        return _configured(tokenizer.theirs, source)
    whole = isinstance(tokenizer, spm.SPM) and settings.CONFIG in tokenizer.files
    if whole or isinstance(tokenizer, marian.Marian):
        return dict(tokenizer.files)
    made = command.lookup(NAMES, tokenizer.name, 'tokenizer')
    kept = tokenizer.files
    files = {made.get(name, name): content for name, content in kept.items()}
    built = _pipeline(tokenizer)
    if frame is not None and frames.ours(tokenizer):
        tokenizer_json.put_around(built, tokenizer, *frame)
    pipeline = (built.to_str() + '\n').encode()
    files[huggingface.PIPELINE] = pipeline
    config = _config(tokenizer)
    if kept.keys() <= made.keys():  # else the pipeline is read with the small files
        config[OURS] = {
            'name': tokenizer.name,
            'digest': tokenizer.digest,
            huggingface.PIPELINE: hashlib.sha256(pipeline).hexdigest(),
        }
    files[settings.CONFIG] = _json(config)
    return files


def _ours(files: Mapping[str, bytes], mark: Any) -> text_tokenizer.Tokenizer | None:
    """Our tokenizer in a folder that we wrote; None where others have changed it."""
    pipeline = files.get(huggingface.PIPELINE, b'')
    if (
        not isinstance(mark, dict)
        or mark.get('name') not in NAMES
        or mark.get(huggingface.PIPELINE) != hashlib.sha256(pipeline).hexdigest()
    ):
        return None
    names = NAMES[mark['name']]
    found = {ours: files[name] for ours, name in names.items() if name in files}
    made = table.TOKENIZERS[mark['name']].load(found)
    if made.digest != mark.get('digest'):
        raise command.UserError(
            f'{", ".join(sorted(names.values()))} are not the files that '
            f'{settings.CONFIG} was written with; export the model again.'
        )
    return made


def _theirs(files: Mapping[str, bytes], source: str) -> huggingface.HuggingFace:
    used = {
        huggingface.PIPELINE: (huggingface.PIPELINE,),
        pipelines.WORDS: (pipelines.WORDS,),
        pipelines.VOCAB: (pipelines.VOCAB, pipelines.MERGES),
    }[source]
    kept = {name: files[name] for name in (*used, *settings.FILES) if name in files}
    return huggingface.HuggingFace(_configured(kept, source))


def _configured(files: Mapping[str, bytes], source: str) -> dict[str, bytes]:
    """The files, with a tokenizer_config.json that names a class if they lack one."""
    if settings.CONFIG in files:
        return dict(files)
    name = CLASSES.get(source, 'RobertaTokenizer')
    return {**files, settings.CONFIG: _json({'tokenizer_class': name})}


def _byte_bpe(
    folder: Path, files: Mapping[str, bytes], config: Mapping[str, Any]
) -> text_tokenizer.Tokenizer:
    """GPT-2's, or RoBERTa's, as the configs or else the names of tokens tell."""
    vocab = settings.document(files, pipelines.VOCAB)
    path = folder / 'config.json'
    model = {path.name: path.read_bytes()} if path.is_file() else {}
    kind = settings.document(model, path.name).get('model_type')
    named = str(config.get('tokenizer_class', '')).lower()
    if not kind and not named:
        kind = 'roberta' if '<s>' in vocab else 'gpt2'
    if kind in ROBERTA or named.startswith(('roberta', 'bart')):
        return _theirs(files, pipelines.VOCAB)
    if kind != 'gpt2' and not named.startswith('gpt2'):
        raise command.UserError(
            f'{folder} has {pipelines.VOCAB} and {pipelines.MERGES} of '
            f'{kind or config.get("tokenizer_class")!r}, which cuts words in a way '
            f'that these files do not tell; get its {huggingface.PIPELINE} too.'
        )
    return gpt2.GPT2.load(
        {
            gpt2.ENCODER: files[pipelines.VOCAB],
            gpt2.MERGES: files[pipelines.MERGES],
            **text_tokenizer.names(gpt2.PUBLISHED),
        }
    )


def _pipeline(tokenizer: Any) -> Any:
    if tokenizer.name == 'spm':
        model = proto.model(tokenizer.files[spm.MODEL])
        return tokenizer_json.of_published(tokenizer, model)
    builders: dict[str, Any] = {
        'bytes': tokenizer_json.of_bytes,
        'gpt2': tokenizer_json.of_gpt2,
        'sentencepiece': tokenizer_json.of_own,
        'llama2c': tokenizer_json.of_llama2c,
    }
    return builders[tokenizer.name](tokenizer)


def words(tokenizer: text_tokenizer.Tokenizer) -> dict[str, str]:
    """What transformers calls the control tokens: {'bos_token': '<s>'}."""
    if tokenizer.words:
        return dict(tokenizer.words)
    begin, end = text_tokenizer.BEGIN, text_tokenizer.END
    control = tokenizer.control
    named = {'bos_token': begin, 'eos_token': end if end in control else begin}
    if text_tokenizer.MASK in control:
        named['mask_token'] = text_tokenizer.MASK
    if len(control) > 1:  # what was trained here is never asked to say this
        named['pad_token'] = begin
    return named


def _config(tokenizer: text_tokenizer.Tokenizer) -> dict[str, Any]:
    """The tokenizer_config.json of one of ours: class, control tokens, template."""
    config: dict[str, Any] = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'clean_up_tokenization_spaces': False,
        **words(tokenizer),
    }
    if {*text_tokenizer.ROLES, text_tokenizer.END} <= tokenizer.control.keys():
        config['chat_template'] = template.OURS
    elif tokenizer.template:
        config['chat_template'] = tokenizer.template
    return config


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + '\n').encode()
