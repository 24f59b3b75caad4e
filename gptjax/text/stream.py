"""Text as its tokens arrive."""

import codecs
from collections.abc import Iterable, Sequence

from gptjax import command
from gptjax.text import tokenizer as tokenizer_lib


class TextStream:
    """Turns tokens into text piece by piece, up to the first stop string.

    The pieces join to `decode` of all tokens, cut before the stop string that is
    complete first (of several that end together, before the longest). Held back are
    the bytes of an unfinished character and a tail that may begin a stop string.
    """

    def __init__(
        self,
        tokenizer: tokenizer_lib.Tokenizer,
        stop: Sequence[str] = (),
        begins: bool = False,
    ) -> None:
        """`begins`: the tokens are a text from its beginning, not the rest of one.

        Raises UserError for an empty stop string.
        """
        if '' in stop:
            raise command.UserError(
                'a stop string is empty; leave it out or give it characters.'
            )
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder('utf-8')('replace')
        self._held = ''
        self._dummy = begins and tokenizer.dummy_prefix

    def push(self, tokens: Iterable[int]) -> str:
        """The text that these tokens settle; '' once stopped."""
        data = b''.join(map(self._tokenizer.token_bytes, tokens))
        if data and self._dummy:
            data, self._dummy = data.removeprefix(b' '), False
        return self._take(data)

    def finish(self) -> str:
        """The rest of the text, with U+FFFD for a character that was not finished."""
        text = self._take(b'', final=True) + self._held
        self._held = ''
        return text

    def _take(self, data: bytes, final: bool = False) -> str:
        if self.stopped:
            return ''
        text = self._held + self._decoder.decode(data, final)
        found = [
            (start + len(stop), start)
            for stop in self._stop
            if (start := text.find(stop)) >= 0
        ]
        if found:
            self.stopped, self._held = True, ''
            return text[: min(found)[1]]
        settled = len(text) - max((_overlap(text, s) for s in self._stop), default=0)
        self._held = text[settled:]
        return text[:settled]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((n for n in lengths if text.endswith(stop[:n])), 0)
