"""Each objective trained a little on real text, from files to held-out scores."""

import json
import tarfile

import numpy as np
import pytest
import tiny_config

from gptjax.evals import scores
from gptjax.model import table
from gptjax.train import build, log, loop

SMALL = dict(D=64, F=128, N=4, K=4, H=16, dropout=0.0)


def trained(workdir, lines, kind, model, tokenizer=None, held_out=None, **settings):
    """(records of the log, the held-out scores) of a run on JSON lines or a file."""
    if isinstance(lines, list):
        path = workdir / 'lines.jsonl'
        path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    else:
        path = lines
    config = tiny_config.get_config()
    config.model = model
    config.steps = settings.pop('steps')
    config.objective = settings.pop('objective')
    config.data.path = str(path)
    config.data.batch_size = settings.pop('batch_size')
    config.data.build = dict(
        corpus=dict(name=kind, licence='unknown'),
        tokenizer=tokenizer or dict(name='bytes'),
        held_out=held_out or dict(fraction=0.1, by='document'),
        shard_tokens=2**20,
    )
    config.optimizer.learning_rate = settings.pop('learning_rate')
    config.optimizer.warmup_steps = config.steps // 10
    config.eval = dict(every=config.steps, rows=0, patience=0)
    config.checkpoint.every = config.steps
    assert not settings
    workdir = workdir / 'run'
    assert loop.train(build.build(config, workdir))
    made = build.load(workdir)
    return log.read(workdir), scores.score(made, build.dataset_of(made))


def mean(records, name):
    return np.mean([record[name] for record in records])


@pytest.mark.long
def test_masked_lm_learns_more_than_how_often_letters_come(real_data, tmp_path):
    """On the first tenth of Tiny Shakespeare, by characters.

    Rotary positions: with learned ones the first 500 steps teach how often letters come
    and nothing more.
    """
    text = real_data('tinyshakespeare/input.txt').read_text()[:100_000]
    path = tmp_path / 'text.txt'
    path.write_text(text)
    counts = np.bincount(np.frombuffer(text.encode(), np.uint8))
    shares = counts[counts > 0] / counts.sum()
    unigram = -(shares * np.log(shares)).sum()
    records, found = trained(
        tmp_path, path, 'text',
        table.preset(
            'llama-nano', T=32, V=264, init_std=0.05, causal=False,
            head=dict(kind='masked', tied=True), **SMALL,
        ),
        tokenizer=dict(name='bytes', mask=True),
        held_out=dict(fraction=0.05, by='tail'),
        objective=dict(name='masked_lm', rate=0.15, masked=0.8, random=0.1),
        steps=220, batch_size=32, learning_rate=5e-3,
    )  # fmt: skip
    assert records[0]['loss'] > 4
    assert mean(records[-20:], 'loss') < unigram - 0.4
    assert records[-1]['eval_loss'] < unigram - 0.3
    assert found['accuracy'] == pytest.approx(records[-1]['eval_accuracy'])


@pytest.mark.long
def test_classification_tells_languages_apart(real_data, tmp_path):
    """Sentences of the same 1,000 news texts in three languages; chance is a third."""
    lines = [
        {'text': sentence, 'label': language}
        for language in ('en', 'ru', 'ar')
        for sentence in sentences(real_data(f'ud_pud_parallel/{language}_pud.tar.gz'))
    ]
    records, found = trained(
        tmp_path, lines, 'labelled',
        table.preset(
            'bert-nano', T=32, V=264, types=1,
            head=dict(kind='classes', classes=3, pooler=True), **SMALL,
        ),
        objective=dict(name='classification'),
        steps=40, batch_size=16, learning_rate=3e-3,
    )  # fmt: skip
    assert found['examples'] > 200
    assert found['accuracy'] == pytest.approx(records[-1]['eval_accuracy'])
    assert found['accuracy'] > 0.9


@pytest.mark.long
def test_sequence_to_sequence_learns_to_turn_words_around(real_data, tmp_path):
    text = ' '.join(sentences(real_data('ud_pud_parallel/en_pud.tar.gz')))
    words = sorted({w for w in text.split() if w.isalpha() and 3 <= len(w) <= 8})
    lines = [{'source': word, 'target': word[::-1]} for word in words]
    records, found = trained(
        tmp_path, lines, 'translation',
        table.preset('transformer-nano', T=12, V=264, **SMALL),
        objective=dict(name='seq2seq', label_smoothing=0.0),
        steps=220, batch_size=32, learning_rate=3e-3,
    )  # fmt: skip
    assert records[0]['loss'] > 4
    assert found['accuracy'] > 0.6
    assert found['accuracy'] == pytest.approx(records[-1]['eval_accuracy'])


@pytest.mark.long
def test_a_reward_model_learns_its_preferences(real_data, tmp_path):
    """The last answers of 60 conversations about harm; it learns them by heart."""
    lines = []
    for line in real_data('hh_rlhf/harmless_base.jsonl').read_text().splitlines()[:60]:
        chosen, rejected = (json.loads(line)[k] for k in ('chosen', 'rejected'))
        asked, found = chosen.rsplit('\n\nAssistant: ', 1)
        start, other = rejected.rsplit('\n\nAssistant: ', 1)
        if asked == start and found.strip() and other.strip():
            prompt = asked.rsplit('\n\nHuman: ', 1)[1]
            lines.append({'prompt': prompt, 'chosen': found, 'rejected': other})
    assert len(lines) > 30
    records, found = trained(
        tmp_path, lines, 'pairs',
        table.preset('gpt2-nano', T=96, V=640, head=dict(kind='reward'), **SMALL),
        tokenizer=dict(name='sentencepiece', model_type='bpe', vocab_size=600),
        objective=dict(name='reward', centre=0.01),
        steps=40, batch_size=8, learning_rate=3e-3,
    )  # fmt: skip
    assert records[0]['loss'] == pytest.approx(np.log(2), abs=0.2)
    assert mean(records[:5], 'accuracy') < 0.8
    assert mean(records[-5:], 'accuracy') > 0.9
    assert found['pairs'] > 0


def sentences(archive):
    """The texts of a treebank."""
    with tarfile.open(archive) as files:
        (member,) = (m for m in files.getmembers() if m.name.endswith('.conllu'))
        lines = files.extractfile(member).read().decode().splitlines()
    return [line[9:] for line in lines if line.startswith('# text = ')]
