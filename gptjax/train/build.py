"""From a config to a run: the only reader of training configs (see `settings`).

Each section goes to the constructor that it names; an option that no constructor knows,
or one that is missing, is an error with the nearest name.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from pathlib import Path
from typing import Any

from flax import linen as nn
import jax
import optax

from gptjax import command, core
from gptjax import sharding as sharding_lib
from gptjax.data import dataset, mixture, prompts, storage
from gptjax.data import rows as rows_lib
from gptjax.model import config as model_config
from gptjax.model import kernels, pipeline, transformer
from gptjax.objectives import policy
from gptjax.objectives import table as objective_table
from gptjax.text import table as text_table
from gptjax.text import tokenizer as tokenizer_lib
from gptjax.train import adapter as adapter_lib
from gptjax.train import freeze, inputs, losses, optim, schedules, start
from gptjax.train import guard as guard_lib
from gptjax.train import settings as settings_lib
from gptjax.train import table as train_table

IMPORTED_T = 2048  # scores of a row are quadratic in it
LABELS = 'labels.json'  # of a workdir: the names of a classifier's classes


@dataclasses.dataclass(frozen=True)
class Run:
    """All that the loop needs, made from one config."""

    workdir: Path
    settings: dict[str, Any]  # the config as JSON
    seed: int
    steps: int
    model: transformer.Model
    attention: kernels.Choice
    tokenizer: tokenizer_lib.Tokenizer
    boxed: core.Params  # shapes and axes of what is trained and saved
    start_params: Callable[[], core.Params]
    frozen: Callable[[], dict[str, Any]]  # what the loss reads besides
    start_digest: str  # of the weights of another workdir that it starts from, or ''
    base_digest: str  # of those that an adapter is over, or ''
    start_step: int
    objective: objective_table.Objective
    loss_fn: core.LossFn
    joined: Callable[[core.Params, Mapping[str, Any]], core.Params]  # what models take
    rollout: settings_lib.Rollout | None
    sampled: policy.Options | None  # of rollouts, see `policy.read`
    prepare: Callable[[Any, Any], Any] | None  # of a rollout, see Objective
    optimizer: optax.GradientTransformation
    trained: freeze.Trained
    schedule: schedules.Schedule
    labels: list[str]  # the names of the classes, where the dataset has some
    data: settings_lib.Data
    T: int  # tokens in a row
    datasets: list[dataset.Dataset]
    rows: rows_lib.Rows
    eval_rows: rows_lib.Rows
    checkpoint: settings_lib.Checkpoint
    eval: settings_lib.Eval
    options: settings_lib.Options
    guard: guard_lib.Options


def build(config: Any, workdir: Path, allow_config_change: bool = False) -> Run:
    """Everything of a run, from a ConfigDict; in the workdir it only builds raw data.

    Raises UserError for any setting that is unknown, missing or does not fit.
    """
    _check_workdir(workdir)
    settings = settings_lib.of(config)
    settings_lib.check_unchanged(settings, workdir, allow_config_change)
    loop = settings_lib.of_loop(settings)
    begin, plain = begin_of(settings)
    data = settings_lib.data_of(settings)
    T = _length(settings, data, plain)
    model, attention = kernels.attending(plain, T)
    _check_batch(data.batch_size, model, 'data.batch_size')
    for _, rows in data.batch_ramp:
        _check_batch(rows, model, 'data.batch_ramp')
    made = losses.of(settings, model, plain.compute, T)
    objective, rollout = made.objective, made.rollout
    adapter, full = adapter_lib.of(settings), transformer.abstract(model)
    boxed = _saved(adapter, full, begin.new_head)
    trained = freeze.select(nn.unbox(boxed), settings['optimizer']['freeze'])
    freeze.check_stages(trained, model.sharding.parts('layers'))
    built = inputs.open(data, workdir, objective)  # may take long, so it comes last
    datasets = built.datasets if isinstance(built, mixture.Mixed) else [built]
    _check_packing(data, datasets)
    tokenizer = built.tokenizer()
    inputs.check_tokenizer(tokenizer, model.arch, settings['model'])
    inputs.check_labels(built, model.arch)
    made = losses.fitted(made, model, tokenizer, T)
    split = _splits(settings, data, built, made, T)
    # Of rollouts, rows are prompts, and some of them are worth some updates.
    of_step = rollout.prompts / rollout.updates(data.batch_size) if rollout else None
    steps = _steps(settings, len(split['train']), of_step or data.batch_size)
    schedule, optimizer = optimizer_of(settings, steps, model.arch)
    run = Run(
        workdir=workdir,
        settings=settings,
        seed=settings['seed'],
        steps=steps,
        model=model,
        attention=attention,
        tokenizer=tokenizer,
        boxed=boxed,
        start_params=begin.params,
        frozen=functools.partial(_frozen, made, begin.params),
        start_digest=_digest(begin, made.teacher_start),
        base_digest='',
        start_step=begin.step,
        objective=objective,
        loss_fn=made.loss_fn,
        joined=lambda params, _: params,
        rollout=rollout,
        sampled=made.sampled,
        prepare=made.prepare,
        optimizer=optimizer,
        trained=trained,
        schedule=schedule,
        labels=built.labels,
        data=data,
        T=T,
        datasets=datasets,
        rows=split['train'],
        eval_rows=split['validation'],
        **loop,
    )
    return _adapted(run, adapter, begin, made, full) if adapter else run


def _check_workdir(workdir: Path) -> None:
    if workdir.exists() and not workdir.is_dir():
        raise command.UserError(f'--workdir={workdir} is a file; name a folder.')
    if ':/' in str(workdir):
        raise command.UserError(
            f'--workdir={workdir} is an address; mount the bucket, and name its '
            'folder, which all hosts see.'
        )


def _length(
    settings: Mapping[str, Any], data: settings_lib.Data, model: transformer.Model
) -> int:
    """Tokens in a row; UserError where the mesh does not divide them."""
    T, which = inputs.length(data, model.arch), 'data.T'
    if 'rollout' in settings:
        T = settings_lib.rollout_of(settings).T
        which = 'rollout.prompt_tokens + rollout.max_tokens - 1'
    model.sharding.check_length(T, which)
    return T


def _saved(
    adapter: adapter_lib.Adapter | None, full: core.Params, new_head: bool
) -> core.Params:
    """What is trained and saved; UserError for a new head that adapters leave."""
    boxed = adapter.trained(full) if adapter else full
    if adapter and new_head and not start.outputs(full) <= start.outputs(boxed):
        raise command.UserError(
            'the head is a new one, and adapters would leave it as it is drawn; '
            "add 'head' to adapter.train."
        )
    return boxed


def _check_batch(batch_size: int, model: transformer.Model, name: str) -> None:
    sharding, accumulate = model.sharding, model.compute.accumulate
    sharding.check_batch(batch_size, name)
    if batch_size % (accumulate * sharding.batch_shards):
        raise command.UserError(
            f'{name} is {batch_size}, which {accumulate} '
            f'microbatches on {sharding.batch_shards} data shards do not divide; set '
            f'it to a multiple of {accumulate * sharding.batch_shards}, or '
            'change compute.accumulate.'
        )
    rows = batch_size // accumulate
    pipeline.check(model.arch, model.compute, sharding, rows)


def _check_packing(
    data: settings_lib.Data, datasets: Sequence[dataset.Dataset]
) -> None:
    if data.packing and all(one.kind != 'text' for one in datasets):
        raise command.UserError(
            f'data.packing is {data.packing!r}, which is for text, and has no effect '
            f'on {datasets[0].kind}; set it to None.'
        )


def _splits(
    settings: Mapping[str, Any],
    data: settings_lib.Data,
    built: dataset.Dataset | mixture.Mixed,
    made: losses.Made,
    T: int,
) -> Any:
    """The rows of training and validation, or, for rollouts, their prompts."""
    # The same draws in every run: evaluations of runs with other seeds compare.
    seeds = {'train': settings['seed'], 'validation': 0}
    if made.rollout:
        assert isinstance(built, dataset.Dataset)  # `losses.of` refuses mixtures
        P = made.rollout.prompt_tokens
        return {name: prompts.Prompts(built, name, P) for name in seeds}
    given = (built, data, T, made.objective, made.of_rows)
    return {name: inputs.rows(*given, name, seed=seeds[name]) for name in seeds}


def _adapted(
    run: Run,
    adapter: adapter_lib.Adapter,
    begin: start.Start,
    made: losses.Made,
    full: core.Params,
) -> Run:
    """The run that trains adapters over the weights that `begin` gives."""
    sharding = run.model.sharding

    def frozen() -> dict[str, Any]:
        base = adapter.over(full, sharding, begin.params())
        return {**_frozen(made, lambda: base), 'base': base}

    return dataclasses.replace(
        run,
        start_params=functools.partial(
            adapter.start, full, sharding, run.seed, begin.params
        ),
        frozen=frozen,
        base_digest=begin.digest,
        loss_fn=adapter.loss(made.loss_fn),
        joined=adapter.joined,
    )


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model as a workdir holds it, on one device."""

    workdir: Path
    model: transformer.Model
    params: core.Params
    tokenizer: tokenizer_lib.Tokenizer
    config: dict[str, Any]
    step: int
    labels: list[str]  # of a classifier


