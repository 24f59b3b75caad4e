"""The engine: prompts in, completions out, for a batch that lives and ends together.

Rows, prompts and caches are padded to powers of two, so that few shapes compile. Where
nobody looks before the end, prefill and all tokens are one program. For streams and for
stop strings, one program prefills and another decodes a chunk of tokens at a time;
between chunks the host turns tokens into text and hands the pieces out. What a request
yields depends on neither its batch nor the size of a chunk: the key of a token is
fold_in(key(seed), position). Rows of one batch may go through different adapters.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import command, core
from gptjax.generate import loop, sampling, speculate
from gptjax.model import (
    heads,
    joined,
    leaves,
    lora,
    quantise,
    seq2seq,
    split_kv,
    transformer,
)
from gptjax.text import chat, frames
from gptjax.text import stream as text_stream
from gptjax.text import tokenizer as text_tokenizer

BATCH = 32  # rows decoded together, unless an engine is told otherwise
SHORTEST = 16  # the smallest bucket of prompt lengths
SMALLEST = 128  # the fewest tokens that a cache has room for
WEIGHTS = ('float32', 'bfloat16', *quantise.SERVED)
CACHES = ('float32', 'bfloat16', 'int8')
UNSAID = (*chat.ROLES.values(), text_tokenizer.MASK)  # no model may say these


class PromptTooLong(command.UserError):
    """The prompt leaves no room for a single token in the context of the model."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What to continue, and how. Each field means the same whatever the batch."""

    prompt: tuple[int, ...]
    max_tokens: int  # at least 1; what is left of the context bounds it too
    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0  # 1 is off
    seed: int = 0
    stop: tuple[str, ...] = ()  # strings that end the text before themselves
    stop_tokens: tuple[int, ...] | None = None  # None: the ends of the tokenizer
    adapter: str | None = None  # by name; None: the model alone


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a completion; the last one of a request has a `finish_reason`."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str | None  # 'stop' (a stop token or string) or 'length'


