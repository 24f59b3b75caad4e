"""What the small files beside a tokenizer of others say about its control tokens.

`tokenizer_config.json` and `special_tokens_map.json` name the tokens that begin, end,
pad and mask; `generation_config.json` lists the ids that end an answer; the chat
template stands in `chat_template.jinja` or in the first of them.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import json
from pathlib import Path
from typing import Any

from gptjax import command
from gptjax.text import tokenizer

CONFIG, SPECIAL = 'tokenizer_config.json', 'special_tokens_map.json'
GENERATION, TEMPLATE = 'generation_config.json', 'chat_template.jinja'
MODEL = 'config.json'  # of the model: old folders name the decoder's first token here
FILES = (CONFIG, SPECIAL, GENERATION, TEMPLATE, MODEL)
START = 'decoder_start_token_id'
HOLES = 65_536  # ids may be that far above their number; in damaged files, further
WORDS = ('bos', 'eos', 'unk', 'sep', 'pad', 'cls', 'mask')
# Where the files name no token at all: the names that published vocabularies have.
USUAL = {
    'bos': ('<s>', '<|begin_of_text|>'),
    'eos': ('</s>', '<|end_of_text|>', '<|endoftext|>'),
    'unk': ('<unk>', '[UNK]'),
    'sep': ('[SEP]',),
    'pad': ('<pad>', '[PAD]'),
    'cls': ('[CLS]',),
    'mask': ('<mask>', '[MASK]'),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The files, read.

    words: {'bos_token': '<s>'}; eos_ids, start: ids of generation_config, those that
    end an answer and the one that a decoder beside an encoder begins with.
    """

    config: Mapping[str, Any]
    words: Mapping[str, str]
    eos_ids: tuple[int, ...]
    start: int | None
    template: str


def gather(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Those of the files that a folder has; of config.json, the first token alone."""
    there = [name for name in names if (folder / name).is_file()]
    files = {name: (folder / name).read_bytes() for name in there}
    start = document(files, MODEL).get(START)
    files.pop(MODEL, None)
    if start is not None and document(files, GENERATION).get(START) is None:
        files[MODEL] = json.dumps({START: start}).encode()
    return files


def read(files: Mapping[str, bytes]) -> Settings:
    """The settings of a folder's files; UserError for one that is damaged."""
    config = document(files, CONFIG)
    special = document(files, SPECIAL)
    words = {}
    for word in WORDS:
        key = f'{word}_token'
        value = _content(config.get(key, special.get(key)), key)
        if value:
            words[key] = value
    starts = _ids(files, GENERATION, START) or _ids(files, MODEL, START)
    return Settings(
        config,
        words,
        eos_ids=_ids(files, GENERATION, 'eos_token_id'),
        start=starts[0] if starts else None,
        template=_template(files, config),
    )


def document(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """A JSON object among the files, {} where there is none; UserError if damaged."""
    if name not in files:
        return {}
    try:
        value = json.loads(files[name])
        if not isinstance(value, dict):
            raise TypeError(f'it is {type(value).__name__}, not an object')
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(name, error) from error
    return value


def numbered(files: Mapping[str, bytes], name: str) -> dict[str, int]:
    """The ids of a vocabulary; UserError where they are not those of one."""
    ids = document({name: tokenizer.file(files, name)}, name)
    if not ids or not all(type(token) is int and token >= 0 for token in ids.values()):
        raise damaged(name, 'an id is not a whole number')
    if max(ids.values()) >= len(ids) + HOLES:
        raise damaged(name, 'its ids are not those of a vocabulary')
    return ids


def damaged(name: str, reason: object) -> command.UserError:
    """The error for a file that cannot be read, to be raised."""
    return command.UserError(f'{name} is damaged ({reason}); get it again.')


def control(
    found: Settings, ids: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, str]]:
    """The ids by our words, and the spellings by theirs.

    ids: of all tokens, by spelling. What begins a document is the BOS token, else
    [CLS], else what ends it. Raises UserError where a named token has no id, or none
    begins and none ends.
    """
    words = dict(found.words)
    for key, word in words.items():
        if word not in ids:
            raise command.UserError(
                f'{CONFIG} or {SPECIAL} names {key} {word!r}, which the vocabulary '
                f'does not have; the files are of different tokenizers.'
            )
    if not words:
        for key, usual in USUAL.items():
            present = [word for word in usual if word in ids]
            if present:
                words[f'{key}_token'] = present[0]
    end = words.get('eos_token', words.get('sep_token'))
    begin = words.get('bos_token', words.get('cls_token', end))
    if begin is None:
        raise command.UserError(
            f'no token begins or ends a text: {CONFIG} and {SPECIAL} name neither '
            f'bos_token nor eos_token; add the one that the model was trained with.'
        )
    named = {tokenizer.BEGIN: ids[begin]}
    if end is not None and end != begin:
        named[tokenizer.END] = ids[end]
    for ours, theirs in ((tokenizer.MASK, 'mask_token'), (tokenizer.PAD, 'pad_token')):
        # Models without padding call another token so; that one keeps its meaning.
        if theirs in words and ids[words[theirs]] not in named.values():
            named[ours] = ids[words[theirs]]
    if found.start is not None and found.start != named[tokenizer.BEGIN]:
        _check_id(found.start, max(ids.values()) + 1)
        named[tokenizer.START] = found.start
    return named, words


def ends(found: Settings, named: Mapping[str, int], size: int) -> tuple[int, ...]:
    """The ids that end an answer: those of generation_config, then EOS."""
    last = named.get(tokenizer.END, named[tokenizer.BEGIN])
    for token in found.eos_ids:
        _check_id(token, size)
    return tuple(dict.fromkeys((*found.eos_ids, last)))


def _check_id(token: int, size: int) -> None:
    if not 0 <= token < size:
        raise command.UserError(
            f'{GENERATION} or {MODEL} has the token {token}, and the tokenizer has 0 '
            f'to {size - 1}; the files are of different models.'
        )


def _content(value: Any, key: str) -> str | None:
    """The spelling of a token, which the files give as a string or as an object."""
    if isinstance(value, dict):
        value = value.get('content')
    if value is not None and not isinstance(value, str):
        raise damaged(f'{CONFIG} or {SPECIAL}', f'{key} is {value!r}, not a string')
    return value


def _ids(files: Mapping[str, bytes], name: str, key: str) -> tuple[int, ...]:
    value = document(files, name).get(key)
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    if not all(type(token) is int for token in ids):
        raise damaged(name, f'{key} is {value!r}')
    return tuple(ids)


def _template(files: Mapping[str, bytes], config: Mapping[str, Any]) -> str:
    if TEMPLATE in files:
        try:
            return files[TEMPLATE].decode()
        except UnicodeDecodeError as error:
            raise damaged(TEMPLATE, error) from error
    value = config.get('chat_template')
    if isinstance(value, list):  # several by name, as transformers once wrote them
        value = next(
            (
                entry.get('template')
                for entry in value
                if isinstance(entry, dict) and entry.get('name') == 'default'
            ),
            None,
        )
    if value is not None and not isinstance(value, str):
        raise damaged(CONFIG, f'chat_template is {type(value).__name__}')
    return value or ''