def load(workdir: Path) -> Trained:
    """The newest whole checkpoint of a workdir; the best one if it stopped early."""
    manifest, arch = start.saved(workdir)
    on_cpu = jax.default_backend() == 'cpu'  # which is slower in bfloat16
    dtype = 'float32' if on_cpu else 'bfloat16'
    compute = model_config.Compute(dtype, remat='none', scan_unroll=1, accumulate=1)
    model = transformer.make(arch, compute, sharding_lib.single())
    trained = Trained(
        workdir=workdir,
        model=model,
        params=start.restore(workdir, manifest, model),
        tokenizer=text_table.load(workdir / 'tokenizer'),
        config=settings_lib.stored(workdir),
        step=manifest['step'],
        labels=_labels(workdir, arch),
    )
    model, _ = kernels.attending(model, row_length(trained), train=False)
    return dataclasses.replace(trained, model=model)


def _labels(workdir: Path, arch: model_config.Architecture) -> list[str]:
    """The names of a classifier's classes; without names, their numbers."""
    if not (workdir / LABELS).is_file():
        return [str(number) for number in range(arch.head.classes)]
    return list(storage.read_json(workdir / LABELS))


def dataset_of(trained: Trained) -> dataset.Dataset:
    """The dataset that a workdir was trained on, of a mixture the first one.

    Raises UserError for imported weights.
    """
    if 'imported' in trained.config:
        raise command.UserError(
            f'{trained.workdir} holds imported weights and no dataset; give one that '
            'was built with its tokenizer, by --data=DIR.'
        )
    name, _ = settings_lib.named(trained.config['objective'], 'objective')
    data = settings_lib.data_of(trained.config)
    built = inputs.open(data, trained.workdir, objective_table.OBJECTIVES[name])
    return built.datasets[0] if isinstance(built, mixture.Mixed) else built


