"""Each form that plans search against closed forms worked by hand."""

import dataclasses

import planning
import pytest

from configs import gpt2
from experiments.benchmarks import _scale_wire
from gptjax import command
from gptjax.model import experts, kernels, pipeline
from gptjax.model.families import llama, mixtral
from gptjax.plan import (
    ahead,
    cost_model,
    job,
    memory,
    plans,
    report,
    search,
    targets,
    wire,
)
from gptjax.train import build, freeze, show
from gptjax.train import settings as settings_lib

V5E = targets.parse('v5e-16')


def config_of(rows=64, T=1024, **changes):
    """4 layers of width 512, F of 2048, 4 heads of 128, V of 4096."""
    config = gpt2.get_config('small')
    config.model.update(L=4, D=512, F=2048, N=4, K=4, H=128, V=4096, T=T)
    config.data.batch_size = rows
    config.update(changes)
    return config


@pytest.fixture(scope='module')
def small():
    return planning.job_of(config_of())


def found(planned, sizes, remat='full', accumulate=1, **changes):
    sequence = '_sequence' * changes.pop('sequence', False)
    layout = job.Layout(
        job.split(sizes), search.rules_of(sizes) + sequence, planned.rows, accumulate,
        remat, **changes,
    )  # fmt: skip
    one = search.evaluate(planned, V5E, layout)
    return one, {sent.kind: sent for sent in one.sent}


def test_rows_over_devices_pass_keys_and_values(small):
    """Of 4 x 4 devices each has 16 rows of 256 tokens, and sends its keys 3 times.

    Their gradients, in float32, go all the way round. Mutations: tokens of whole rows;
    `minimal` that keeps what the ring gives.
    """
    one, sent = found(small, {'data': 4, 'context': 4})
    keys = 16 * 256 * 2 * 512 * 2  # bytes of a layer's
    passed = sent['pass keys and values']
    # Scores again, so 3 times in 4 layers; and the order of a row undone, and back.
    assert passed.bytes == 4 * (3 * 3 + 4 * 2) * keys + 2 * keys / 2
    assert one.bytes.activations == 4 * 16 * 256 * 512 * 2
    minimal, dots = (
        found(small, {'data': 4, 'context': 4}, remat)[0].time
        for remat in ('minimal', 'dots')
    )
    assert minimal == dots
    assert minimal != found(small, {'data': 4, 'context': 4}, 'none')[0].time


def test_stages_compute_on_zeros_while_they_fill(small):
    """8 microbatches of 4 stages are 11 iterations: 3 / 8 more, and 11 / 8 is kept.

    Mutations: what is kept of 8 iterations; a bubble of the whole batch.
    """
    one, sent = found(small, {'data': 4, 'stage': 4}, pipeline=8)
    stream = 16 * 1024 * 512 * 2  # of a device's 16 rows, of which 2 are a microbatch
    # And from the last stage to the first, and back.
    assert sent['pass activations'].bytes == 2 * 11 / 8 * stream + 2 * stream
    # A stage's one layer finds its input; all that goes in, and comes out, is there.
    assert one.bytes.activations == (1 + 2) * 11 / 8 * stream
    time = one.time
    busy = time.products + time.attention + time.memory
    assert time.waiting == pytest.approx(3 / 8 * busy)
    more = found(small, {'data': 4, 'stage': 4}, pipeline=16)[0].time
    assert more.waiting < time.waiting


def test_rounds_of_a_pipeline_pass_more_and_use_weights_less(small):
    """Twice around 2 stages: 2 x 4 + 1 iterations, 4.5 times a layer.

    Mutations: 9 // 2 of both; messages once for both rounds.
    """
    sizes = {'fsdp': 8, 'stage': 2}
    _, sent = found(small, sizes, pipeline=4, rounds=2)
    stream = 8 * 1024 * 512 * 2
    assert sent['pass activations'].bytes == 9 * 2 / 4 * stream + 2 * stream
    assert sent['pass activations'].count == 2 * 9
    weights = 2 * 4.5 * small.weights['layers'] + small.weights['tables']
    expected = 7 / 8 * weights / 2 * 2
    assert sent['gather weights'].bytes == pytest.approx(expected)


@pytest.mark.parametrize(
    ('name', 'attention', 'dropout', 'times'),
    [
        ('h100-4', 'auto', 0.0, 2),
        ('h100-4', 'cudnn', 0.0, 2),
        ('h100-4', 'triton', 0.0, 1),
        ('h100-4', 'auto', 0.1, 1),
        ('v5e-4', 'auto', 0.0, 1),
    ],
)
def test_copies_with_attention_of_cudnn_sum_in_each_microbatch(
    name, attention, dropout, times
):
    """As `begin.program` has it. Mutation: once a step on GPUs."""
    config = config_of()
    config.compute.attention = attention
    config.model.dropout = dropout
    planned = planning.job_of(config)
    layout = job.Layout((('data', 4),), 'data', 64, 2, 'full')
    (sent,) = search.evaluate(planned, targets.parse(name), layout).sent
    assert sent.bytes == times * 2 * 3 / 4 * 4 * planned.parameters


