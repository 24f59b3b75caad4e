"""The groups in the built-in engine: files, order and shards change nothing."""

import json
import os
import random

from gptjax.data.corpora import refined
from gptjax.data.refine import runner

STEPS = (
    dict(name='exact', unit='document', normalise='words', keep='id'),
    dict(name='exact', unit='line', normalise='case', keep='url', sentences_least=1),
    dict(
        name='minhash', ngram=5, permutations=112, bands=14, rows=8, seed=1, jaccard=0.8
    ),
    dict(name='substring', tokens=20, tokenizer=None),
)


def texts():
    """Copies, lines in common, near copies and long quotations, 20 of each."""
    drawn = random.Random(0)
    words = [f'w{number}' for number in range(3000)]
    made = []
    for number in range(20):
        one = drawn.choices(words, k=120)
        near = [*one[:-2], 'other', 'words']
        fresh = [' '.join(drawn.choices(words, k=60)) for _ in range(4)]
        quoted = ' '.join(one[10:40])
        made += [' '.join(one), ' '.join(one).upper(), ' '.join(near)]
        made += [f'{fresh[0]}\nThe same line.\n{number}', f'{fresh[1]}\nThe same line.']
        made += [f'{fresh[2]} {quoted} {fresh[3]}']
    return [dict(id=str(n), source='s/x', text=text) for n, text in enumerate(made)]


def refined_by(folder, records, parts, shards):
    """The documents that are kept, and counts by step and reason."""
    raw = folder / 'raw'
    raw.mkdir(parents=True)
    for part in range(parts):
        lines = [json.dumps(one) + '\n' for one in records[part::parts]]
        (raw / f'{part}.jsonl').write_text(''.join(lines))
    manifest = runner.refine(
        folder / 'documents',
        path=str(raw),
        read=dict(
            name='files', licence='CC0-1.0', kind='text', books='whole', verify=True
        ),
        steps=STEPS,
        licences=('CC0-1.0',),
        run=dict(workers=1, shards=shards, most_bad=0.0),
    )
    told = manifest['steps'], manifest['rejected']
    return list(refined.collect(str(folder / 'documents'))), told


def test_files_order_and_shards_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda descriptor: None)
    records = texts()
    expected = refined_by(tmp_path / 'one', records, 1, 1)
    random.Random(1).shuffle(records)
    assert refined_by(tmp_path / 'many', records, 2, 7) == expected
    kept, (_, rejected) = expected
    reasons = {(step, reason): count for step, reason, count in rejected}
    assert reasons == {('exact', 'duplicate'): 20, ('minhash', 'near duplicate'): 20}
    assert len(kept) == 80
    assert sum('The same line.' in one.text for one in kept) == 1
    # A quotation is cut, or what it quotes, unless the copy in capitals is kept.
    cut = [one for one in kept if one.steps and one.steps[-1].startswith('substring')]
    assert 5 < len(cut) < 20
