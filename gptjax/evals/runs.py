"""The runs that a report is about, as read from their workdirs."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from pathlib import Path
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from gptjax import command, trees
from gptjax.data import dataset as dataset_lib
from gptjax.evals import answers, scores
from gptjax.generate import engine as engine_lib
from gptjax.model import config as model_config
from gptjax.model import heads, transformer
from gptjax.text import chat
from gptjax.train import build, log, start

SAMPLES = 3
SAMPLING: dict[str, Any] = {
    'max_tokens': 80,
    'temperature': 0.8,
    'top_p': 0.95,
    'seed': 0,
}
_OPENING = 12  # tokens of a held-out document that a text model continues


@dataclasses.dataclass(frozen=True)
class Run:
    """What the page says of one workdir; samples are (prompt, continuation)."""

    name: str
    workdir: Path
    config: dict[str, Any]
    arch: model_config.Architecture
    parameters: int
    trained: int  # of the parameters
    step: int
    dataset: dataset_lib.Dataset
    records: list[dict[str, Any]]
    results: list[dict[str, Any]]
    samples: list[tuple[str, str]]
    transcripts: list[dict[str, Any]]  # of rollouts: the lines of samples.jsonl


def writes(arch: model_config.Architecture) -> bool:
    """Whether the model writes text."""
    return arch.causal and arch.head.kind in heads.OVER_TOKENS


def read(workdirs: Sequence[Path], prompts: Sequence[str]) -> list[Run]:
    """The runs, in the order of training; see `report.write`."""
    return [
        _read(name, workdir, prompts)
        for name, workdir in zip(_names(workdirs), workdirs, strict=True)
    ]


def _names(workdirs: Sequence[Path]) -> list[str]:
    """The names of the folders, or their whole paths where two are the same."""
    names = [workdir.resolve().name for workdir in workdirs]
    if len(set(names)) == len(names):
        return names
    if len({str(workdir.resolve()) for workdir in workdirs}) < len(names):
        raise command.UserError('a --workdir is given twice; give each one once.')
    return [str(workdir) for workdir in workdirs]


def _read(name: str, workdir: Path, prompts: Sequence[str]) -> Run:
    trained = build.load(workdir)
    built = build.dataset_of(trained)
    continues = built.kind == 'text' and writes(trained.model.arch)
    arrays = start.saved(workdir)[0]['arrays']
    return Run(
        name=name,
        workdir=workdir,
        config=trained.config,
        arch=trained.model.arch,
        parameters=trees.count(nn.unbox(transformer.abstract(trained.model))),
        trained=_trained(trained, arrays),
        step=trained.step,
        dataset=built,
        records=log.read(workdir),
        results=scores.read(workdir),
        samples=_continued(trained, built, prompts) if continues else [],
        transcripts=log.read(workdir, log.SAMPLES),
    )


def _trained(trained: build.Trained, arrays: Mapping[str, Any]) -> int:
    """How many weights were trained; an adapter's checkpoint holds no others."""
    if 'adapter' not in trained.config:
        shapes = nn.unbox(transformer.abstract(trained.model))
        kept = build.trained_of(trained.config, trained.model)
        return trees.count(jax.eval_shape(kept.take, shapes))
    saved = [x['shape'] for name, x in arrays.items() if name.startswith('params/')]
    return sum(math.prod(shape) for shape in saved)


def _continued(
    trained: build.Trained, built: dataset_lib.Dataset, prompts: Sequence[str]
) -> list[tuple[str, str]]:
    """Prompts and their sampled continuations."""
    engine = engine_lib.Engine(trained.model, trained.params, trained.tokenizer)
    given = [engine.document(prompt) for prompt in prompts]
    begin = trained.tokenizer.control[chat.BEGIN]
    if not given:
        rows = built.rows(scores.SPLIT, build.row_length(trained))
        given = openings(scores.stream(rows), begin, SAMPLES)
    requests = [engine_lib.Request(tokens, **SAMPLING) for tokens in given]
    return [
        (trained.tokenizer.decode(tokens), completion.text)
        for tokens, completion in zip(given, engine.generate(requests), strict=True)
    ]


def openings(stream: np.ndarray, begin: int, count: int) -> list[tuple[int, ...]]:
    """The first tokens of `count` documents of a stream, `begin` included."""
    starts = np.flatnonzero(stream[:-1] == begin).tolist()
    ends = [*starts[1:], len(stream) - 1]
    return [
        tuple(stream[start : min(start + 1 + _OPENING, end)].tolist())
        for start, end in answers.spread(list(zip(starts, ends, strict=True)), count)
    ]
