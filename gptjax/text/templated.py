"""A conversation in the format of a chat template: its ids, and what of it is said.

The assistant says what stands in the template's `generation` blocks, or else what each
of its messages adds to the prompt before it, up to the last token that ends an answer.
Either way a model that learns it answers as it is asked: the prompt that it is given in
generation is the beginning of what it learned from, the first token after that counts,
and so does a token at which generation stops. A template of which one is not so is
refused, with the turn.
"""

import bisect
from collections.abc import Sequence
import re
from typing import Any

from gptjax import command
from gptjax.text import messages as messages_lib
from gptjax.text import template
from gptjax.text import tokenizer as tokenizer_lib

Stretch = tuple[int, int]


class Templated:
    """A conversation in the format of the tokenizer's template.

    What a message says is never a control token: where it spells one, a mark breaks the
    spelling until the template has run.
    """

    def __init__(
        self,
        tokenizer: tokenizer_lib.Tokenizer,
        messages: Sequence[messages_lib.Message],
    ) -> None:
        self._tokenizer = tokenizer
        texts = template.strings(list(messages))
        for text in texts:
            tokenizer_lib.utf8(text)
        (self._mark,) = template.unused([tokenizer.template, *texts], 1)
        ours = ('weight', 'tools')
        plain = [{k: v for k, v in m.items() if k not in ours} for m in messages]
        self._messages: list[dict[str, Any]] = self._broken(plain)
        self._tools = self._broken(messages[0].get('tools'))

    def prompt(self) -> list[int]:
        """The ids that a reply continues."""
        return self._ids(self._whole(add_generation_prompt=True)[0])

    def encode(self, weights: Sequence[float]) -> tuple[list[int], list[float]]:
        """The ids, and for each the weight of the message whose answer it is part of.

        weights: of each message. Raises UserError, with the turn, where the template
        does not tell an answer as this module's docstring says.
        """
        text, blocks = self._whole()
        turns = [i for i, m in enumerate(self._messages) if m['role'] == 'assistant']
        begins = [self._prefix(text, i, True) for i in turns]
        said: list[list[Stretch]] = [[] for _ in turns]
        for begin, end in blocks:
            place = bisect.bisect_left(begins, end) - 1
            if begin < end and place >= 0:
                said[place].append((begin, end))
        if not blocks:
            said = [
                [(begin, self._prefix(text, i + 1, False))]
                for i, begin in zip(turns, begins, strict=True)
            ]
        ids, spans = self._spans(text, said)
        counted = [0.0] * len(ids)
        for i, begin, stretches, tokens in zip(turns, begins, said, spans, strict=True):
            if stretches and stretches[0][0] > begin:
                raise _untold(i, 'the first token of the answer is in no generation')
            inside = [place for a, b in tokens for place in range(a, b)]
            ends = [p for p in inside if ids[p] in self._tokenizer.ends]
            after = [ids[p] for p in inside if blocks and ends and p > ends[-1]]
            if not ends or self._tokenizer.decode(after).strip():
                raise self._endless(i, ids[inside[-1]] if inside else None)
            for place in inside:
                if blocks or place <= ends[-1]:
                    counted[place] = weights[i]
        return ids, counted

    def _broken(self, value: Any) -> Any:
        """The value with a mark after the first character of each spelling in it."""
        if isinstance(value, list):
            return [self._broken(one) for one in value]
        if isinstance(value, dict):
            return {self._broken(k): self._broken(v) for k, v in value.items()}
        if not isinstance(value, str):
            return value
        spellings = [word for word in self._tokenizer.special if len(word) > 1]
        while any(word in value for word in spellings):
            pattern = '|'.join(map(re.escape, spellings))
            value = re.sub(pattern, lambda m: m[0][0] + self._mark + m[0][1:], value)
        return value

    def _render(
        self, count: int, add_generation_prompt: bool = False
    ) -> tuple[str, list[Stretch]]:
        """The first `count` messages, and where in them the `generation` blocks are."""
        made, some = self._tokenizer, self._messages[:count]
        return template.render(
            made.template, some, made.words, add_generation_prompt, self._tools
        )

    def _whole(self, add_generation_prompt: bool = False) -> tuple[str, list[Stretch]]:
        """All of the messages; a fault is told with the first message that makes it."""
        n = len(self._messages)
        try:
            return self._render(n, add_generation_prompt)
        except command.UserError as error:
            fault = str(error)
        for count in range(1, n):
            try:
                self._render(count)
            except command.UserError as error:
                if str(error) == fault:
                    n = count
                    break
        raise command.UserError(f'messages[{n - 1}]: {fault}') from None

    def _prefix(self, text: str, count: int, add_generation_prompt: bool) -> int:
        """How much of the text the first `count` messages are."""
        turn = count if add_generation_prompt else count - 1
        try:
            first, _ = self._render(count, add_generation_prompt)
        except command.UserError as error:
            raise _untold(turn, f'what stands before it cannot be: {error}') from None
        if not text.startswith(first):
            what = 'the prompt before it' if add_generation_prompt else 'it'
            raise _untold(
                turn,
                f'{what} is rendered in another way where the conversation ends there '
                f'(template not prefix-preserving)',
            )
        return len(first)

    def _ids(self, text: str) -> list[int]:
        """The ids of what was rendered."""
        made = self._tokenizer
        if self._mark not in text:
            return made.encode_special(text)
        ids = []
        for part in tokenizer_lib.cut(text, made.special):
            if part in made.special:
                ids.append(made.special[part])
            else:
                ids += made.encode(part.replace(self._mark, ''))
        return ids

    def _spans(
        self, text: str, said: Sequence[Sequence[Stretch]]
    ) -> tuple[list[int], list[list[Stretch]]]:
        """The ids of the text, and which of them touch each stretch of it."""
        offsets = getattr(self._tokenizer, 'encode_offsets', None)
        if offsets is None or self._mark in text:
            ids = self._ids(text)

            def place(character: int) -> int:
                first = self._ids(text[:character])
                return next((i for i, (a, b) in enumerate(zip(ids, first, strict=False))
                             if a != b), len(first))  # fmt: skip

            return ids, [[(place(a), place(b)) for a, b in turn] for turn in said]
        ids, places = offsets(text)
        firsts, lasts = [a for a, _ in places], [b for _, b in places]
        return ids, [
            [
                (bisect.bisect_right(lasts, a), bisect.bisect_left(firsts, b))
                for a, b in turn
            ]
            for turn in said
        ]

    def _endless(self, turn: int, last: int | None) -> command.UserError:
        names = {token: word for word, token in self._tokenizer.special.items()}
        stops = ', '.join(repr(names.get(t, t)) for t in self._tokenizer.ends)
        shown = 'nothing' if last is None else repr(names.get(last, last))
        return _untold(
            turn,
            f'what is learned of it ends with {shown} and holds none of the tokens at '
            f'which generation stops ({stops}): a model would not learn to stop',
        )


def _untold(turn: int, why: str) -> command.UserError:
    return command.UserError(
        f'the chat template does not tell what the assistant says in messages[{turn}]: '
        f'{why}; put {{% generation %}} and {{% endgeneration %}} around the whole '
        'answer and its end in the template, or name its end in eos_token_id of '
        'generation_config.json.'
    )
