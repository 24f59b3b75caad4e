"""Tokens: GPT-2's of the builder beside tiktoken by turns, both on all cores."""

from collections.abc import Iterator
import os
from pathlib import Path
import statistics
import time
from typing import Any

from experiments.benchmarks import tokenizers

TURNS = 9


def rows() -> Iterator[dict[str, Any]]:
    given = texts()
    _, ours, theirs, _ = next(tokenizers._gpt2(data(), given))
    yield compared('GPT-2 tokens / tiktoken', 0.95, ours, theirs, given)


def data() -> Path:
    """The folder of real data."""
    return Path(os.environ['GPTJAX_DATA'])


def texts() -> list[str]:
    """A book and a part of Wikipedia, in pieces as long as web pages are."""
    text = (data() / 'gutenberg_editions' / '1342.txt').read_text()
    text += (data() / 'wikitext2_eval' / 'valid.txt').read_text()
    return [text[i : i + 5000] for i in range(0, len(text), 5000)]


def compared(
    name: str,
    goal: float,
    ours: tokenizers.Encode,
    theirs: tokenizers.Encode,
    given: list[str],
) -> dict[str, Any]:
    """A row: both make the same tokens, and how many MB/s, by turns."""
    assert ours(given) == theirs(given)
    seconds: dict[Any, list[float]] = {ours: [], theirs: []}
    for _ in range(TURNS):
        for encode, times in seconds.items():
            before = time.perf_counter()
            encode(given)
            times.append(time.perf_counter() - before)
    size = sum(len(text.encode()) for text in given) / 1e6
    speed = [size / statistics.median(times) for times in seconds.values()]
    return {
        'name': name, 'value': speed[0] / speed[1], 'goal': goal, 'direction': 'max',
        'unit': 'times as fast', 'ours': speed[0], 'peer': speed[1],
    }  # fmt: skip
