"""The loss of a run: the objective with its options, a teacher, and its rollouts."""

from collections.abc import Callable, Mapping
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from gptjax import command, core
from gptjax.generate import engine
from gptjax.model import config as model_config
from gptjax.model import kernels, pipeline, transformer
from gptjax.objectives import policy
from gptjax.objectives import table as objective_table
from gptjax.text import table as text_table
from gptjax.text import tokenizer as tokenizer_lib
from gptjax.train import settings as settings_lib
from gptjax.train import start


@dataclasses.dataclass(frozen=True)
class Made:
    """An objective as a config has it."""

    objective: objective_table.Objective
    loss_fn: core.LossFn
    of_rows: dict[str, Any]  # the options that rows take
    rollout: settings_lib.Rollout | None
    sampled: policy.Options | None  # of rollouts, with those of the objective
    prepare: Callable[[Any, Any], Any] | None  # of a rollout, see Objective
    teacher: str | None  # a workdir
    teacher_start: start.Start | None


def of(
    settings: Mapping[str, Any],
    model: transformer.Model,
    plain: model_config.Compute,
    T: int,
) -> Made:
    """The loss for a model; UserError for options and sections that do not fit.

    plain: what a teacher of rows of T tokens chooses its attention from.
    """
    name, options = settings_lib.named(settings['objective'], 'objective')
    objective = command.lookup(objective_table.OBJECTIVES, name, 'objective')
    rollout = _rollout(settings, name, objective)
    of_loss, of_rows = ({}, options) if objective.masks else (options, {})
    also: dict[str, Any] = {}
    teacher, begin = None, None
    if 'teacher' in objective.frozen:
        if 'teacher' not in of_loss:
            raise command.UserError(
                'objective lacks teacher; set it to the workdir of the model to learn '
                'from.'
            )
        teacher = str(of_loss.pop('teacher'))
        rows = settings_lib.data_of(settings).batch_size // plain.accumulate
        also['teacher'], begin = _teacher(teacher, model, plain, T, rows)
    names = ('temperature', 'max_tokens', 'group')
    asked = {field: getattr(rollout, field) for field in names if rollout}
    prepare, sampled = None, policy.Options(**asked) if rollout else None
    if objective.options is None:
        loss_fn = command.splat(
            objective.make, 'objective', of_loss, model=model, **also
        )
    else:
        assert objective.prepare is not None
        # Which tokens are unsaid, the tokenizer tells: see `fitted`.
        asked['unsaid'] = ()
        sampled = command.splat(objective.options, 'objective', of_loss, **asked)
        loss_fn = objective.make(model, sampled)
        prepare = objective.prepare(sampled)
    objective = objective.given(options)
    return Made(objective, loss_fn, of_rows, rollout, sampled, prepare, teacher, begin)


def needs_values(settings: Mapping[str, Any]) -> bool:
    """Whether the objective of a config needs a value for each token."""
    name, _ = settings_lib.named(settings['objective'], 'objective')
    objective = command.lookup(objective_table.OBJECTIVES, name, 'objective')
    return bool(objective.values)


def _rollout(
    settings: Mapping[str, Any], name: str, objective: objective_table.Objective
) -> settings_lib.Rollout | None:
    """The section `rollout`, checked against the others."""
    needed = objective.prepare is not None
    if needed != ('rollout' in settings) and 'teacher' not in objective.frozen:
        raise command.UserError(
            f'objective {name!r} learns from '
            + (
                "the model's own answers; add the sections rollout and rewards."
                if needed
                else 'rows of a dataset; take the section rollout out.'
            )
        )
    if needed or 'rewards' in settings:
        _check_rewards(settings)
    if 'rollout' not in settings:
        return None
    made = settings_lib.rollout_of(settings)
    data = settings_lib.data_of(settings)
    made.updates(data.batch_size)
    for option in ('T', 'packing', 'mixture'):
        if getattr(data, option) is not None:
            raise command.UserError(
                f'data.{option} is set, and rollouts take prompts from one dataset, '
                'each a row of its own; set it to None.'
            )
    return made


def _check_rewards(settings: Mapping[str, Any]) -> None:
    rewards = {'rewards': (), **settings}['rewards']
    if not rewards or not all('name' in section for section in rewards):
        raise command.UserError(
            f'rewards is {rewards!r}; it needs one or more sections: '
            '(dict(name=..., weight=1.0, ...), ...).'
        )
    if 'rollout' not in settings:
        raise command.UserError(
            'rewards are of rollouts, and the config has none; take them out.'
        )


def _teacher(
    teacher: str,
    model: transformer.Model,
    plain: model_config.Compute,
    T: int,
    rows: int,
) -> tuple[transformer.Model, start.Start]:
    begin = start.from_workdir(
        teacher,
        dropout=0.0,
        seed=0,
        sharding=model.sharding,
        compute=model.compute,
        values=False,
    )
    try:
        pipeline.check(begin.arch, plain, model.sharding, rows)
    except command.UserError as error:
        raise command.UserError(f'objective.teacher {teacher}: {error}') from None
    made = transformer.make(begin.arch, plain, model.sharding)
    return kernels.attending(made, T, train=False)[0], begin


def fitted(
    made: Made,
    model: transformer.Model,
    tokenizer: tokenizer_lib.Tokenizer,
    T: int,
) -> Made:
    """The loss for a tokenizer, and so for the tokens that its sampler draws.

    Raises UserError where rows of T tokens do not fit the models, or the teacher.
    """
    _check(made, model, tokenizer, T)
    if made.sampled is None:
        return made
    may_say_V = engine.may_say(model.arch.V, tokenizer)
    unsaid = tuple(np.flatnonzero(~may_say_V).tolist())
    sampled = dataclasses.replace(made.sampled, unsaid=unsaid)
    loss_fn = made.loss_fn
    if made.objective.options is not None:
        loss_fn = made.objective.make(model, sampled)
    return dataclasses.replace(made, sampled=sampled, loss_fn=loss_fn)


def _check(
    made: Made,
    model: transformer.Model,
    tokenizer: tokenizer_lib.Tokenizer,
    T: int,
) -> None:
    rollout, arch = made.rollout, model.arch
    if rollout and (not arch.causal or arch.encoder_L):
        raise command.UserError(
            'rollouts are of causal models without an encoder; take another model.'
        )
    if rollout and arch.T < T:
        raise command.UserError(
            f'rollout.prompt_tokens is {rollout.prompt_tokens} and rollout.max_tokens '
            f'{rollout.max_tokens}, and the context of the model is {arch.T}; together '
            f'they are at most {arch.T + 1}.'
        )
    if made.teacher is None or made.teacher_start is None:
        return
    if text_table.load(Path(made.teacher) / 'tokenizer').digest != tokenizer.digest:
        raise command.UserError(
            f'objective.teacher {made.teacher} and the dataset have different '
            'tokenizers; take a teacher whose tokens are the same.'
        )
    if made.teacher_start.arch.T < T:
        raise command.UserError(
            f'objective.teacher {made.teacher} has a context of '
            f'{made.teacher_start.arch.T} tokens, and rows have {T}; set data.T to at '
            'most that, or make rollouts shorter.'
        )
