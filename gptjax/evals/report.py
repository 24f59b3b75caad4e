"""One HTML page about a series of runs, for a reader who has never seen the project."""

from collections.abc import Sequence
import dataclasses
import importlib.metadata
import os
from pathlib import Path
import platform
from typing import Any

import jax
import numpy as np

import gptjax
from gptjax import command
from gptjax.data import dataset as dataset_lib
from gptjax.data import storage
from gptjax.evals import answers, charts, compare, data_card, page, scores
from gptjax.generate import engine as engine_lib
from gptjax.text import chat
from gptjax.train import build, log

SAMPLES = 3
SAMPLING: dict[str, Any] = {
    'max_tokens': 80,
    'temperature': 0.8,
    'top_p': 0.95,
    'seed': 0,
}
_OPENING = 12  # tokens of a held-out document that a text model continues

_STAGES = {
    ('next_token', 'text'): 'Pretraining: it learned to continue text, one token '
    'after another.',
    ('next_token', 'chat'): 'Supervised fine-tuning: it learned to answer, from '
    'conversations; only the tokens of the answers count.',
    ('masked_lm', 'text'): 'Masked language modelling: it learned to guess the tokens '
    'of a text that are hidden from it.',
    ('classification', 'labelled'): 'Classification: it learned to tell the class of a '
    'text.',
    ('seq2seq', 'translation'): 'Sequence to sequence: it learned to write the target '
    'of each source, one token after another.',
    ('reward', 'pairs'): 'Reward model: it learned to give the better of two answers '
    'the higher number.',
    ('dpo', 'pairs'): 'Preference optimisation (DPO): it learned which of two answers '
    'is the better one.',
}
_INTRODUCTION = (
    'A language model was trained in the stages below, in this order. What counts is '
    'measured on held-out data: the part of each dataset that was kept out of the '
    'training on it. A token is a piece of a word; loss is how surprised the model is '
    'by each token, on average (0 would be never).'
)
_TITLES = {'mfu': 'MFU (share of peak)'}


@dataclasses.dataclass(frozen=True)
class Run:
    """What the page says of one workdir; samples are (prompt, continuation)."""

    name: str
    workdir: Path
    config: dict[str, Any]
    arch: Any
    parameters: int
    step: int
    dataset: dataset_lib.Dataset
    records: list[dict[str, Any]]
    results: list[dict[str, Any]]
    samples: list[tuple[str, str]]


def write(workdirs: Sequence[Path], output: Path, prompts: Sequence[str]) -> None:
    """Writes the page about `workdirs`, in the order of training, to `output`.

    prompts: what text models continue; none are openings of held-out documents.
    Raises UserError for a workdir without a checkpoint, or one whose dataset or results
    are missing or damaged, and for an output that cannot be a file.
    """
    names = _names(workdirs)
    _check_output(output)
    runs = [
        _read(name, workdir, prompts)
        for name, workdir in zip(names, workdirs, strict=True)
    ]
    title = f'How the training went: {", ".join(names)}'
    parts = [('summary', 'Does it mean something?', _summary(runs))]
    parts += [(f'run-{i}', run.name, _run(run)) for i, run in enumerate(runs, 1)]
    parts += [('data', 'Data', _data(runs)), ('try', 'Try it', _try(runs))]
    links = (page.element('a', name, href=f'#{anchor}') for anchor, name, _ in parts)
    body = page.document(
        title,
        page.element('h1', title),
        page.element('p', _INTRODUCTION),
        page.element('nav', *links),
        *(page.section(anchor, name, *inside) for anchor, name, inside in parts),
    )
    storage.write(output, body.encode())


def _check_output(output: Path) -> None:
    """Makes the folder of the page, before the work."""
    if output.is_dir():
        raise command.UserError(
            f'--output={output} is a folder; name a file, as in {output}/report.html.'
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise command.UserError(
            f'--output={output} is below a file; choose another place.'
        ) from None


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
    return Run(
        name=name,
        workdir=workdir,
        config=trained.config,
        arch=trained.model.arch,
        parameters=sum(x.size for x in jax.tree.leaves(trained.params)),
        step=trained.step,
        dataset=built,
        records=log.read(workdir),
        results=scores.read(workdir),
        samples=_continued(trained, built, prompts) if built.kind == 'text' else [],
    )


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


def _summary(runs: Sequence[Run]) -> list[page.Html]:
    lines = compare.summary([(run.name, run.results) for run in runs])
    if not lines:
        return [
            page.element(
                'p',
                'There is nothing to compare yet. Evaluate a text model with ',
                page.element('code', '--trigram'),
                ', or several runs on the same data with ',
                page.element('code', 'python -m gptjax.evals --workdir=DIR --data=SET'),
                ', and make this page again.',
            )
        ]
    rows = [
        (
            page.join([line.question, page.element('small', line.measure)]),
            _labelled(line.before),
            _labelled(line.after),
            _change(line),
        )
        for line in lines
    ]
    return [page.table(('', 'before#', 'after#', 'change#'), rows)]


def _labelled(cell: str) -> page.Html:
    """'name\\nvalue' as the value over its name."""
    name, _, value = cell.partition('\n')
    return page.join([value, page.element('small', name)])


def _change(line: compare.Comparison) -> page.Html:
    if line.better is None:
        return page.text(line.change)
    words = ('good', 'better') if line.better else ('bad', 'worse')
    return page.join(
        [
            page.element('span', line.change, class_=words[0]),
            page.element('small', words[1]),
        ]
    )


def _run(run: Run) -> list[page.Html]:
    stage = _STAGES[run.config['objective']['name'], run.dataset.kind]
    parts = [page.element('p', stage), _facts(run), *_curves(run)]
    own = run.dataset.manifest['digest']
    for result in sorted(run.results, key=lambda r: r['dataset_digest'] != own):
        parts += _result(run, result)
    if run.samples:
        settings = ', '.join(f'{key} {value}' for key, value in SAMPLING.items())
        parts += [
            page.element('h3', 'What it writes'),
            page.element(
                'p',
                f'It was given the words in bold. Sampled with {settings}.',
                class_='soft small',
            ),
            page.element('div', *map(_sample, run.samples), class_='samples'),
        ]
    return parts


def _facts(run: Run) -> page.Html:
    arch, config = run.arch, run.config
    row = 'pairs' if run.dataset.kind == 'pairs' else f'rows of {arch.T:,} tokens'
    train = run.dataset.manifest['splits']['train']
    facts = {
        'Parameters': f'{run.parameters:,}',
        'Architecture': f'{arch.family}: {arch.L} layers, width {arch.D}, '
        f'context {arch.T}',
        'Starts from': 'random weights',
        'Objective': config['objective']['name'],
        'Steps': f'{run.step:,}, each of {config["data"]["batch_size"]:,} {row}',
        'Dataset': f'{run.dataset.folder.resolve().name}, '
        f'{train["tokens"]:,} training tokens',
        'Learning rate': f'{config["optimizer"]["learning_rate"]:g} at its peak',
    }
    if 'init_from' in config['model']:
        facts['Starts from'] = config['model']['init_from']
    if run.records:
        facts['Training time'] = _duration(run.records[-1]['seconds'])
    return page.element(
        'dl',
        *(
            page.element('div', page.element('dt', key), page.element('dd', value))
            for key, value in facts.items()
        ),
    )


def _duration(seconds: float | int) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours} h {minutes} min'
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'


