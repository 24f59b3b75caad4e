"""README.md of an exported model: what the workdir holds, and nothing else."""

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

import gptjax
from gptjax import trees
from gptjax.data import card, lineage, storage
from gptjax.model import config as model_config
from gptjax.train import build, log

LIBRARIES = {
    'huggingface': 'transformers',
    'gguf': 'gguf',
    'llama2c': 'llama2.c',
    'peft': 'peft',
}
PIPELINES = {
    'masked': 'fill-mask',
    'pretraining': 'fill-mask',
    'classes': 'text-classification',
    'reward': 'text-classification',
    'none': 'feature-extraction',
}
_CLASSES = {
    'text-generation': 'AutoModelForCausalLM',
    'text2text-generation': 'AutoModelForSeq2SeqLM',
    'fill-mask': 'AutoModelForMaskedLM',
    'text-classification': 'AutoModelForSequenceClassification',
    'feature-extraction': 'AutoModel',
}
_SECTION = '\n## {}\n\n{}\n'


def text(
    trained: build.Trained, origin: Mapping[str, Any], format: str, dtype: str
) -> str:
    """The card of a model exported to `format` with weights of `dtype`.

    origin: where its first weights came from (workdir.origin_of); {} if from chance.
    """
    name = trained.workdir.resolve().name
    arch = trained.model.arch
    sources = _sources(trained)
    front = {
        'license': licence(trained, origin) or 'unknown',
        'library_name': LIBRARIES[format],
        'pipeline_tag': pipeline(arch),
        'tags': ['gptjax', arch.family],
    }
    lines = [f'{key}: {json.dumps(value)}' for key, value in front.items()]
    parts = [
        ('Model', _model(trained, dtype)),
        ('Origin', _origin(origin)),
        ('Training data', _data(sources)),
        ('Licence', _licences(trained, origin, sources)),
        ('Evaluation', _evaluation(trained)),
        ('Use', _use(arch, format)),
    ]
    body = ''.join(_SECTION.format(title, said) for title, said in parts if said)
    return '---\n' + '\n'.join(lines) + f'\n---\n\n# {name}\n{body}'


def pipeline(arch: model_config.Architecture) -> str:
    """The task of a model, as Hugging Face calls it."""
    if arch.encoder_L:
        return 'text2text-generation'
    if arch.causal and arch.head.kind in ('tokens', 'masked'):
        return 'text-generation'
    return PIPELINES.get(arch.head.kind, 'feature-extraction')


def licence(trained: build.Trained, origin: Mapping[str, Any]) -> str | None:
    """The licence of weights and data where they agree on one, else 'other' or None.

    None where nothing is known: of weights without a licence, or of no data at all.
    """
    known = {row['licence'] for row in _sources(trained)}
    if not origin and not lineage.complete(lineage.read(trained.workdir)):
        return None
    if origin:
        if not origin.get('licence'):
            return None
        known.add(origin['licence'])
    lowered = {name.lower() for name in known}
    if not lowered:
        return None
    one = lowered.pop()
    return one if not lowered and ' ' not in one else 'other'


def licence_of(path: Path) -> str | None:
    """The licence in the front matter of a README.md, if it has one."""
    try:
        lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return None
    if not lines or lines[0].strip() != '---':
        return None
    for line in lines[1:]:
        if line.strip() == '---':
            return None
        if line.startswith('license:'):
            named = line.removeprefix('license:').strip().strip('\'"')
            return None if named in ('', 'unknown') else named
    return None


def _sources(trained: build.Trained) -> list[dict[str, Any]]:
    """The sources of all data that the weights learned from, as far as is known."""
    return list(lineage.sources(lineage.read(trained.workdir)))


def _model(trained: build.Trained, dtype: str) -> str:
    arch = trained.model.arch
    layers = f'{arch.L} layers'
    if arch.encoder_L:
        layers = f'{arch.encoder_L} encoder and {arch.L} decoder layers'
    rounded = '' if dtype == 'float32' else ', rounded from float32'
    rows = [
        ('family', arch.family),
        ('parameters', f'{trees.count(trained.params):,}'),
        ('size', f'{layers} of width {arch.D}, {arch.N} heads'),
        ('context', f'{arch.T:,} tokens'),
        ('vocabulary', f'{arch.V:,}'),
        ('weights', dtype + rounded),
        ('steps of the last training', f'{trained.step:,}'),
        ('exported by', f'gptjax {gptjax.__version__}'),
    ]
    return card.table(('', ''), rows, left=2)


def _origin(origin: Mapping[str, Any]) -> str:
    if not origin:
        return ''
    files = [(name, f'`{digest}`') for name, digest in origin['sha256'].items()]
    named = Path(origin['source']).name
    return (
        f'The first weights were imported from `{named}` ({origin["format"]}).\n\n'
        + card.table(('file', 'SHA-256'), files, left=2)
    )


def _data(sources: list[dict[str, Any]]) -> str:
    counts = ('documents', 'bytes', 'tokens')
    rows = [
        (row['source'], row['licence'], *(f'{row[c]:,}' for c in counts))
        for row in sources
    ]
    return card.table(('source', 'licence', *counts), rows, left=2) if rows else ''


def _licences(
    trained: build.Trained, origin: Mapping[str, Any], sources: list[dict[str, Any]]
) -> str:
    rows = []
    if origin:
        rows.append(('imported weights', origin.get('licence') or 'not stated'))
    by_licence: dict[str, int] = {}
    for row in sources:
        by_licence[row['licence']] = by_licence.get(row['licence'], 0) + row['tokens']
    rows += [
        (f'{tokens:,} tokens of training data', name)
        for name, tokens in sorted(by_licence.items())
    ]
    if not rows:
        return ''
    more = ''
    if not origin and not lineage.complete(lineage.read(trained.workdir)):
        more = '\n\nTraining began with weights whose data are not known.'
    return card.table(('what', 'licence'), rows, left=2) + more


def _evaluation(trained: build.Trained) -> str:
    rows = []
    for path in sorted((trained.workdir / 'evals').glob('*.json')):
        result = storage.read_json(path)
        numbers = {
            key: value
            for key, value in result.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        of = f'{result.get("dataset", path.stem)}, step {numbers.pop("step", "?")}'
        rows += [(of, key, f'{value:.6g}') for key, value in sorted(numbers.items())]
    held_out = [
        record for record in log.read(trained.workdir) if record.get('eval_loss')
    ]
    if held_out:
        last = held_out[-1]
        of = f'held-out rows of the training data, step {last["step"]}'
        rows.append((of, 'loss', f'{last["eval_loss"]:.6g}'))
    return card.table(('data', 'measure', 'value'), rows, left=2) if rows else ''


def _use(arch: model_config.Architecture, format: str) -> str:
    if format == 'gguf':
        return '```sh\nllama-cli -m model.gguf -p "..."\n```'
    if format == 'llama2c':
        return '```sh\n./run model.bin -z tokenizer.bin\n```'
    auto = _CLASSES[pipeline(arch)]
    if format == 'peft':
        return (
            '```python\n'
            'from peft import PeftModel\n'
            f'from transformers import {auto}\n\n'
            f"base = {auto}.from_pretrained('...')  # the model that it is for\n"
            "model = PeftModel.from_pretrained(base, '.')  # this folder\n"
            '```'
        )
    return (
        '```python\n'
        f'from transformers import {auto}, AutoTokenizer\n\n'
        "tokenizer = AutoTokenizer.from_pretrained('.')  # this folder\n"
        f"model = {auto}.from_pretrained('.')\n"
        '```'
    )
