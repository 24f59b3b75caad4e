"""One HTML page about a series of runs, for a reader who has never seen the project."""

from collections.abc import Sequence
import importlib.metadata
import os
from pathlib import Path
import platform
from typing import Any

import jax

import gptjax
from gptjax import command
from gptjax.data import card, storage
from gptjax.evals import (
    compare,
    curves,
    data_card,
    page,
    runs,
    scores,
    stages,
    transcripts,
)

_INTRODUCTION = (
    'A language model was trained in the stages below, in this order. What counts is '
    'measured on held-out data: the part of each dataset that was kept out of the '
    'training on it. A token is a piece of a word; loss is how surprised the model is '
    'by each token, on average (0 would be never).'
)
_IN_NATS = ('next_token', 'masked_lm', 'seq2seq', 'distil')


def write(workdirs: Sequence[Path], output: Path, prompts: Sequence[str]) -> str:
    """Writes the page about `workdirs`, in the order of training, to `output`.

    Returns the figures of the runs as a table of text, '' where there are none.
    prompts: what text models continue; none are openings of held-out documents.
    Raises UserError for a workdir without a checkpoint, or one whose dataset or results
    are missing or damaged, and for an output that cannot be a file.
    """
    _check_output(output)
    reported = runs.read(workdirs, prompts)
    names = [run.name for run in reported]
    title = f'How the training went: {", ".join(names)}'
    figures = compare.matrix([run.results for run in reported])
    parts = [('summary', 'Does it mean something?', _summary(reported))]
    answers = transcripts.of_runs(reported)
    if len(reported) == 1 and answers:
        parts.append(('answers', 'Answers', answers))
    elif len(reported) > 1 and figures:
        table = page.table(['', *(f'{name}#' for name in names)], figures)
        parts.append(('side-by-side', 'Side by side', [table, *answers]))
    parts += [(f'run-{i}', run.name, _run(run)) for i, run in enumerate(reported, 1)]
    parts += [('data', 'Data', _data(reported)), ('try', 'Try it', _try(reported))]
    links = (page.element('a', name, href=f'#{anchor}') for anchor, name, _ in parts)
    body = page.document(
        title,
        page.element('h1', title),
        page.element('p', _INTRODUCTION),
        page.element('nav', *links),
        *(page.section(anchor, name, *inside) for anchor, name, inside in parts),
    )
    storage.write(output, body.encode())
    return card.table(['', *names], figures) if figures else ''


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


def _summary(reported: Sequence[runs.Run]) -> list[page.Html]:
    lines = compare.summary([(run.name, run.results) for run in reported])
    evaluated = {result['dataset'] for run in reported for result in run.results}
    lines += compare.logged([(run.name, run.records) for run in reported], evaluated)
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
    return [page.table(('', 'before#', 'after#', 'change#'), rows, 'summary')]


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


def _run(run: runs.Run) -> list[page.Html]:
    unit = 'nats a token' if run.config['objective']['name'] in _IN_NATS else ''
    parts = [
        page.element('p', stages.words(run)),
        stages.facts(run),
        *curves.figures(run.records, unit),
        *transcripts.of_run(run.transcripts),
    ]
    own = run.dataset.manifest['digest']
    for result in sorted(run.results, key=lambda r: r['dataset_digest'] != own):
        parts += _result(run, result)
    if run.samples:
        settings = ', '.join(f'{key} {value}' for key, value in runs.SAMPLING.items())
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


def _result(run: runs.Run, result: dict[str, Any]) -> list[page.Html]:
    numbers = [
        (label, scores.shown(result[name]), meaning)
        for name, (label, _, meaning) in scores.LABELS.items()
        if name in result
    ]
    late = '' if result['step'] == run.step else f', at step {result["step"]:,}'
    return [
        page.element('h3', f'On the held-out part of {result["dataset"]}{late}'),
        page.table(('measure', 'value#', 'what it is'), numbers, 'measures'),
    ]


def _sample(sample: tuple[str, str]) -> page.Html:
    prompt, continuation = sample
    body = page.element('p', page.element('b', prompt), continuation)
    return page.element('div', body, class_='sample')


def _data(reported: Sequence[runs.Run]) -> list[page.Html]:
    datasets = {run.dataset.manifest['digest']: run.dataset for run in reported}
    parts: list[page.Html] = []
    for built in datasets.values():
        parts += data_card.card(built)
    return parts


def _try(reported: Sequence[runs.Run]) -> list[page.Html]:
    packages = ('jax', 'flax', 'numpy')
    versions = [f'{name} {importlib.metadata.version(name)}' for name in packages]
    python = f'Python {platform.python_version()}'
    return [
        *_commands([run for run in reported if runs.writes(run.arch)]),
        page.element(
            'p',
            f'This page was made on {_machine()}, with gptjax {gptjax.__version__}, '
            f'{python}, {", ".join(versions)}.',
            class_='soft small',
        ),
    ]


def _commands(writing: Sequence[runs.Run]) -> list[page.Html]:
    """How to talk with the last model that writes."""
    if not writing:
        return []
    workdir, kind = writing[-1].workdir, writing[-1].dataset.kind
    asked = kind not in ('text', 'translation')
    ask = (
        ' --chat --prompt="What does os.path.join do?"' if asked else ' --prompt="The"'
    )
    return [
        page.element('p', 'A page to talk with the model, served by this machine:'),
        page.element('pre', f'python -m gptjax.serve --workdir={workdir} --port=8000'),
        page.element('p', 'Or in the terminal:'),
        page.element('pre', f'python -m gptjax.generate --workdir={workdir}{ask}'),
    ]


def _machine() -> str:
    device, count = jax.devices()[0], jax.device_count()
    system = f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores'
    if device.platform == 'cpu':
        return f'{system}, no accelerator'
    return f'{system}, {count} x {device.device_kind}'
