"""A conversation in the format of a chat template: its ids, and what of it is said.

The assistant says what stands in the template's `generation` blocks, or else what each
of its messages adds to the prompt before it, up to the last token that ends an answer.
Either way a model that learns it answers as it is asked: the prompt that it is given in
generation is the beginning of what it learned from, the first token after that counts,
and so does a token at which generation stops. A template of which one is not so is
refused, with the turn, and so is an answer with which the tokens of its prompt change.
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
        ids = self._ids(text)
        counted = [0.0] * len(ids)
        for i, begin, stretches in zip(turns, begins, said, strict=True):
            if stretches and stretches[0][0] > begin:
                raise _untold(i, 'the first token of the answer is in no generation')
            asked = self._ids(text[:begin])
            if ids[: len(asked)] != asked:
                raise _recut(i)
            places = [[self._place(text, ids, at) for at in pair] for pair in stretches]
            inside = [place for a, b in places for place in range(a, b)]
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
            raise command.UserError(
                f'no prompt can be made for messages[{turn}]: {error}'
            ) from None
        if not text.startswith(first):
            other = 'rendered in another way where the conversation ends there'
            why = f'{other} (template not prefix-preserving)'
            if add_generation_prompt:
                raise command.UserError(
                    f'the prompt of messages[{turn}] is {why}, so that no model could '
                    'learn to go on from it; take a template that begins an answer as '
                    'it prompts for it.'
                )
            raise _untold(turn, f'it is {why}')
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

    def _place(self, text: str, ids: Sequence[int], end: int) -> int:
        """The first of the ids of the text that is not of its first `end` characters.

        A token across the end is: it is not what these characters alone begin with.
        """
        first = self._ids(text[:end])
        pairs = enumerate(zip(ids, first, strict=False))
        return next((i for i, (a, b) in pairs if a != b), len(first))

    def _endless(self, turn: int, last: int | None) -> command.UserError:
        names = {token: word for word, token in self._tokenizer.special.items()}
        stops = ', '.join(repr(names.get(t, t)) for t in self._tokenizer.ends)
        shown = 'nothing' if last is None else repr(names.get(last, last))
        return _untold(
            turn,
            f'what is learned of it ends with {shown} and holds none of the tokens at '
            f'which generation stops ({stops}): a model would not learn to stop',
        )


def _recut(turn: int) -> command.UserError:
    return command.UserError(
        f'messages[{turn}]: the tokenizer cuts the end of the prompt in another way '
        'where the answer follows, so that a model would not learn to go on from its '
        'prompt; take white space from the beginning of the answer, or from the end of '
        "the template's prompt."
    )


def _untold(turn: int, why: str) -> command.UserError:
    return command.UserError(
        f'the chat template does not tell what the assistant says in messages[{turn}]: '
        f'{why}; put {{% generation %}} and {{% endgeneration %}} around the whole '
        'answer and its end in the template, or name its end in eos_token_id of '
        'generation_config.json.'
    )
