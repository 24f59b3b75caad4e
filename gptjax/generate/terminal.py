"""A completion on a terminal: standard output holds it alone."""

from collections.abc import Sequence
import os
import sys
from typing import Any

from gptjax import command
from gptjax.generate import engine as engine_lib
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
    `settings` are fields of `engine.Request`. Why it ended goes to standard error.
    Raises UserError for a prompt longer than the context, or one that is not UTF-8.
    """
    engine = engine_lib.Engine(trained.model, trained.params, trained.tokenizer)
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