def test_steps_compare_by_their_first_digits(small):
    """Of 3.11 and 3.14 ms the former is faster. Mutation: rounding to 0.1 ms."""
    one, _ = found(small, {'fsdp': 16})
    worths = [
        dataclasses.replace(one, time=cost_model.Time(seconds, *[0.0] * 7)).worth[0]
        for seconds in (3.11e-3, 3.14e-3)
    ]
    assert worths == [3.11e-3, 3.14e-3]


def test_what_goes_over_nodes_is_of_the_network():
    """8 of 16 GPUs are a node; the same bytes wait longer. Mutation: `slice` alone."""
    nodes, slices = targets.parse('h100-16'), targets.parse('v5e-16x2')
    assert wire.across(nodes, {'fsdp': 16}) == {'slice', 'fsdp'}
    assert wire.across(nodes, {'data': 2, 'fsdp': 8}) == {'slice', 'data'}
    assert wire.across(slices, {'slice': 2, 'fsdp': 16}) == {'slice'}
    planned = planning.job_of(config_of())
    layout = job.Layout((('fsdp', 16),), 'fsdp', 64, 1, 'full')
    time = search.evaluate(planned, nodes, layout).time
    assert time.links == 0 < time.network
    assert time.waiting > 0.88 * time.network
    assert time.link == 'NVLink'


def test_scores_that_exist_at_once_take_memory():
    """4 rows of 4 heads and 1,024 x 1,024 scores. Mutation: as of blocks."""
    peaks = []
    for attention in ('auto', 'reference'):
        config = config_of()
        config.compute.attention = attention
        planned = planning.job_of(config)
        layout = job.Layout((('fsdp', 16),), 'fsdp', 64, 1, 'full')
        tokens = 64 * 1024.0 / 16
        peaks.append(memory._layer(planned, layout, tokens))
    assert peaks[1] - peaks[0] == 4 * 4 * 1024**2 * (4 + 2)
    (plan,) = plans.make(config, ['v5e-16'], compiled=False).plans
    assert 'not in the time' in plan.note


def test_one_number_for_the_room_of_experts():
    """Which is written again where no JAX is, and where a test counts operations."""
    assert experts.SPARE == wire._ROOM == _scale_wire.ROOM


def test_weights_are_gathered_in_each_iteration_of_stages(small):
    """19 of 16 microbatches. Mutation: once a step."""
    _, sent = found(small, {'fsdp': 4, 'stage': 4}, pipeline=16)
    weights = 19 * 2 * small.weights['layers'] + small.weights['tables']
    expected = 3 / 4 * weights / 4 * 2
    assert sent['gather weights'].bytes == pytest.approx(expected)


@pytest.mark.parametrize(
    ('remat', 'passes', 'more'), [('minimal', 4, 2), ('full', 5, 1)]
)
def test_a_split_sequence_gathers_and_scatters(small, remat, passes, more):
    """Half a sum is a scatter and half a gather: 2 forward, 2 backward; `full` 1 again.

    Backward gathers again what products read; and 2 sums are of the vocabulary. What is
    kept of the stream is a fourth. Mutation: as many bytes as the sums of `tensor`.
    """
    _, sent = found(small, {'data': 4, 'tensor': 4}, remat, sequence=True)
    one = 3 / 4 * 16 * 1024 * 512 * 2
    assert sent['scatter activations'].bytes == (4 * passes + 2) * one
    assert sent['gather activations'].bytes == (4 * (passes + more) + 2) * one
    arch = llama.SIZES['2-7b']
    whole, split = (memory.saved(arch, 'dots', 4, 128, n) for n in (1, 4))
    assert whole - split == 2 * arch.D * 3 / 4


def test_what_is_offloaded_goes_over_the_host(small):
    """On the device lies a layer's input, as of `full`, and a fourth of the rest, which
    goes there and back.

    Mutations: one way; the rate of a chip's links.
    """
    one, sent = found(small, {'data': 16}, 'offload')
    tokens, layers = 4 * 1024, 4
    # The results of queries, keys and values, of the output, and of `up`.
    kept = (3 + 1 + 4) * 512 * 2
    assert sent['offload activations'].bytes == 2 * layers * tokens * kept
    full = found(small, {'data': 16})[0]
    assert one.bytes.activations == full.bytes.activations + layers * tokens * kept / 4
    assert one.time.host == sent['offload activations'].bytes / 16e9
    assert one.time.binding == 'host'
    time = one.time
    busy = time.products + time.attention + time.memory
    assert time.shown == pytest.approx(time.host - busy)
    assert targets.parse('v6e-8').chip.host_rate == 32e9