def _curves(run: Run) -> list[page.Html]:
    """The loss, large; then everything else that was logged, small."""

    def points(name: str) -> list[charts.Point]:
        return [
            (record['step'], record[name])
            for record in run.records
            if record.get(name) is not None
        ]

    unit = ', nats a token' if run.dataset.kind != 'pairs' else ''
    loss = charts.figure(
        f'Loss{unit}',
        [
            charts.Series('training', points('loss'), 'one'),
            charts.Series('held-out', points('eval_loss'), 'two', dots=True),
        ],
        width=940,
        height=290,
    )
    first = ['tokens_per_second', 'learning_rate', 'gradient_norm']
    large = {'step', 'loss', 'eval_loss', 'seconds'}
    others = {name for record in run.records for name in record} - large - {*first}
    small = (
        charts.figure(
            _TITLES.get(name, name.replace('_', ' ').capitalize()),
            [charts.Series('', points(name), 'two')],
            width=290,
            height=150,
            from_zero=True,
        )
        for name in [*first, *sorted(others)]
    )
    return [loss, page.element('div', *small, class_='small-multiples')]


def _result(run: Run, result: dict[str, Any]) -> list[page.Html]:
    numbers = [
        (label, scores.shown(result[name]), meaning)
        for name, (label, _, meaning) in scores.LABELS.items()
        if name in result
    ]
    late = '' if result['step'] == run.step else f', at step {result["step"]:,}'
    parts = [
        page.element('h3', f'On the held-out part of {result["dataset"]}{late}'),
        page.table(('measure', 'value#', 'what it is'), numbers, 'measures'),
    ]
    if 'samples' in result:
        cards = map(_answer, result['samples'])
        parts.append(page.element('div', *cards, class_='samples two-columns'))
    return parts


def _sample(sample: tuple[str, str]) -> page.Html:
    prompt, continuation = sample
    body = page.element('p', page.element('b', prompt), continuation)
    return page.element('div', body, class_='sample')


def _answer(sample: dict[str, Any]) -> page.Html:
    ended = 'stopped by itself' if sample['stopped'] else 'did not stop'
    parts = []
    for who, said in (
        ('Question', page.element('b', sample['question'])),
        (f'Answer ({ended})', sample['answer'] or '(nothing)'),
        ('True answer', sample['reference']),
    ):
        parts += [
            page.element('div', who, class_='who'),
            page.element('p', said, class_='soft' if who == 'True answer' else ''),
        ]
    return page.element('div', *parts, class_='sample')


def _data(runs: Sequence[Run]) -> list[page.Html]:
    datasets = {run.dataset.manifest['digest']: run.dataset for run in runs}
    parts: list[page.Html] = []
    for built in datasets.values():
        parts += data_card.card(built)
    return parts


def _try(runs: Sequence[Run]) -> list[page.Html]:
    workdir = runs[-1].workdir
    ask = '' if runs[-1].dataset.kind == 'text' else ' --chat'
    prompt = 'What does os.path.join do?' if ask else 'The'
    packages = ('jax', 'flax', 'numpy')
    versions = [f'{name} {importlib.metadata.version(name)}' for name in packages]
    python = f'Python {platform.python_version()}'
    return [
        page.element('p', 'A page to talk with the model, served by this machine:'),
        page.element('pre', f'python -m gptjax.serve --workdir={workdir} --port=8000'),
        page.element('p', 'Or in the terminal:'),
        page.element(
            'pre',
            f'python -m gptjax.generate --workdir={workdir}{ask} --prompt="{prompt}"',
        ),
        page.element(
            'p',
            f'This page was made on {_machine()}, with gptjax {gptjax.__version__}, '
            f'{python}, {", ".join(versions)}.',
            class_='soft small',
        ),
    ]


def _machine() -> str:
    device, count = jax.devices()[0], jax.device_count()
    system = f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores'
    if device.platform == 'cpu':
        return f'{system}, no accelerator'
    return f'{system}, {count} x {device.device_kind}'
