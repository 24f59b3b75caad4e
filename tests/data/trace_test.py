"""Which steps saw a document: against what runs really read, step by step."""

import dataclasses
import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from gptjax import command
from gptjax.data import (
    build,
    dataset,
    example_rows,
    feedback_rows,
    ledger,
    lineage,
    mixture,
    permute,
    pipeline,
    prompts,
    trace,
    turn_rows,
)
from gptjax.data import rows as rows_lib
from gptjax.exchange import card
from gptjax.train import build as train_build
from gptjax.train import evaluate, flops, loop, record, step


def streams(folder, lengths, mask=False):
    """A split whose tokens are the numbers 1, 2, ...: each is known by its value."""
    total = int(sum(lengths))
    (np.arange(total, dtype='<u4') + 1).tofile(folder / 'tokens')
    np.ones(total, 'u1').tofile(folder / 'mask')
    tokens = rows_lib.Stream([folder / 'tokens'], [total], np.dtype('<u4'))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return (
        tokens,
        rows_lib.Stream([folder / 'mask'], [total], np.dtype('u1')),
        starts,
    )


def make(kind, folder, T):
    lengths = [7, 2, 30, 2, 2, 16, 17, 18, 3, 40, 5, 6]
    lengths[1] -= kind in ('text', 'chat')
    tokens, mask, starts = streams(folder, lengths)
    if kind == 'text':
        return rows_lib.TextRows(tokens, T), starts
    if kind == 'best_fit':
        return rows_lib.BestFitRows(tokens, starts, T), starts
    if kind == 'labelled':
        lengths = np.maximum(lengths, 3)
        tokens, _, starts = streams(folder, lengths)
        types = np.zeros(int(sum(lengths)), 'u1')
        for begin, end in itertools.pairwise(starts):
            types[(begin + end + 1) // 2 : end] = 1 if end - begin > 6 else 0
        types.tofile(folder / 'types')
        stream = rows_lib.Stream([folder / 'types'], [len(types)], np.dtype('u1'))
        labels = np.zeros(len(lengths), np.int32)
        return example_rows.LabelledRows(tokens, stream, starts, labels, T), starts
    if kind == 'translation':
        return example_rows.TranslationRows(tokens, starts, T), starts
    if kind == 'feedback':
        learned = np.ones(int(starts[-1]), 'u1')
        learned[starts[:-1]] = 0  # a prompt of one token, or of two
        learned[starts[2] + 1] = 0
        learned.tofile(folder / 'mask')
        mask = rows_lib.Stream([folder / 'mask'], [len(learned)], np.dtype('u1'))
        good = np.ones(len(lengths), bool)
        return feedback_rows.FeedbackRows(tokens, mask, starts, good, T, 'cut'), starts
    sequences = turn_rows.Sequences(tokens, mask, starts)
    made = turn_rows.ChatRows if kind == 'chat' else turn_rows.PairRows
    return made(sequences, T), starts


@pytest.mark.parametrize(
    'kind',
    ['text', 'best_fit', 'chat', 'pairs', 'feedback', 'labelled', 'translation'],
)
@pytest.mark.parametrize('T', [8, 16, 1000])
def test_rows_of_are_those_that_hold_a_token(tmp_path, kind, T):
    rows, starts = make(kind, tmp_path, T)
    held = []
    for row in range(len(rows)):
        arrays = rows.read(np.array([row]))
        names = {'tokens', 'targets', 'source'} & set(arrays)
        held.append({int(v) - 1 for n in names for v in arrays[n].ravel()})
    for begin in range(int(starts[-1])):
        for end in {begin + 1, begin + 3, begin + 20, int(starts[-1])}:
            end = min(end, int(starts[-1]))
            places = set(range(begin, end))
            expected = [row for row, found in enumerate(held) if found & places]
            assert rows.rows_of(begin, end).tolist() == expected, (begin, end)


@pytest.fixture(scope='module')
def many(tmp_path_factory):
    """A dataset of 60 documents."""
    folder = tmp_path_factory.mktemp('texts')
    lines = tiny_config.text().splitlines()
    for number in range(60):
        text = '\n'.join(lines[6 * number : 6 * number + 6])
        name = 'wiki' if number % 3 else 'books'
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f'{number:02}.txt').write_text(text)
    return build.build(
        folder.parent / 'built',
        corpus=dict(name='text', path=str(folder), licence='CC0-1.0'),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.1, by='document'),
        shard_tokens=2000,
    )