@dataclasses.dataclass(frozen=True)
class Completion:
    """A whole answer. `tokens` hold the token that stopped it, `text` does not."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int


class Row:
    """The progress of one request on the host."""

    def __init__(
        self,
        request: Request,
        position: int,
        room: int,
        begins: bool,  # whether the completion begins a text
        tokenizer: text_tokenizer.Tokenizer,
    ) -> None:
        self.request = request
        given = request.stop_tokens
        self.stops = tokenizer.ends if given is None else given
        self.left = min(request.max_tokens, room)
        self.last = 0  # the token to decode next
        self.position = position  # of `last`
        self.finish_reason: str | None = None
        self.text = text_stream.TextStream(tokenizer, request.stop, begins)

    def push(self, tokens: Sequence[int]) -> Piece:
        """Takes sampled tokens up to the one that ends the request."""
        text, taken = '', []
        for token in tokens:
            if self.finish_reason is not None:
                break
            taken.append(token)
            self.left -= 1
            if token in self.stops:
                self.finish_reason = 'stop'
            else:
                text += self.text.push([token])
                if self.text.stopped:
                    self.finish_reason = 'stop'
                elif self.left == 0:
                    self.finish_reason = 'length'
        if self.finish_reason is not None:
            text += self.text.finish()
            if self.text.stopped:
                self.finish_reason = 'stop'
        if taken:
            self.last = taken[-1]
            self.position += len(taken)
        return Piece(text, tuple(taken), self.finish_reason)


class Engine:
    """Generates with one model and its adapters. Not for two threads at once.

    adapters: (tree of adapters, scale) by name, as `lora.join` takes them; raises
        UserError as `lora.several` does.
    weights: of WEIGHTS; float32 are those given. What products read, and the embedding,
        are held in another form; the others round.
    cache: of CACHES, how keys and values are held; '' is the type of activations.
    batch: rows decoded together; each power of two up to it is a program.
    drafted: tokens that the row's own text proposes for each pass of the model, which
        pays where it repeats itself; 0 is off. What is said does not change.
    """

    adapters: Sequence[str] = ()  # the names; index 0 of `choose` is the model alone

    def __init__(
        self,
        model: transformer.Model,
        params: core.Params,
        tokenizer: text_tokenizer.Tokenizer,
        adapters: Mapping[str, tuple[core.Params, float]] | None = None,
        *,
        weights: str = 'float32',
        cache: str = '',
        batch: int = BATCH,
        drafted: int = 0,
    ) -> None:
        arch = model.arch
        command.lookup(dict.fromkeys(WEIGHTS), weights, 'weights')
        cache = cache or model.compute.dtype
        command.lookup(dict.fromkeys(CACHES), cache, 'cache')
        if batch < 1:
            raise command.UserError(f'batch is {batch}; it is at least 1.')
        if not 0 <= drafted < arch.T:
            raise command.UserError(
                f'{drafted} tokens cannot be drafted; it is 0 (off) to {arch.T - 1}, '
                'and 4 to 8 is usual.'
            )
        if not arch.causal or arch.head.kind not in heads.OVER_TOKENS:
            raise command.UserError(
                f'this model cannot continue a text: it is '
                f'{"causal" if arch.causal else "an encoder"} with a head of '
                f'{arch.head.kind!r}; take a workdir of a language model.'
            )
        self.tokenizer = tokenizer
        self.context = arch.T
        self._translates = arch.encoder_L > 0
        if adapters:
            if self._translates:
                raise command.UserError(
                    'adapters share a base in decoders alone; generate with the '
                    'workdir of the adapter itself.'
                )
            self.adapters = list(adapters)
            together = lora.several([({}, 1.0), *adapters.values()])
            params = lora.join(params, together, 1.0)
        self.batch, self._drafted = batch, drafted
        self._params = _held(transformer.unstack(model, params), weights)
        self._ids = min(model.arch.V, tokenizer.vocab_size)
        split_kv.prove(arch, model.compute.dtype)
        self._make_programs(model, cache)

    def _make_programs(self, model: transformer.Model, cache: str) -> None:
        drafted = self._drafted
        allowed_V = jnp.asarray(may_say(model.arch.V, self.tokenizer))
        begin: Any
        if isinstance(model, seq2seq.Seq2Seq):
            start = frames.start(self.tokenizer)
            begin = functools.partial(loop.read, model, start, allowed_V)
        else:
            begin = functools.partial(loop.prefill, model, allowed_V)
        self._prefill = jax.jit(
            functools.partial(begin, dtype=cache), static_argnames='S'
        )
        decode: Any = functools.partial(loop.decode, model)
        complete: Any = functools.partial(loop.complete, model)
        if drafted:
            decode = functools.partial(speculate.decode, model, drafted)
            complete = functools.partial(speculate.complete, model, drafted)
        decode = functools.partial(decode, allowed_V)
        self._decode = jax.jit(decode, donate_argnames='cache')
        self._grow = jax.jit(loop.grow, static_argnames='S')
        self._complete = jax.jit(
            functools.partial(complete, begin, allowed_V, dtype=cache),
            static_argnames='rooms',
        )

    def document(self, text: str) -> tuple[int, ...]:
        """The prompt of a text to continue, as documents begin in training.

        Some models of others have nothing before a text; for no text at all, even they
        have the token that begins one. What an encoder reads is the whole text.
        """
        if self._translates:
            source = self.tokenizer.encode(text)
            return tuple(frames.source(self.tokenizer, source))
        ids = (*self.tokenizer.prefix, *self.tokenizer.encode(text))
        return ids or (self.tokenizer.control[chat.BEGIN],)

    def check(self, request: Request) -> None:
        """Raises UserError for what cannot be done, PromptTooLong for the context."""
        vocab_size, prompt = self._ids, request.prompt
        if not prompt:
            raise command.UserError('the prompt has no token; it needs at least one.')
        if not all(0 <= token < vocab_size for token in prompt):
            wrong = next(t for t in prompt if not 0 <= t < vocab_size)
            raise command.UserError(
                f'the prompt holds token {wrong}; tokens are 0 to {vocab_size - 1}.'
            )
        longest = self.context - (not self._translates)
        if len(prompt) > longest:
            raise PromptTooLong(
                f'the prompt has {len(prompt)} tokens, and the context of this model '
                f'is {self.context}; shorten the prompt to at most {longest}.'
            )
        bounds = (
            ('max_tokens', request.max_tokens >= 1, 'at least 1'),
            ('temperature', 0 <= request.temperature < np.inf, '0 (greedy) or more'),
            ('top_k', request.top_k >= 0, '0 (off) or more'),
            ('top_p', 0 <= request.top_p <= 1, 'from 0 to 1 (off)'),
            ('stop', '' not in request.stop, 'strings that are not empty'),
        )
        if request.adapter is not None and request.adapter not in self.adapters:
            raise command.UserError(
                f'there is no adapter {request.adapter!r} beside this model; '
                f'{command.did_you_mean(request.adapter, self.adapters)}'
            )
        for name, fine, needs in bounds:
            if not fine:
                value = getattr(request, name)
                raise command.UserError(f'{name} is {value!r}; it must be {needs}.')

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The completions of the requests, in their order; raises as `check`."""
        pieces: list[list[Piece]] = [[] for _ in requests]
        for request in requests:
            self.check(request)
        for i, piece in self._run(requests, whole=True):
            pieces[i].append(piece)
        return [
            Completion(
                ''.join(piece.text for piece in parts),
                tuple(token for piece in parts for token in piece.tokens),
                str(parts[-1].finish_reason),
                len(request.prompt),
            )
            for request, parts in zip(requests, pieces, strict=True)
        ]

    def stream(self, request: Request) -> Iterator[Piece]:
        """The completion of one request, piece by piece; raises as `check`."""
        return (piece for _, piece in self.run([request]))

    def run(self, requests: Sequence[Request]) -> Iterator[tuple[int, Piece]]:
        """Pieces as they come, each with the index of its request; raises as `check`.

        The first piece of a request is one token, the others are up to loop.CHUNK.
        Abandoning the iterator ends the work.
        """
        for request in requests:
            self.check(request)
        return self._run(requests, whole=False)

    def _run(
        self, requests: Sequence[Request], whole: bool
    ) -> Iterator[tuple[int, Piece]]:
        for begin in range(0, len(requests), self.batch):
            batch = requests[begin : begin + self.batch]
            rows = [self._row(request) for request in batch]
            # The host knows what a token says, and so when a string ends a row.
            looks = not whole or any(request.stop for request in batch)
            for tokens_Bt in self._tokens(rows, looks):
                for i, (row, tokens) in enumerate(zip(rows, tokens_Bt, strict=True)):
                    if row.finish_reason is None:
                        yield begin + i, row.push([t for t in tokens if t >= 0])

    def _row(self, request: Request) -> Row:
        """Where a request begins: behind its prompt, or at a target's start."""
        begin = self.tokenizer.control[chat.BEGIN]
        begins = self._translates or request.prompt[-1] == begin
        last = 0 if self._translates else len(request.prompt) - 1
        room = self.context - 1 - last
        return Row(request, last, room, begins, self.tokenizer)

    def _tokens(self, rows: list[Row], looks: bool) -> Iterator[list[list[int]]]:
        """New tokens of each row, padded with -1; the caller pushes them in between.

        looks: a chunk at a time, not all of them.
        """
        B = _power_of_two(len(rows), 1)
        longest = max(len(row.request.prompt) for row in rows)
        T = min(_power_of_two(longest, SHORTEST), self.context)
        prompts_BT = np.zeros((B, T), np.int32)
        last_B, token_B, position_B, left_B = np.zeros((4, B), np.int32)
        for b, row in enumerate(rows):
            prompts_BT[b, : len(row.request.prompt)] = row.request.prompt
            last_B[b] = len(row.request.prompt) - 1
            position_B[b], left_B[b] = row.position, row.left
        settings = _settings(rows, B)
        if self.adapters:
            names = [row.request.adapter for row in rows]
            index_B = np.zeros(B, np.int32)
            index_B[: len(rows)] = [(None, *self.adapters).index(n) for n in names]
            settings = settings._replace(adapter_B=jnp.asarray(index_B))
        S = self._room(1 if self._translates else T)
        given = self._params, prompts_BT, last_B
        if not looks:
            rooms = [S]
            end = max(row.position + row.left for row in rows) + 1
            while rooms[-1] < min(end, self.context):
                rooms.append(self._room(rooms[-1] + 1))
            out_BC = self._complete(
                *given, position_B, left_B, settings, rooms=tuple(rooms)
            )
            yield np.asarray(out_BC)[: len(rows)].tolist()
            return
        k = self._drafted
        first_B, cache = self._prefill(*given, settings, S=S + k)
        out_BC = np.asarray(first_B)[:, None]
        said_BS = np.zeros((B, self.context + 1), np.int32)  # what drafts come from
        if not self._translates:
            said_BS[:, :T] = prompts_BT
        yield out_BC[: len(rows)].tolist()
        while any(row.finish_reason is None for row in rows):
            for b, row in enumerate(rows):
                new = [token for token in out_BC[b] if token >= 0]
                said_BS[b, position_B[b] + 1 :][: len(new)] = new
                token_B[b], position_B[b] = row.last, row.position
                left_B[b] = row.left if row.finish_reason is None else 0
            ahead_B = np.minimum(left_B, loop.CHUNK * (k + 1))
            if (room := self._room(int(max(position_B + ahead_B)))) > S:
                S, cache = room, self._grow(cache, S=room + k)
            read = (said_BS[:, : S + 1], token_B) if k else (token_B,)
            out_BC, cache = self._decode(
                self._params, *read, position_B, left_B, settings, cache=cache
            )
            out_BC = np.asarray(out_BC)
            yield out_BC[: len(rows)].tolist()

    def _room(self, tokens: int) -> int:
        """The tokens that a cache for so many has room for."""
        return min(_power_of_two(int(tokens), SMALLEST), self.context)