def test_logits_in_parts_take_less_and_compute_the_head_again(small):
    """An eighth of the logits; 8 in place of 6 operations of the head's weights.

    Mutation: parts of a device's tokens, where `loss_rows` counts those of all.
    """
    plain, _ = found(small, {'data': 16})
    parts, _ = found(small, {'data': 16}, loss_rows=64 * 1024 // 8)
    layout = plain.layout
    split = dataclasses.replace(layout, loss_rows=64 * 1024 // 8)
    tokens = 4 * 1024.0
    assert memory._loss(small, layout, tokens) == tokens * 4096 * 2
    assert memory._loss(small, split, tokens) == tokens * 4096 * 2 / 8
    more = parts.time.products - plain.time.products
    head = 2 * 4096 * 512 * tokens
    assert more * V5E.chip.flops * 0.95 == pytest.approx(head)


def test_long_rows_of_small_batches_are_split():
    """4 rows on 16 chips. Mutation: a search of data, fsdp and tensor alone."""
    planned = planning.job_of(config_of(rows=4, T=16_384))
    best = search.ranked(planned, V5E)[0].layout
    assert best.size('context') * best.size('tensor') == 4
    assert best.size('context') > 1
    assert best.rules.startswith('fsdp') == (best.size('fsdp') > 1)


def test_a_form_that_no_published_row_has_must_be_2_percent_faster(small):
    simple, _ = found(small, {'fsdp': 16})
    offload = dataclasses.replace(simple.layout, remat='offload')
    same = dataclasses.replace(simple, layout=offload)
    assert same.worth[0] == pytest.approx(1.02 * simple.time.step, rel=5e-4)
    assert simple.worth < same.worth


@pytest.mark.parametrize('forms', [
    {'fsdp': 4, 'context': 4}, {'data': 2, 'stage': 8}, {'fsdp': 8, 'tensor': 2},
])  # fmt: skip
def test_flags_make_a_run_of_the_layout(forms):
    """What `--config` says with them is what is compiled. Mutation: a flag left out."""
    config = gpt2.get_config('xl')
    config.model.L = 8
    planned = planning.job_of(config)
    parts = 16 if 'stage' in forms else 0
    rules = search.rules_of(forms) + '_sequence' * ('tensor' in forms)
    layout = job.Layout(
        job.split(forms), rules, 512, 2, 'offload', parts, loss_rows=4096
    )
    flags = ahead.flags(planned.settings, layout)
    overrides = [*flags, '--config.model.L=8']
    ran = settings_lib.of(command.load_config('configs/gpt2.py:xl', overrides))
    laid = ahead.laid(planned.settings, layout)
    assert ran['compute'] == laid['compute']
    ones = dict.fromkeys(ran['mesh'], 1)
    assert ran['mesh'] == {**ones, **laid['mesh']}
    assert planning.job_of(command.load_config('configs/gpt2.py:xl', overrides)).own(
        16
    ) == dataclasses.replace(layout, rows=512)


def test_what_is_searched_is_what_training_takes(monkeypatch):
    """One layout of each set of forms on 8 devices, checked as a run is.

    Mutation: `sequence` beside `context` in rows that their parts do not divide.
    """
    monkeypatch.setattr(search, 'DOUBT', 0.5)  # which leaves none out
    config = config_of(rows=16, T=8)
    config.model.update(K=2)
    planned = planning.job_of(config)
    layouts = {}
    for one in search.ranked(planned, targets.parse('v5e-8')):
        layouts.setdefault(one.layout.rules, one.layout)
    assert len(layouts) > 10
    assert {'data', 'fsdp_tensor_sequence', 'fsdp_context', 'stage'} <= set(layouts)
    for layout in layouts.values():
        laid = ahead.laid(planned.settings, layout)
        _, model = build.begin_of(laid)
        model.sharding.check_batch(16 // layout.accumulate, 'a microbatch')
        model.sharding.check_length(8, 'a row')
        rows = 16 // layout.accumulate
        pipeline.check(model.arch, model.compute, model.sharding, rows)
        model.sharding.of_boxed(planned.boxed)
        kernels.choose(model.arch, model.compute, model.sharding, 8)


def test_a_kernel_of_whole_rows_gives_way_to_the_ring():
    """And the ring to another. Mutation: the config's own."""
    settings = dict(planning.job_of(config_of()).settings)
    ring = job.Layout((('context', 4),), 'context', 64, 1, 'full')
    plain = job.Layout((('data', 4),), 'data', 64, 1, 'full')
    for kernel, layout, expected in (
        ('splash', ring, 'auto'), ('ring', ring, 'ring'), ('ring', plain, 'auto'),
        ('splash', plain, 'splash'),
    ):  # fmt: skip
        settings['compute'] = {**settings['compute'], 'attention': kernel}
        assert ahead.laid(settings, layout)['compute']['attention'] == expected


def test_weights_go_over_nodes_at_the_rate_of_their_network_cards():
    """8 GPUs of a node have 8 x 50 GB/s, less than 450 of NVLink; 4 of them 200.

    Mutation: the rate of NVLink, or of one card.
    """
    target = targets.parse('h100-64')
    assert wire.rates(target, {'fsdp': 8})['fsdp'] == 450e9
    assert wire.rates(target, {'fsdp': 64})['fsdp'] == 400e9
    assert wire.rates(target, {'fsdp': 32, 'tensor': 2})['fsdp'] == 200e9
    assert wire.rates(target, {'fsdp': 8, 'tensor': 8})['fsdp'] == 50e9
    larger = [one.name for one in targets.larger(targets.parse('h100-4'))]
    assert larger[:3] == ['h100-8', 'h100-16', 'h100-32']


def test_a_refusal_names_the_optimizers_that_would_fit():
    """8, 6, 4 and about 0 bytes for each weight. Mutation: any of them."""
    config = gpt2.get_config('xl')
    config.model.L = 30
    job_ = planning.job_of(config)
    with pytest.raises(
        command.UserError, match=r'on v5e-1 it fits with .*optimizer.name=ad'
    ):
        search.ranked(job_, targets.parse('v5e-1'))
    held = [less.held(ON_16).optimizer for _, less in job_.spared()]
    first = job_.held(ON_16).optimizer
    assert held[0] == pytest.approx(first * 6 / 8)
    assert held[1] == pytest.approx(first * 4 / 8)
    assert held[2] < first / 20


ON_16 = job.Layout((('fsdp', 16),), 'fsdp', 512, 1, 'full')


ALONE = job.Layout((), 'data', 512, 1, 'full')


def test_frozen_weights_have_no_moments_and_no_gradients():
    """3 of 4 layers. Mutation: moments of all."""
    config = config_of()
    whole = planning.job_of(config).held(ALONE)
    config.optimizer.freeze = ('blocks[:3]',)
    part = planning.job_of(config)
    assert part.held(ALONE).weights == whole.weights
    layers = part.weights['layers']
    assert part.held(ALONE).gradients == whole.weights - layers * 3 / 4 * 4
    assert part.held(ALONE).optimizer < whole.optimizer - layers * 3 / 4 * 7


def test_plans_and_show_refuse_frozen_stacks_of_stages_alike():
    config = config_of()
    config.optimizer.freeze = ('blocks[:3]',)
    stages = job.Layout((('stage', 2),), 'stage', 64, 1, 'full')
    with pytest.raises(command.UserError) as planned:
        planning.job_of(config).held(stages)
    show.remesh(config, 'stage=2')
    with pytest.raises(command.UserError) as shown:
        show.text(config)
    assert str(planned.value) == str(shown.value)
    assert 'leaves 1 layers' in str(shown.value)
    freeze.check_stages(freeze.EVERYTHING, 2)


def test_policies_of_plans_are_those_of_models():
    from gptjax.model import config as model_config

    assert set(cost_model.AGAIN) == set(model_config.REMAT)


def test_experts_keep_what_the_router_weighs_and_room_in_rounds():
    """By hand, of a token for 2 of 8 experts: 1.25 times as many rows, over devices.

    Mutation: a last product that nothing reads, as of an MLP.
    """
    arch = mixtral.SIZES['8x7b']
    dense = dataclasses.replace(arch, experts=None)
    least = memory.saved(dense, 'dots', 1) - 2 * arch.F
    for room in (1.0, 1.25):
        rows = 2 * room
        expected = least + rows * (2 * arch.F + arch.D)
        assert memory.saved(arch, 'dots', 1, room=room) == expected


def test_links_are_told_by_what_they_cross():
    """Mutation: the links of TPUs for all."""
    config = gpt2.get_config('xl')
    made = plans.make(config, ['h100-64', 'v5e-16x2'], compiled=False)
    nodes, slices = made.plans
    assert nodes.found.layout.sizes == (('fsdp', 64),)
    assert [report._link(nodes.found, axis) for axis in ('fsdp', 'tensor', 'host')] == [
        'DCN', 'NVLink', 'PCIe',
    ]  # fmt: skip
    links = [report._link(slices.found, axis) for axis in ('slice', 'fsdp')]
    assert links == ['DCN', 'ICI']
    assert '--config.mesh.slice=2 --config.mesh.fsdp=16' in report.text(made)
