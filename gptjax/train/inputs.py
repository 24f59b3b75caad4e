"""What a run reads: its dataset or mixture, opened, checked, and as rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from gptjax import command
from gptjax.data import build as data_build
from gptjax.data import dataset, feedback_rows, masking, mixture, turn_rows
from gptjax.data import rows as rows_lib
from gptjax.model import config as model_config
from gptjax.objectives import table as objective_table
from gptjax.text import table as text_table
from gptjax.text import tokenizer as tokenizer_lib
from gptjax.train import settings as settings_lib


def open(
    data: settings_lib.Data, workdir: Path, objective: objective_table.Objective
) -> dataset.Dataset | mixture.Mixed:
    """Opens the data; raw text is built into the workdir first, by one process."""
    if data.mixture is not None:
        mixed = mixture.Mixed(data.mixture, data.batch_size)
        for one in mixed.datasets:
            _check(one, data, objective)
        return mixed
    assert data.path is not None
    if data.build is None:
        built = dataset.open(data.path)
    else:
        if jax.process_index() > 0:  # the first process builds, the others wait
            multihost_utils.sync_global_devices('dataset built')
        try:
            built = data_build.ensure(data.path, workdir / 'data', data.build)
        finally:
            if jax.process_index() == 0 and jax.process_count() > 1:
                multihost_utils.sync_global_devices('dataset built')
    _check(built, data, objective)
    return built


def _check(
    built: dataset.Dataset,
    data: settings_lib.Data,
    objective: objective_table.Objective,
) -> None:
    check_kind(built, objective)
    if data.licences is not None:
        built.check_licences(data.licences)


def check_kind(built: dataset.Dataset, objective: objective_table.Objective) -> None:
    if built.kind not in objective.kinds:
        raise command.UserError(
            f'{built.folder} is a dataset of {built.kind}, and this objective is for '
            f'{" or ".join(objective.kinds)}; take other data, or another '
            'objective.name.'
        )


def rows(
    built: dataset.Dataset | mixture.Mixed,
    data: settings_lib.Data,
    T: int,
    objective: objective_table.Objective,
    options: Mapping[str, Any],
    split: str,
    *,
    seed: int,
) -> rows_lib.Rows:
    def of(one: dataset.Dataset) -> rows_lib.Rows:
        packing = data.packing if split == 'train' else None
        plain = one.rows(split, T, packing, objective.feedback, data.longer)
        if not objective.masks:
            return plain
        also = dict(rows=plain, tokenizer=one.tokenizer(), seed=seed)
        return command.splat(masking.MaskedRows, 'objective', options, **also)

    made = built.mix(split, of) if isinstance(built, mixture.Mixed) else of(built)
    found = counts(made)
    parts = made.parts() if isinstance(made, mixture.Mixture) else {'': made}
    if len(found) == len(parts) and all(
        one['unlearned'] == max(one.values()) for one in found.values()
    ):
        raise command.UserError(
            f'the {split} split has nothing to learn in rows of {T} tokens: questions '
            'fill them, or answers are equal; set data.T or model.T larger, or take '
            'other data.'
        )
    return made


def counts(rows: rows_lib.Rows) -> dict[str, dict[str, int]]:
    """What rows of conversations, pairs and answers count, by source ('' if only one).

    How many there are, are longer than a row, and count for nothing.
    """
    parts = rows.parts() if isinstance(rows, mixture.Mixture) else {'': rows}
    turns = turn_rows.ChatRows, turn_rows.PairRows, feedback_rows.FeedbackRows
    found = {name: some for name, some in parts.items() if isinstance(some, turns)}
    return {name: dict(some.counts) for name, some in found.items()}


def check_labels(
    built: dataset.Dataset | mixture.Mixed, arch: model_config.Architecture
) -> None:
    count = len(built.labels)
    if count and arch.head.kind == 'classes' and count != arch.head.classes:
        raise command.UserError(
            f'the dataset has {count} classes ({", ".join(built.labels[:9])}), and '
            f'model.head.classes is {arch.head.classes}; set it to {count}.'
        )


def check_tokenizer(
    tokenizer: tokenizer_lib.Tokenizer,
    arch: model_config.Architecture,
    section: Mapping[str, Any],
) -> None:
    if tokenizer.vocab_size > arch.V:
        raise command.UserError(
            f'the tokenizer has {tokenizer.vocab_size} ids and model.V is {arch.V}; '
            f'set model.V to at least {tokenizer.vocab_size}.'
        )
    if 'init_from' in section:
        old = text_table.load(Path(section['init_from']) / 'tokenizer')
        larger = 'V' in section and _extends(tokenizer, old)
        if old.digest != tokenizer.digest and not larger:
            raise command.UserError(
                f'the dataset and {section["init_from"]} have different tokenizers; '
                'build the data with that workdir as its tokenizer '
                f'(name="folder", path="{section["init_from"]}").'
            )


def _extends(tokenizer: tokenizer_lib.Tokenizer, old: tokenizer_lib.Tokenizer) -> bool:
    """Whether all ids of `old` mean the same to `tokenizer`, which has more of them."""
    return (
        tokenizer.vocab_size >= old.vocab_size
        and old.control.items() <= tokenizer.control.items()
        and all(
            tokenizer.token_bytes(token) == old.token_bytes(token)
            for token in range(old.vocab_size)
        )
    )


def length(data: settings_lib.Data, arch: model_config.Architecture) -> int:
    if data.T is not None and not 1 <= data.T <= arch.T:
        raise command.UserError(
            f'data.T is {data.T}, and the context of the model is {arch.T}; set it to '
            'at most that, or to None.'
        )
    return arch.T if data.T is None else data.T
