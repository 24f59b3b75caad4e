"""Text to tokens beside the peers, by turns; and text to packed batches on the fly.

The second figure is of everything between the two: control tokens, the ledger's rows,
best-fit packing and the arrays of batches, over and over on texts that are at hand.
"""

from collections.abc import Iterator
from pathlib import Path
import statistics
import tempfile
import time
from typing import Any

import numpy as np

from experiments.benchmarks import _data_tokens, tokenizers
from gptjax.data import documents, pipeline, shards
from gptjax.data import rows as rows_lib
from gptjax.text import gpt2

GOALS = {'GPT-2: tiktoken': 0.95, 'GPT-2: tokenizers': 1.0}
T, ROWS, TURNS = 1024, 16, 7


def rows() -> Iterator[dict[str, Any]]:
    texts = _data_tokens.texts()
    for name, ours, theirs, _ in tokenizers._gpt2(_data_tokens.data(), texts):
        yield _data_tokens.compared(name, GOALS[name], ours, theirs, texts)
    made = gpt2.GPT2.make(lambda: [], path=_data_tokens.data() / 'gpt2_tokenizer')
    speeds = [_to_batches(made, texts) for _ in range(TURNS)]
    yield {
        'name': 'text to packed batches, GPT-2 tokens', 'goal': 1.5, 'direction': 'max',
        'value': statistics.median(speeds), 'unit': 'M tokens/s, all cores',
    }  # fmt: skip


def _to_batches(made: gpt2.GPT2, texts: list[str]) -> float:
    """Million tokens a second, from documents to the last batch of an epoch."""
    corpus = [
        documents.Document(f'{number}', f'{number}', 'CC0-1.0', text=text)
        for number, text in enumerate(texts)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        writer = shards.Writer(folder, folder, 'train', '<u2', 1 << 30)
        encoded = shards.encode(made, corpus)
        for document, tokens in zip(corpus, encoded, strict=True):
            writer.add(document, tokens)
        writer.close()
        shard = folder / writer.finished[0]['file']
        starts = np.fromfile(shard.with_suffix('.offsets'), '<i8')
        stream = rows_lib.Stream([shard], [int(starts[-1])], np.dtype('<u2'))
        packed = rows_lib.BestFitRows(stream, starts, T)
        for row in range(0, len(packed), ROWS):
            pipeline.batch(packed, seed=0, batch_size=ROWS, row=row)
        return len(stream) / (time.perf_counter() - began) / 1e6
