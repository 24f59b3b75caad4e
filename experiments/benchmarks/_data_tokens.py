"""Tokens: GPT-2's of the builder beside tiktoken by turns, both on all cores."""

from collections.abc import Iterator
import os
from pathlib import Path
import statistics
import time
from typing import Any

from experiments.benchmarks import tokenizers
from gptjax.text import gpt2

TURNS = 9


def rows() -> Iterator[dict[str, Any]]:
    data = Path(os.environ['GPTJAX_DATA'])
    text = (data / 'gutenberg_editions' / '1342.txt').read_text()
    text += (data / 'wikitext2_eval' / 'valid.txt').read_text()
    texts = [text[i : i + 5000] for i in range(0, len(text), 5000)]
    ours = gpt2.GPT2.make(lambda: [], path=data / 'gpt2_tokenizer').encode_batch
    theirs = tokenizers._tiktoken(data / 'gpt2_tokenizer')
    assert ours(texts) == theirs(texts)
    seconds: dict[Any, list[float]] = {ours: [], theirs: []}
    for _ in range(TURNS):
        for encode, times in seconds.items():
            before = time.perf_counter()
            encode(texts)
            times.append(time.perf_counter() - before)
    speed = [len(text.encode()) / 1e6 / statistics.median(seconds[e]) for e in seconds]
    yield {
        'name': 'GPT-2 tokens / tiktoken', 'value': speed[0] / speed[1], 'goal': 0.95,
        'direction': 'max', 'unit': 'times as fast', 'ours': speed[0],
        'peer': speed[1],
    }  # fmt: skip