def _held(params: core.Params, weights: str) -> core.Params:
    """Unstacked parameters as decoding reads them."""
    params = joined.tree(params)
    if weights in quantise.SERVED:
        return quantise.for_serving(params, weights)
    if weights == 'float32':
        return params

    def few(x: Any) -> Any:  # what is in few bits already keeps its scales
        wide = not isinstance(x, leaves.Quantised) and x.dtype == jnp.float32
        return x.astype(jnp.bfloat16) if wide else x

    held: core.Params = jax.tree.map(
        few, params, is_leaf=lambda x: isinstance(x, leaves.Quantised)
    )
    return held


def may_say(V: int, tokenizer: text_tokenizer.Tokenizer) -> np.ndarray:
    """Which of the V tokens of a model it may say (bool).

    A vocabulary may be padded, and a tokenizer may have ids that the model lacks.
    """
    may_say_V = np.arange(V) < tokenizer.vocab_size
    unsaid = [tokenizer.control[name] for name in UNSAID if name in tokenizer.control]
    may_say_V[[token for token in unsaid if token < V]] = False
    return may_say_V


def _power_of_two(n: int, least: int) -> int:
    return max(least, 1 << (n - 1).bit_length())


def _settings(rows: list[Row], B: int) -> loop.Settings:
    """The settings of the rows; the rows that fill the batch up are greedy."""
    X = _power_of_two(max(len(row.stops) for row in rows), 4)
    stops_BX = np.full((B, X), -1, np.int32)
    seed_words_B2 = np.zeros((B, 2), np.uint32)
    temperature_B, top_p_B = np.zeros(B, np.float32), np.ones(B, np.float32)
    top_k_B = np.zeros(B, np.int32)
    for b, row in enumerate(rows):
        stops_BX[b, : len(row.stops)] = row.stops
        seed_words_B2[b] = sampling.seed_words(row.request.seed)
        temperature_B[b], top_p_B[b] = row.request.temperature, row.request.top_p
        top_k_B[b] = min(row.request.top_k, np.iinfo(np.int32).max)
    arrays = (temperature_B, top_k_B, top_p_B, seed_words_B2, stops_BX)
    return loop.Settings(*map(jnp.asarray, arrays))
