"""Completions and readings on a terminal: standard output holds them alone."""

from collections.abc import Iterator, Sequence
import json
import os
from pathlib import Path
import sys
from typing import Any

from gptjax import command
from gptjax.generate import engine as engine_lib
from gptjax.generate import options
from gptjax.generate import reader as reader_lib
from gptjax.text import chat as chat_lib


def complete(
    trained: Any,
    *,
    prompt: str,
    chat: bool,
    stop: Sequence[str],
    **settings: Any,
) -> None:
    """Writes the continuation of `prompt` to standard output as it comes.

    `trained` has a model, params and a tokenizer; `prompt` '-' reads standard input;
    `settings` are fields of `engine.Request`, or of options.NAMES. Why it ended goes to
    standard error. Raises UserError for a prompt longer than the context, or one that
    is not UTF-8.
    """
    how = {name: settings.pop(name) for name in options.NAMES if name in settings}
    engine = engine_lib.Engine(trained.model, trained.params, trained.tokenizer, **how)
    text = _read(prompt)
    if chat:
        said: chat_lib.Message = {'role': 'user', 'content': text}
        tokens = tuple(chat_lib.prompt(trained.tokenizer, [said]))
    else:
        tokens = engine.document(text)
    request = engine_lib.Request(tokens, stop=tuple(stop), **settings)
    count, reason = 0, None
    for piece in engine.stream(request):
        sys.stdout.write(piece.text)
        sys.stdout.flush()
        count, reason = count + len(piece.tokens), piece.finish_reason
    if sys.stdout.isatty():
        print()
    ended = {'stop': 'it stopped by itself', 'length': 'no token was left'}[str(reason)]
    print(f'{len(tokens)} + {count} tokens; {ended}.', file=sys.stderr)


def read(
    trained: Any,
    texts: Sequence[str],
    pairs: Sequence[str],
    file: Path | None,
    embed: str | None,
) -> None:
    """Writes a line of JSON for each of `texts` and of the lines of `file`.

    pairs: the second texts for a classifier of pairs, or none. `trained` has a model,
    params, a tokenizer and labels; embed: of `bert.POOLS`, or None for what the head
    says. Raises UserError where there is no text, or a head that says nothing of one.
    """
    texts = [*texts, *(_lines(file) if file else ())]
    if not texts:
        raise command.UserError('there is no text; give --text or --input.')
    if pairs and len(pairs) != len(texts):
        raise command.UserError(
            f'there are {len(texts)} texts and {len(pairs)} second ones; give one '
            '--text_pair for each, or none.'
        )
    reader = reader_lib.Reader(trained.model, trained.params, trained.tokenizer)
    found = _found(trained, reader, texts, pairs, embed)
    for text, said in zip(texts, found, strict=True):
        print(json.dumps({'text': text, **said}, ensure_ascii=False))


def _found(
    trained: Any,
    reader: reader_lib.Reader,
    texts: Sequence[str],
    pairs: Sequence[str],
    embed: str | None,
) -> Iterator[dict[str, Any]]:
    if embed is not None:
        for vector_D in reader.embed(texts, embed):
            yield {'embedding': [round(float(x), 6) for x in vector_D]}
    elif reader.kind in ('masked', 'pretraining'):
        for text in texts:
            fills = reader.fill(text)
            yield {'masks': [[[word, round(p, 6)] for word, p in row] for row in fills]}
    elif reader.kind == 'reward':
        for reward in reader.rewards(texts):
            yield {'reward': round(float(reward), 4)}
    else:
        for shares_C in reader.classify(texts, pairs or None):
            best = int(shares_C.argmax())
            share = round(float(shares_C[best]), 4)
            yield {'label': trained.labels[best], 'probability': share}


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text('utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise command.UserError(f'--input={file} cannot be read ({error}).') from None


def _read(prompt: str) -> str:
    # The shell's bytes, whatever they are: Python smuggles what is not UTF-8 into str.
    given = os.fsencode(prompt) if prompt != '-' else sys.stdin.buffer.read()
    try:
        return given.decode()
    except UnicodeDecodeError as error:
        raise command.UserError(
            f'the prompt is not UTF-8 (byte {error.start}); convert it first, with '
            'iconv, say.'
        ) from None
