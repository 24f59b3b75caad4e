"""The page: well formed, complete, and without a request to anywhere."""

import dataclasses
import html.parser
import json
import math
import re
import shutil

import numpy as np
import pytest

from gptjax import command
from gptjax.evals import (
    charts,
    compare,
    curves,
    page,
    report,
    runs,
    scores,
    transcripts,
)
from gptjax.objectives import table as objective_table
from gptjax.train import build

EVIL = '<script>alert("x")</script> & \x00'
VOID = {'meta', 'link', 'br', 'img', 'input', 'hr'}


class Parser(html.parser.HTMLParser):
    """Checks that tags nest, and keeps the tags, their attributes and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ''
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if 'style' not in self.open else ''


@pytest.fixture(scope='module')
def workdirs(stages, tmp_path_factory):
    """The three runs with results, one of which holds markup."""
    folder = tmp_path_factory.mktemp('reported')
    found = [
        shutil.copytree(stages.folder / name, folder / name)
        for name in ('pretrain', 'sft', 'dpo')
    ]
    scores.run(found[0], None, trigram=True, answers=None)
    scores.run(found[0], stages.chat, trigram=False, answers=None)
    scores.run(found[1], stages.pairs, trigram=False, answers=None)
    scores.run(found[2], None, trigram=False, answers=None)
    path, result = scores.run(found[1], None, trigram=False, answers=3)
    result['samples'][0]['answer'] = EVIL
    path.write_text(json.dumps(result))
    return found


@pytest.fixture(scope='module')
def written(workdirs, tmp_path_factory):
    output = tmp_path_factory.mktemp('page') / 'new' / 'report.html'
    report.write(workdirs, output, prompts=[])
    return output.read_text()


def test_page_is_well_formed_and_asks_for_nothing(written):
    parsed = Parser(written)
    for tag, attributes in parsed.tags:
        assert tag not in ('script', 'link', 'img', 'iframe', 'object', 'base')
        assert 'src' not in attributes
        assert attributes.get('href', '#').startswith('#')
        assert not [name for name in attributes if name.startswith('on')]
    assert not re.search(r'https?://|url\(|@import', written)
    ids = {attributes.get('id') for _, attributes in parsed.tags}
    links = {a['href'] for tag, a in parsed.tags if tag == 'a'}
    assert links <= {f'#{name}' for name in ids}


def test_markup_in_a_sample_is_shown(written):
    assert '<script' not in written
    assert '&lt;script&gt;' in written
    assert '<script>alert("x")</script> & \u2400' in Parser(written).text
    assert '&lt;b&gt;even&lt;/b&gt;' in written  # of the questions themselves


def test_page_tells_of_runs_numbers_data_and_commands(written, workdirs):
    text = Parser(written).text
    own = {result['dataset']: result for result in scores.read(workdirs[0])}
    assert f'{own["text"]["trigram_bits_per_byte"]:.3f}' in text
    assert f'{own["chat"]["loss"]:.3f}' in text
    assert 'share of 3 greedy answers' in text
    assert text.count('CC0-1.0') == 3
    assert 'text.jsonl' in text
    assert 'bytes, 261 tokens' in text
    assert f'python -m gptjax.serve --workdir={workdirs[-1]} --port=8000' in text
    assert 'seed 0' in text
    figures = [tag for tag, _ in Parser(written).tags if tag == 'svg']
    assert len(figures) >= 3 * 4  # loss, throughput, learning rate, gradient norm


def test_given_prompts_are_continued(workdirs, tmp_path):
    report.write(workdirs[:1], tmp_path / 'a.html', prompts=['one <i>and'])
    assert '<b>one &lt;i&gt;and</b>' in (tmp_path / 'a.html').read_text()


def test_runs_without_results_say_how_to_get_some(stages, tmp_path):
    report.write([stages.pretrain], tmp_path / 'a.html', prompts=[])
    assert 'nothing to compare yet' in (tmp_path / 'a.html').read_text()


def test_models_that_write_nothing_are_not_asked_to(stages, monkeypatch):
    load = build.load

    def encoder(workdir):
        trained = load(workdir)
        arch = dataclasses.replace(trained.model.arch, causal=False)
        return dataclasses.replace(trained, model=trained.model.clone(arch=arch))

    monkeypatch.setattr(build, 'load', encoder)
    (run,) = runs.read([stages.pretrain], [])
    assert run.samples == []
    (made_on,) = report._try([run])
    assert 'This page was made on' in made_on


def test_a_workdir_given_twice_is_refused(workdirs, tmp_path):
    with pytest.raises(command.UserError, match='given twice'):
        report.write([workdirs[0]] * 2, tmp_path / 'a.html', prompts=[])
    with pytest.raises(command.UserError, match='no workdir'):
        report.write([tmp_path / 'none'], tmp_path / 'a.html', prompts=[])


def test_an_output_that_cannot_be_is_refused_before_the_work(workdirs, tmp_path):
    (tmp_path / 'file').write_text('')
    for output, message in (
        (tmp_path, 'is a folder'),
        (tmp_path / 'file' / 'a.html', 'is below a file'),
    ):
        with pytest.raises(command.UserError, match=message):
            report.write([tmp_path / 'none'], output, prompts=[])


def test_openings_stay_in_their_documents():
    stream = np.array([0, *range(1, 20), 0, 7, 8, 0, 0])
    assert runs.openings(stream, 0, 3) == [(*range(13),), (0, 7, 8), (0,)]


def result(kind, digest='d', **numbers):
    return {'dataset': kind, 'dataset_digest': digest, 'kind': kind, **numbers}


def test_summary_compares_like_with_like():
    runs = [
        ('a', [result('chat', loss=4.0), result('text', bits_per_byte=1.5,
                                                trigram_bits_per_byte=2.0)]),
        ('b', [result('chat', loss=3.0, stopped=9, asked=10, max_tokens=64),
               result('pairs', ranked_right=0.5, pairs=20)]),
        ('c', [result('pairs', ranked_right=0.75, pairs=20),
               result('chat', digest='another', loss=1.0)]),
    ]  # fmt: skip
    lines = compare.summary(runs)
    assert [(x.before, x.after, x.change, x.better) for x in lines] == [
        ('trigram\n2.000', 'a\n1.500', '\N{MINUS SIGN}25.0%', True),
        ('a\n4.000', 'b\n3.000', '\N{MINUS SIGN}25.0%', True),
        ('', 'b\n90.0%', '90.0%', None),
        ('b\n50.0%', 'c\n75.0%', '+25.0 points', True),
    ]


def test_summary_says_worse():
    (line,) = compare.summary(
        [('a', [result('chat', loss=2.0)]), ('b', [result('chat', loss=2.5)])]
    )
    assert (line.change, line.better) == ('+25.0%', False)


def test_summary_says_which_answers_stop_and_what_a_run_logged():
    chat = [result('chat', loss=2.0, stopped=n, asked=10, max_tokens=9) for n in (9, 8)]
    lines = compare.summary([('a', [chat[0]]), ('b', [chat[1]])])
    assert (lines[1].before, lines[1].after) == ('a\n90.0%', 'b\n80.0%')
    assert (lines[1].change, lines[1].better) == ('\N{MINUS SIGN}10.0 points', False)
    records = [
        {'step': 0, 'eval_reward': 0.25, 'eval_loss': -0.25, 'eval_loss_text': 2.0},
        {'step': 1, 'eval_loss': None},
        {'step': 2, 'eval_reward': 0.75, 'eval_loss': -0.75, 'eval_loss_text': 2.5},
    ]
    earned, forgotten = compare.logged([('b', records), ('c', records[:2])])
    assert compare.logged([('b', records)], {'text'}) == [earned]
    assert (earned.before, earned.after) == ('step 0\n0.250', 'step 2\n0.750')
    assert (earned.change, earned.better) == ('+0.500', True)
    assert (forgotten.change, forgotten.better) == ('+25.0%', False)


def test_figures_stand_side_by_side_under_their_own_run():
    text = result('text', bits_per_byte=1.5, loss=2.0, bytes=9)
    lines = compare.matrix([[text], [result('chat', loss=3.0)], [text]])
    assert lines == [
        ['bits per byte, text', '1.500', '', '1.500'],
        ['loss, chat', '', '3.000', ''],
    ]


def said(step, prompt, completion, held_out=True):
    return {
        'step': step,
        'held_out': held_out,
        'prompt': prompt,
        'completion': completion,
        'reward': step / 8,
        'rewards': {'ended': 1.0, 'length': None},
        'reference': 'true',
    }


def test_transcripts_are_early_beside_late():
    records = [said(0, 'q', 'first'), said(0, 'q', 'again'), said(0, 'p', 'alone')]
    records += [said(1, 'q', 'taught', held_out=False), said(4, 'q', 'middle')]
    records += [said(8, 'q', EVIL), said(8, 'q', 'other')]
    title, table = transcripts.of_run(records)
    text = Parser(table).text
    assert 'held-out' in title
    assert text == (
        'answerendedlengthreward'
        'qTrue answer: true'
        'step 0first1.00none0.00'
        'step 8<script>alert("x")</script> & \u24001.00none1.00'
    )
    _, trained = transcripts.of_run([said(n, f'q{n}', 'x', False) for n in range(20)])
    shown = re.findall(r'<b>q(\d+)</b>', trained)
    assert shown == ['0', '1', '2', '17', '18', '19']
    assert transcripts.of_run([]) == []


def test_curves_of_rollouts_have_the_reward_first_and_all_else_in_groups():
    names = 'loss eval_reward reward_ended kl kl_coefficient entropy clip_share mfu'
    same = dict.fromkeys([*names.split(), 'value_loss', 'forgetting_text'], 0.5)
    records = [
        {'step': n, 'reward': n, 'eval_loss': -n, 'eval_loss_text': 4.0, 'odd': None}
        | same
        for n in range(5)
    ]
    first, *rest = curves.figures(records, 'nats a token')
    assert 'mean of the answers' in first
    assert 'held-out 0.5' in Parser(first).text
    text = ''.join(Parser(part).text for part in rest)
    titles = (
        'Rewards', 'Reward ended', 'How far it went', 'KL', 'KL coefficient',
        'Clip share', 'What it says', 'Entropy', 'The value of a state', 'Value loss',
        'What it learned and forgot', 'Forgetting text', 'Loss text', 'Training', 'MFU',
    )  # fmt: skip
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    assert 'Odd' not in text
    assert text.count('held-out') == 1  # of the text: the loss held out is -reward


@pytest.mark.parametrize(
    ('low', 'high', 'most', 'expected'),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (2.1, 7.6, 6, [3, 4, 5, 6, 7]),
        (0, 0.003, 3, [0, 0.001, 0.002, 0.003]),
        (-3, 12, 4, [0, 5, 10]),
    ],
)
def test_ticks_are_round(low, high, most, expected):
    assert charts.ticks(low, high, most) == expected


def test_short_numbers():
    shown = [charts.short(x) for x in (0, 0.0001, 5e-5, 5712.3, 48_000, 2.5e6, 3e9)]
    assert shown == ['0', '0.0001', '5e-5', '5712', '48k', '2.5M', '3G']


def test_a_line_goes_through_its_points():
    points = [(0, 1.0), (5, math.nan), (10, 3.0)]
    drawn = charts.figure(
        'Loss', [charts.Series('x', points, 'one', dots=True)], 200, 90
    )
    circles = [a for tag, a in Parser(drawn).tags if tag == 'circle']
    assert [float(c['cx']) for c in circles] == [46, 192]  # the ends of the axis
    assert float(circles[0]['cy']) > float(circles[1]['cy'])  # larger is higher
    assert charts.figure('Loss', [charts.Series('x', [], 'one')], 200, 90) == ''
    one = charts.figure('Loss', [charts.Series('x', [(3, 2.0)], 'one')], 200, 90)
    assert 'circle' in one


def test_a_long_line_is_thinned_and_keeps_its_end():
    points = [(step, math.sin(step)) for step in range(5001)]
    drawn = charts.figure('x', [charts.Series('', points, 'one')], 500, 90)
    (path,) = (a['d'] for tag, a in Parser(drawn).tags if tag == 'path')
    assert path.count('L') < 400
    assert path.rsplit('L', 1)[1].startswith('492.0 ')


def test_html_escapes_all_but_html():
    assert page.element('p', '<b>', page.Html('<i>'), title='"') == (
        '<p title="&quot;">&lt;b&gt;<i></p>'
    )


def test_facts_tell_of_adapters_rewards_rollouts_and_accepted_answers(stages, tmp_path):
    (run,) = runs.read([stages.sft], [])
    assert run.trained == run.parameters
    kept = tmp_path / 'kept.jsonl'
    counts = dict(kept=30, samples=1200, accept_share=0.025, by='sft, one of 4')
    kept.with_name('kept.jsonl.json').write_text(json.dumps(counts))
    config = run.config | {
        'adapter': dict(
            R=8, alpha=16.0, rank_stabilised=True, targets=['blocks/mlp'], base='nf4'
        ),
        'rewards': [dict(name='ended', weight=0.5)],
        'rollout': dict(prompts=4, group=2, max_tokens=16, temperature=0.7),
        'objective': dict(name='preference', loss=dict(name='hinge', beta=0.2)),
        'data': run.config['data'] | {'path': str(kept)},
    }
    trained = run.parameters // 50
    made = dataclasses.replace(run, config=config, trained=trained)
    text = Parser(report.stages.facts(made)).text
    for fact in (
        f'Trained{trained:,} weights, 2.0% of the model',
        'AdapterrsLoRA of rank 8 on blocks/mlp, over a base in nf4',
        'Rewardsended x 0.5',
        'Rollout4 prompts, 2 answers each, of at most 16 tokens, at temperature 0.7',
        'Objectivepreference, hinge, beta 0.2',
        'Rejection sampling30 of 1,200 answers accepted (2.5%): by sft, one of 4',
        'answers of its own',
    ):
        assert fact in text
    sources = [dict(path=f'/x/{name}', weights=((0, 1.0), (9, 0.5))) for name in 'ab']
    mixed = dict(mixture=sources, licences=['CC0-1.0'], batch_size=4, loader='threads')
    made = dataclasses.replace(run, config=run.config | {'data': mixed})
    assert 'by weight: a 0.5, b 0.5' in Parser(report.stages.facts(made)).text


def test_facts_tell_the_sizes_of_the_steps_that_were_taken(stages):
    """Mutation: sizes of steps that are still to come."""
    (run,) = runs.read([stages.sft], [])
    ramp = dict(batch_size=512, batch_ramp=((3, 1_024), (6, 2_048)))
    data = run.config['data'] | ramp
    for step, sizes in ((3, '512'), (6, '512 to 1,024'), (7, '512 to 2,048')):
        made = dataclasses.replace(run, step=step, config=run.config | {'data': data})
        text = Parser(report.stages.facts(made)).text
        assert f'Steps{step}, each of {sizes} rows of ' in text


def test_the_checkpoint_of_an_adapter_counts_what_was_trained(stages):
    trained = build.load(stages.sft)
    adapted = dataclasses.replace(trained, config=trained.config | {'adapter': {}})
    arrays = {
        'params/blocks/mlp/up/down': {'shape': [1, 16, 4]},
        'params/blocks/mlp/up/up': {'shape': [1, 4, 32]},
        'opt_state/mu': {'shape': [1000]},
        'step': {'shape': []},
    }
    assert runs._trained(adapted, arrays) == 16 * 4 + 4 * 32


def test_every_objective_has_its_words():
    assert set(objective_table.OBJECTIVES) - {'next_token'} <= set(
        report.stages._STAGES
    )
    assert set(objective_table.OBJECTIVES['next_token'].kinds) == set(
        report.stages._NEXT_TOKEN
    )