@pytest.fixture(scope='module')
def trained(many, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return _trained(many, tmp_path_factory.mktemp('runs'), patch)


def _trained(many, folder, patch):
    """A run of which is known what each step read; one that begins with its weights.

    The second is not run: it reads what the first one read in its first steps.
    """
    read: list = []

    def spy(self, indices, epochs=None):
        if epochs is not None:
            read.append(np.array(indices))
        return original(self, indices, epochs)

    def idle(state, *args, **options):
        names = ('loss', 'gradient_norm', 'skipped', 'skipped_in_a_row')
        moved = state._replace(step=state.step + 1)
        return moved, dict.fromkeys(names, jnp.zeros(()))

    original = rows_lib.TextRows.read
    patch.setattr(rows_lib.TextRows, 'read', spy)
    # What is learned does not matter here, only what is read, and when.
    patch.setattr(step, 'train_step', idle)
    patch.setattr(evaluate, 'evaluate', lambda *_: {'loss': 1.0, 'weight': 1.0})
    patch.setattr(flops, 'peak', lambda device: None)
    steps = {}

    def run(name, end, **changes):
        config = tiny_config.get_config()
        config.data = dict(path=str(many.folder), batch_size=8, loader='threads')
        config.steps = end
        config.checkpoint = dict(every=4, keep=9)
        config.model.L = config.compute.scan_unroll = 1
        for section, values in changes.items():
            del config[section]
            config[section] = values
        return train_build.build(config, folder / name, allow_config_change=True)

    def train(begin, end, **changes):
        read.clear()
        loop.train(run('first', end, **changes))
        steps.update(zip(range(begin + 1, end + 1), read, strict=False))

    train(0, 8)
    other = dict(batch_size=16, T=16, loader='threads', path=str(many.folder))
    train(8, 14, data=other)
    (folder / 'second').mkdir()
    begun = dict(init_from=str(folder / 'first'), dropout=0.0)
    record.write(run('second', 4, model=begun), 0, 0)
    (folder / 'second' / 'metrics.jsonl').write_text('{"step": 4}\n')
    return folder, steps


def expected(many, steps, entry):
    """The steps that read the document, out of what they did read."""
    rows = {
        T: many.rows('train', T).rows_of(entry.place, entry.place + entry.tokens)
        for T in (16, 32)
    }
    lengths = {step: 16 if len(read) == 16 else 32 for step, read in steps.items()}
    return tuple(
        step for step, read in sorted(steps.items())
        if set(rows[lengths[step]].tolist()) & set(read.tolist())
    )  # fmt: skip


def test_the_steps_are_those_that_read_the_document(many, trained):
    folder, steps = trained
    for entry in list(ledger.entries(many, 'train'))[::5]:
        first, second = trace.runs(many, [entry], [folder / 'first', folder / 'second'])
        assert first.last == 14
        assert first.steps == expected(many, steps, entry)
        assert second.steps == tuple(step for step in first.steps if step <= 4)
        assert second.through.steps == first.steps
        assert first.affected
        checkpoints = [4, 8, 12, 14]
        assert list(first.checkpoints) == checkpoints
        assert list(first.after) == [c for c in checkpoints if c >= first.steps[0]]


def test_what_was_held_out_was_not_trained_on(many, trained):
    folder, _ = trained
    entry = next(ledger.entries(many, 'validation'))
    (seen,) = trace.runs(many, [entry], [folder / 'second'])
    assert not seen.affected
    text = trace.trace(many.folder, entry.id, None, [folder / 'second'])
    assert 'second: never trained on it in 4 steps' in text
    assert f'validation/00000.tokens: {entry.id}' in text


def test_an_ancestor_that_is_gone_is_known_by_its_record(many, trained, tmp_path):
    folder, _ = trained
    entry = list(ledger.entries(many, 'train'))[7]
    known = lineage.read(folder / 'second')
    known['began_with']['workdir'] = str(tmp_path / 'gone')
    (tmp_path / 'second').mkdir()
    (tmp_path / 'second' / lineage.FILE).write_text(json.dumps(known))
    (seen,) = trace.runs(many, [entry], [tmp_path / 'second'])
    (whole,) = trace.runs(many, [entry], [folder / 'second'])
    assert seen.through.steps == whole.through.steps
    assert (seen.steps, seen.last) == ((), 0)
    assert seen.affected


def test_the_text_names_shards_steps_and_checkpoints(many, trained):
    folder, _ = trained
    entry = list(ledger.entries(many, 'train'))[-1]
    text = trace.trace(many.folder, entry.id, None, [folder / 'second'])
    (seen,) = trace.runs(many, [entry], [folder / 'second'])
    assert f'{entry.shard}: {entry.id}, tokens {entry.start:,} to {entry.end:,}' in text
    assert 'licence   CC0-1.0' in text
    assert f'checkpoints that saw it: {trace._spans(seen.through.after)}' in text
    source = trace.trace(many.folder, None, entry.group, [folder / 'second'])
    assert 'second: trained on it in 4 of its 4 steps: 1-4' in source
    assert 'train/00001.tokens: ' in source


def test_other_data_and_unknown_weights(many, trained, tmp_path, built):
    folder, _ = trained
    (tmp_path / 'imported').mkdir()
    entry = next(ledger.entries(built, 'train'))
    seen, imported = trace.runs(
        built, [entry], [folder / 'first', tmp_path / 'imported']
    )
    assert not seen.affected
    assert not seen.unknown
    assert f'it also read {many.folder}, which may hold the same' in str(seen)
    assert 'not known' in str(imported)
    known = lineage.read(folder / 'first')
    (tmp_path / 'rebuilt').mkdir()
    known['trained_on'][0]['datasets'][0] |= {'path': str(built.folder)}
    (tmp_path / 'rebuilt' / lineage.FILE).write_text(json.dumps(known))
    (rebuilt,) = trace.runs(built, [entry], [tmp_path / 'rebuilt'])
    assert 'was another dataset' in rebuilt.unknown


def test_a_cut_history_says_so(many, trained, tmp_path):
    folder, _ = trained
    known = lineage.read(folder / 'first')
    assert [part['step'] for part in known['trained_on']] == [0, 8]
    known['trained_on'] = known['trained_on'][1:]
    (tmp_path / lineage.FILE).write_text(json.dumps(known))
    entry = next(ledger.entries(many, 'train'))
    (seen,) = trace.runs(many, [entry], [tmp_path])
    assert 'before step 8 is not known' in str(seen)


def test_a_mixture_is_traced_through_its_order(many, built, tmp_path):
    entries = [
        dict(path=str(many.folder), weights=[[0, 0.2], [9, 1.0]]),
        dict(path=str(built.folder), weights=[[0, 0.8], [9, 0.4]]),
    ]
    sizes = [4, 8]
    for at, size in ((0, sizes[0]), (13, sizes[1])):
        part = dict(step=at, row=at * sizes[0], batch_size=size, T=32, seed=3)
        part |= dict(packing='best_fit', mixture=entries)
        lineage.record(tmp_path, None, [many, built], part)
    (tmp_path / 'metrics.jsonl').write_text('{"step": 20}\n{"step": 40}\n{"st')
    mixed = [
        mixture.Mixed(entries, size).mix(
            'train', lambda d: d.rows('train', 32, 'best_fit')
        )
        for size in sizes
    ]
    drawn = {}
    for at in range(1, 41):
        late = at > 13
        first = 13 * 4 + (at - 14) * 8 if late else (at - 1) * 4
        stream = np.arange(first, first + sizes[late])
        drawn[at] = mixed[late].draw(stream, 3)[0].tolist()
    lengths = [len(one.rows('train', 32, 'best_fit')) for one in (many, built)]
    for before, one in ((0, many), (lengths[0], built)):
        rows = one.rows('train', 32, 'best_fit')
        for entry in list(ledger.entries(one, 'train'))[::4]:
            (seen,) = trace.runs(one, [entry], [tmp_path])
            chosen = rows.rows_of(entry.place, entry.place + entry.tokens) + before
            steps = [k for k, read in drawn.items() if set(read) & set(chosen.tolist())]
            assert list(seen.steps) == steps
            assert seen.last == 40


@pytest.mark.parametrize('updates', [1, 3])
def test_skipped_rows_move_all_steps_behind_them(many, tmp_path, updates):
    """A trace without skips says wrong steps from the first window on, and fails."""
    skips = [[12, 20], [20, 24], [30, 33], [61, 64], [500, 900]]
    part = dict(step=5, row=8, batch_size=4, T=32, seed=3, packing=None, mixture=None)
    rows, how = many.rows('train', 32), {}
    if updates > 1:  # of prompts, each of which has its own document
        how = dict(rollout=dict(prompt_tokens=8, updates=updates))
        rows = prompts.Prompts(many, 'train', 8)
    lineage.record(tmp_path, None, [many], {**part, **how, 'skips': skips})
    (tmp_path / 'metrics.jsonl').write_text('{"step": 40}\n')
    row, read, some = 8, {}, False
    for step_ in range(-(-5 // updates) * updates, 40):
        if step_ % updates == 0:
            for first, end in skips:
                row = end if first <= row < end else row
            stream = np.arange(row, row + 4)
            n, row = len(rows), row + 4
            keys = permute.mix(3, stream // n)
            found = permute.permute(stream % n, n, keys)
        read[step_ + 1] = set(found.tolist())
    for entry in list(ledger.entries(many, 'train'))[::3]:
        chosen = set(rows.rows_of(entry.place, entry.place + entry.tokens).tolist())
        (seen,) = trace.runs(many, [entry], [tmp_path])
        assert list(seen.steps) == [at for at, rows_ in read.items() if rows_ & chosen]
        some |= bool(seen.steps)
    assert some


def test_the_documents_of_rows_are_those_whose_rows_they_are(many):
    """Against all documents, one by one; a shard too many or too few fails."""
    assert len(many.shards('train')) > 2
    for rows in (many.rows('train', 32), prompts.Prompts(many, 'train', 8)):
        for chosen in ([0], [len(rows) - 1], [3, 17, 18], []):
            wanted = [
                entry
                for entry in ledger.entries(many, 'train')
                if np.isin(
                    rows.rows_of(entry.place, entry.place + entry.tokens), chosen
                ).any()
            ]
            assert trace.held(many, rows, np.array(chosen, np.int64)) == wanted


def test_answers_of_pairs_are_rows_by_themselves(tmp_path):
    """As KTO reads them: each beside the answer of another pair."""
    lines = [{'prompt': n, 'chosen': n, 'rejected': n + n} for n in 'abcdef']
    (tmp_path / 'pairs.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    pairs = build.build(
        tmp_path / 'pairs',
        corpus=dict(name='pairs', path=str(tmp_path / 'pairs.jsonl'), licence='MIT'),
        tokenizer=dict(name='bytes'),
        held_out=dict(fraction=0.0, by='document'),
        shard_tokens=1000,
    )
    part = dict(step=0, row=0, batch_size=2, T=16, seed=3, packing=None, mixture=None)
    lineage.record(tmp_path, None, [pairs], {**part, 'feedback': True})
    (tmp_path / 'metrics.jsonl').write_text('{"step": 6}\n')
    rows = pairs.rows('train', 16, feedback=True)
    drawn = [pipeline.batch(rows, seed=3, batch_size=2, row=2 * n) for n in range(6)]
    for entry in ledger.entries(pairs, 'train'):
        place = np.array([entry.place + 2])  # the letter that only this pair has
        letter = pairs.sequences('train').tokens.at(place)[0]
        read = [n + 1 for n, b in enumerate(drawn) if (b['targets'] == letter).any()]
        (seen,) = trace.runs(pairs, [entry], [tmp_path])
        assert list(seen.steps) == read


def test_the_model_card_has_the_sources_of_all_its_data(many, trained, tmp_path):
    folder, _ = trained
    loaded = dataclasses.replace(
        train_build.load(folder / 'first'), workdir=folder / 'second'
    )
    text = card.text(loaded, {}, 'huggingface', 'float32')
    (row,) = many.manifest['sources']
    counts = [f'{row[name]:,}' for name in ('documents', 'bytes', 'tokens')]
    said = ' '.join(text.split())
    assert f'| {row["source"]} | CC0-1.0 | {" | ".join(counts)} |' in said  # once
    assert text.startswith('---\nlicense: "cc0-1.0"\n')
    known = lineage.read(folder / 'second')
    sources = [{**row, 'licence': 'MIT', 'source': 'before'}]
    part = known['began_with']['data']['trained_on'][0]
    part['datasets'] = [{'path': 'gone', 'digest': 'x', 'sources': sources}]
    moved = dataclasses.replace(loaded, workdir=tmp_path)
    (tmp_path / lineage.FILE).write_text(json.dumps(known))
    assert card.licence(moved, {}) == 'other'
    assert [r['source'] for r in lineage.sources(known)] == [row['source'], 'before']
    known['began_with']['data'] = None
    (tmp_path / lineage.FILE).write_text(json.dumps(known))
    assert card.licence(moved, {}) is None
    assert card.licence(moved, {'licence': 'cc0-1.0'}) == 'cc0-1.0'
    unknown = card.text(moved, {}, 'huggingface', 'float32')
    assert 'began with weights whose data are not known' in unknown


def test_a_run_that_goes_back_forgets_what_was_given_up(tmp_path, many):
    def record(step, batch_size):
        part = dict(step=step, row=8 * step, batch_size=batch_size)
        part |= dict(T=32, seed=0, packing=None, mixture=None)
        lineage.record(tmp_path, None, [many], part)
        return [p['step'] for p in lineage.read(tmp_path)['trained_on']]

    assert record(0, 8) == [0]
    assert record(10, 8) == [0]
    assert record(20, 16) == [0, 20]
    assert record(10, 16) == [0, 10]
    assert record(5, 8) == [0]


def test_mistakes_are_named(many, tmp_path):
    for asked, message in (
        ((None, None, []), 'one of --document'),
        (('a', 'b', []), 'one of --document'),
        (('nobody', None, []), 'no document of document nobody'),
        ((None, 'nobody', []), 'no document of source nobody'),
    ):
        with pytest.raises(command.UserError, match=message):
            trace.trace(many.folder, *asked)
    group = next(ledger.entries(many, 'train')).group
    with pytest.raises(command.UserError, match=r'--workdir=.*nowhere is not there'):
        trace.trace(many.folder, None, group, [tmp_path / 'nowhere'])
    assert dataset.open(many.folder).manifest == many.manifest