def row_length(trained: Trained) -> int:
    """Tokens in a row of a workdir's evaluations: as in its training.

    Imported weights were trained elsewhere: their rows are of at most IMPORTED_T.
    """
    arch = trained.model.arch
    if 'imported' in trained.config:
        return min(arch.T, IMPORTED_T)
    return inputs.length(settings_lib.data_of(trained.config), arch)


def begin_of(settings: Mapping[str, Any]) -> tuple[start.Start, transformer.Model]:
    """Where the weights come from, and the model that they are of."""
    sharding = command.splat(sharding_lib.make, 'mesh', settings['mesh'])
    compute = command.splat(model_config.Compute, 'compute', settings['compute'])
    section = settings['model']
    values = losses.needs_values(settings)
    seed = settings['seed']
    also = dict(seed=seed, sharding=sharding, compute=compute, values=values)
    if 'init_from' in section:
        begin = command.splat(start.from_workdir, 'model', section, **also)
    else:
        begin = start.fresh(section, **also)
    return begin, transformer.make(begin.arch, compute, sharding)


def trained_of(settings: Mapping[str, Any], model: transformer.Model) -> freeze.Trained:
    """Which of the weights are trained, or of the adapters."""
    boxed, adapter = transformer.abstract(model), adapter_lib.of(settings)
    shapes = nn.unbox(adapter.trained(boxed) if adapter else boxed)
    return freeze.select(shapes, settings['optimizer']['freeze'])


