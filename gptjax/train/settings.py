"""The settings of a run: a config as JSON, checked, with what its sections may hold."""

from collections.abc import Mapping, Sequence
import dataclasses
import inspect
import json
import math
from pathlib import Path
import sys
from typing import Any

import jax

from gptjax import command
from gptjax.data import pipeline, turn_rows
from gptjax.model import config as model_config
from gptjax.train import guard as guard_lib
from gptjax.train import table as train_table

SECTIONS = (
    'model', 'data', 'optimizer', 'objective', 'mesh', 'compute', 'checkpoint', 'eval',
    'run',
)  # fmt: skip
OPTIONAL = ('adapter', 'rollout', 'rewards', 'guard')

# What may differ when a run goes on; all else needs --allow_config_change.
FREE_ON_RESUME = (
    'steps', 'epochs', 'checkpoint.', 'eval.', 'mesh.', 'run.', 'guard.replicas',
    'compute.pipeline_', 'compute.attention',  # how, as the mesh asks, and not what
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Data:
    batch_size: int  # rows of T tokens in a step, over all devices
    loader: str  # 'tfdata', or 'threads' on machines without TensorFlow
    path: str | None = None  # a built dataset, or raw text for which `build` says how
    mixture: Sequence[Mapping[str, Any]] | None = None  # or several, as `mixture.Entry`
    build: Mapping[str, Any] | None = None  # a data config, for a raw `path`
    T: int | None = None  # tokens in a row, where it is not to be model.T
    # 'best_fit': documents of a text are whole in training, where they fit into a row.
    # Evaluations read their stream, so that those of all runs compare.
    packing: str | None = None
    # What becomes of conversations and pairs of more than T tokens: 'cut' or 'drop'.
    longer: str = 'cut'
    licences: Sequence[str] | None = None  # SPDX identifiers; others are refused
    # Pairs (step, rows): from that step on so many rows in each; before, batch_size.
    batch_ramp: Any = ()  # checked below, by a message that says what is needed

    def __post_init__(self) -> None:
        command.lookup(pipeline.LOADERS, self.loader, 'data.loader')
        command.lookup(turn_rows.LONGER, self.longer, 'data.longer')
        if (self.path is None) == (self.mixture is None):
            raise command.UserError(
                'data has one of path and mixture; set one of them.'
            )
        if self.mixture is not None and self.build is not None:
            raise command.UserError(
                'data.build is for a raw data.path, and data.mixture names datasets; '
                'build each with python -m gptjax.data.'
            )
        if self.mixture is not None and self.licences is None:
            raise command.UserError(
                'data.mixture needs data.licences, the SPDX identifiers that its '
                "sources may have, such as ('CC0-1.0', 'MIT')."
            )
        if self.packing not in (None, 'best_fit'):
            raise command.UserError(
                f"data.packing is {self.packing!r}; it needs to be 'best_fit' or None."
            )
        pairs = _int_pairs(self.batch_ramp)
        steps = [0, *(step for step, _ in self.batch_ramp)] if pairs else []
        rising = pairs and sorted({*steps}) == steps
        if not rising or (self.batch_ramp and self.mixture is not None):
            raise command.UserError(
                f'data.batch_ramp is {self.batch_ramp!r}; it is a list of (step, '
                'rows), such as ((1_000, 1_024),), of rising steps from 1 on, and () '
                'with a data.mixture.'
            )

    def rows_at(self, step: int) -> int:
        """Rows in the batch that step `step` + 1 takes."""
        later = [rows for first, rows in self.batch_ramp if first <= step]
        return [self.batch_size, *later][-1]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    every: int  # steps
    keep: int  # the newest so many
    keep_every: int = 0  # steps, and those at multiples of it; 0 is off
    # And that of the best evaluation, saved at once, which other commands load.
    best: bool = False
    failures: int = 3  # saves that fail one after another before training stops

    def __post_init__(self) -> None:
        _check_least('checkpoint', self, every=1, keep=1, keep_every=0, failures=1)


@dataclasses.dataclass(frozen=True)
class Eval:
    every: int  # steps
    rows: int  # of the held-out split; 0 is all
    patience: int  # evaluations without a better one before training stops; 0 is off
    metric: str = 'loss'  # the mean of an evaluation that says which one is best
    higher: bool = False  # whether more of it is better

    def __post_init__(self) -> None:
        _check_least('eval', self, every=1, rows=0, patience=0)


@dataclasses.dataclass(frozen=True)
class Options:
    log_every: int  # steps
    watchdog: float = 20.0  # seconds that a step may take in any case; 0 is off
    maintenance: str | None = None  # whose notices stop a run: 'gce', Google's cloud

    def __post_init__(self) -> None:
        _check_least('run', self, log_every=1)
        command.check_ranges('run', vars(self), {'watchdog': command.LEAST_0})
        if self.maintenance not in (None, 'gce'):
            raise command.UserError(
                f'run.maintenance is {self.maintenance!r}; it needs to be '
                "'gce' or None."
            )


@dataclasses.dataclass(frozen=True)
class Rollout:
    """How the model answers: M = prompts x group sequences, and updates from them."""

    prompts: int  # of one rollout
    group: int  # completions of each prompt
    prompt_tokens: int  # at most; of a text exactly
    max_tokens: int  # of a completion, its stop token included
    temperature: float
    top_k: int  # 0 is off
    top_p: float  # 1 is off
    epochs: int  # how often each sequence is learned from

    def __post_init__(self) -> None:
        least = dict(prompts=1, group=1, prompt_tokens=1, max_tokens=1, epochs=1)
        _check_least('rollout', self, **least, top_k=0)
        if not 0 < self.temperature < float('inf') or not 0 < self.top_p <= 1:
            raise command.UserError(
                f'rollout.temperature is {self.temperature} and rollout.top_p '
                f'{self.top_p}; they need to be above 0, and top_p at most 1.'
            )

    @property
    def T(self) -> int:
        """Tokens in a row: a sequence without its last one."""
        return self.prompt_tokens + self.max_tokens - 1

    @property
    def sequences(self) -> int:
        """M, the sequences of one rollout."""
        return self.prompts * self.group

    def updates(self, batch_size: int) -> int:
        """Steps from one rollout; UserError where they are no whole number."""
        M = self.sequences
        if M % batch_size:
            raise command.UserError(
                f'a rollout has {M} sequences (rollout.prompts={self.prompts} x '
                f'rollout.group={self.group}), which batches of {batch_size} '
                '(data.batch_size) do not divide; set data.batch_size to a divisor of '
                f'{M}, or rollout.prompts to a multiple of '
                f'{batch_size // math.gcd(batch_size, self.group)}.'
            )
        return self.epochs * M // batch_size


def _int_pairs(given: Any) -> bool:
    return isinstance(given, list | tuple) and all(
        isinstance(one, list | tuple) and [type(n) for n in one] == [int, int]
        for one in given
    )


def _check_least(section: str, options: Any, **least: int) -> None:
    for name, bound in least.items():
        value = getattr(options, name)
        if not isinstance(value, int) or value < bound:
            raise command.UserError(
                f'{section}.{name} is {value!r}; set it to a whole number of at least '
                f'{bound}.'
            )


def of(config: Any) -> dict[str, Any]:
    """A config as JSON, all its sections there; UserError where they are not."""
    settings: dict[str, Any] = json.loads(config.to_json())
    check_sections(settings)
    return settings


def data_of(settings: Mapping[str, Any]) -> Data:
    """The section `data`; raw text takes the tokenizer of model.init_from by itself."""
    data: Data = command.splat(Data, 'data', settings['data'])
    begun = begun_from(settings)
    if data.build is None or 'tokenizer' in data.build or begun is None:
        return data
    tokenizer = {'name': 'folder', 'path': begun}
    return dataclasses.replace(data, build={**data.build, 'tokenizer': tokenizer})


def rollout_of(settings: Mapping[str, Any]) -> Rollout:
    """The section `rollout`, checked."""
    made: Rollout = command.splat(Rollout, 'rollout', settings['rollout'])
    return made


def of_loop(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that only the loop reads, by the names that a run has for them."""
    kept, run = settings['checkpoint'], settings['run']
    return {
        'checkpoint': command.splat(Checkpoint, 'checkpoint', kept),
        'eval': command.splat(Eval, 'eval', settings['eval']),
        'options': command.splat(Options, 'run', run),
        'guard': _guard_of(settings),
    }


def _guard_of(settings: Mapping[str, Any]) -> guard_lib.Options:
    given = {'guard': {}, **settings}['guard']  # older configs have no such section
    options: guard_lib.Options = command.splat(guard_lib.Options, 'guard', given)
    return options


def begun_from(settings: Mapping[str, Any]) -> str | None:
    """The workdir whose weights a run began with, or None; imports have no sections."""
    if 'model' not in settings or 'init_from' not in settings['model']:
        return None
    return str(settings['model']['init_from'])


def check_sections(settings: Mapping[str, Any]) -> None:
    """Raises UserError for a section or setting that is unknown or missing."""
    known = ('seed', 'steps', 'epochs', *SECTIONS, *OPTIONAL)
    for name in settings:
        if name not in known:
            raise command.UserError(
                f'unknown setting {name!r}; {command.did_you_mean(name, known)}'
            )
    missing = [name for name in ('seed', *SECTIONS) if name not in settings]
    if missing:
        raise command.UserError(f'the config lacks {", ".join(missing)}; add it.')
    if {'epochs', 'rollout'} & settings.keys() and data_of(settings).batch_ramp:
        raise command.UserError(
            'data.batch_ramp is set, which needs steps, not epochs, and no rollouts.'
        )
    if 'epochs' in settings and data_of(settings).mixture is not None:
        raise command.UserError(
            'the sources of data.mixture end at different times; set steps, not epochs.'
        )
    if ('steps' in settings) == ('epochs' in settings):
        raise command.UserError('the config sets one of steps and epochs, not both.')
    if 'freeze' not in settings['optimizer']:
        raise command.UserError(
            'optimizer lacks freeze; add it to the config file: () trains everything.'
        )
    for name, needed in (('seed', int), ('steps', int), ('epochs', float)):
        if name in settings:
            command.check_type(name, settings[name], needed)


def check_unchanged(settings: Mapping[str, Any], workdir: Path, allowed: bool) -> None:
    """Raises UserError where a workdir has a run of other settings, unless allowed."""
    if not list(workdir.glob('checkpoints/*/manifest.json')):
        return  # nothing was trained with another config
    before = stored(workdir)
    if 'imported' in before:
        raise command.UserError(
            f'{workdir} holds imported weights; train in another workdir, with '
            f'model.init_from={str(workdir)!r}.'
        )
    old, new = _flat(_spelled(before)), _flat(_spelled(settings))
    changes = [
        f'{name}: {old.get(name)!r} -> {new.get(name)!r}'
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    bound = [c for c in changes if not c.startswith(FREE_ON_RESUME)]
    if bound and not allowed:
        raise command.UserError(
            f'{workdir} holds a run of another config ({"; ".join(bound)}); take '
            'another workdir, or give --allow_config_change to go on with the new one.'
        )
    if changes and jax.process_index() == 0:
        print(f'settings changed: {"; ".join(changes)}', file=sys.stderr)


def _spelled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with every field of the model, data, compute, guard and optimizer.

    Older configs lack the newer ones.
    """
    compute = command.splat(model_config.Compute, 'compute', settings['compute'])
    filled = {'guard': _guard_of(settings), 'compute': compute}
    spelled = {**settings, **{n: dataclasses.asdict(s) for n, s in filled.items()}}
    fields = inspect.signature(Data).parameters.values()
    unset = {p.name: p.default for p in fields if p.default is not p.empty}
    unset['batch_ramp'] = []  # as JSON has it
    spelled['data'] = {**unset, **spelled['data']}
    name, _ = named(spelled['optimizer'], 'optimizer')
    make: Any = command.lookup(train_table.OPTIMIZERS, name, 'optimizer')
    given = inspect.signature(make).parameters.values()
    later = {p.name: p.default for p in given if p.default is not p.empty}
    later |= {'schedule': 'cosine', 'ema': 0.0}
    spelled['optimizer'] = {**later, **spelled['optimizer']}
    section = settings['model']
    if 'init_from' in section:
        return spelled
    arch = model_config.architecture('model', **section)
    return {**spelled, 'model': model_config.plain(arch)}


def stored(workdir: Path) -> dict[str, Any]:
    """The settings of a workdir's run; UserError where they cannot be read."""
    path = workdir / 'config.json'
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise command.UserError(
            f'{path} cannot be read ({error}); restore it, or take another workdir.'
        ) from None


def _flat(tree: Any, prefix: str = '') -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix.rstrip('.'): tree}
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f'{prefix}{name}.')
    return flat


def named(section: Mapping[str, Any], what: str) -> tuple[str, dict[str, Any]]:
    """The name of a section's entry in its table, and its other options."""
    options = dict(section)
    if 'name' not in options:
        raise command.UserError(f'{what} lacks name; add it to the config file.')
    return options.pop('name'), options