def objective_of(
    trained: Trained, built: dataset.Dataset, split: str
) -> tuple[core.LossFn, rows_lib.Rows]:
    """The loss that a workdir was trained on, and rows as its evaluations read them.

    Raises UserError for imported weights, and for a dataset of another kind.
    """
    if 'objective' not in trained.config:
        raise command.UserError(
            f'{trained.workdir} was imported: no objective of its own says how to '
            'score it; fine-tune it first (model.init_from).'
        )
    name, options = settings_lib.named(trained.config['objective'], 'objective')
    objective = objective_table.OBJECTIVES[name]
    inputs.check_kind(built, objective)
    of_loss, of_rows = ({}, options) if objective.masks else (options, {})
    data, T = settings_lib.data_of(trained.config), row_length(trained)
    rows = inputs.rows(built, data, T, objective, of_rows, split, seed=0)
    return objective.make(trained.model, **of_loss), rows


def _frozen(made: losses.Made, params: Callable[[], core.Params]) -> dict[str, Any]:
    frozen = {}
    if 'reference' in made.objective.frozen:
        frozen['reference'] = params()
    if made.teacher_start is not None:
        frozen['teacher'] = made.teacher_start.params()
    return frozen


def _digest(begin: start.Start, teacher: start.Start | None) -> str:
    """Of all weights that other workdirs hold for a run; '' where none does."""
    if teacher is None:
        return begin.digest
    return storage.json_digest([begin.digest, teacher.digest])


def _steps(settings: Mapping[str, Any], rows: int, batch_size: float | int) -> int:
    name = 'steps' if 'steps' in settings else 'epochs'
    value: Any = settings[name]
    if value <= 0:
        raise command.UserError(f'{name} is {value!r}; set it to a number above 0.')
    steps = value if name == 'steps' else value * rows / batch_size
    return max(1, round(steps))


def optimizer_of(
    settings: Mapping[str, Any],
    steps: int,
    arch: model_config.Architecture | None = None,
) -> tuple[schedules.Schedule, optax.GradientTransformation]:
    """The learning rate by step, and the optimizer that follows it.

    arch: of the model, whose updates muP may scale.
    """
    name, options = settings_lib.named(settings['optimizer'], 'optimizer')
    options.pop('freeze')
    make = command.lookup(train_table.OPTIMIZERS, name, 'optimizer')
    shrink = arch.shrink if arch else 1.0
    power = train_table.SCALED.get(name, 0.0)
    if shrink != 1 and not power:
        known = ', '.join(train_table.SCALED)
        raise command.UserError(
            f'optimizer.name is {name!r}, which muP (model.base_D) does not scale; '
            f'take one of {known}, or set model.base_D to 0.'
        )
    shape = {key: options.pop(key) for key in schedules.OPTIONS if key in options}
    name = options.pop('schedule', 'cosine')  # older configs have none
    schedule = command.lookup(schedules.SCHEDULES, name, 'optimizer.schedule')
    schedule = command.splat(schedule, 'optimizer', shape, steps=steps)
    ema = options.pop('ema', 0.0)
    made = command.splat(make, 'optimizer', options, schedule=schedule)
    if shrink != 1:
        made = optim.narrowed(made, shrink, power)
    command.check_type('optimizer.ema', ema, float)
    if not 0 <= ema < 1 or (ema and 'rollout' in settings):
        raise command.UserError(
            f'optimizer.ema is {ema}; it needs to be at least 0 and below 1, and 0 '
            'with rollouts, which are of the weights as they are trained.'
        )
    return schedule, optim.averaged(made, ema) if ema else made
