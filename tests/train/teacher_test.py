"""Losses that a config cannot have."""

import dataclasses

import pytest
import tiny
import tiny_family

from gptjax import command, sharding
from gptjax.model import transformer
from gptjax.train import losses, start


def test_a_teacher_whose_layers_stages_do_not_divide_is_refused(monkeypatch):
    """6 layers on 2 stages x 2 rounds; the student's 4 fit. Mutation: no check."""
    student, teacher = (tiny_family.arch('llama', L=layers) for layers in (4, 6))
    compute = dataclasses.replace(tiny.COMPUTE, pipeline_rounds=2)
    place = sharding.make(1, 1, 1, 'stage', stage=2)
    model = transformer.make(student, compute, place)
    begin = start.Start(teacher, lambda: {}, '')
    monkeypatch.setattr(start, 'from_workdir', lambda *_, **__: begin)
    settings = {
        'objective': dict(name='distil', teacher='old', beta=0.5, temperature=1.0),
        'data': dict(path='text', batch_size=8, loader='threads'),
    }
    with pytest.raises(
        command.UserError, match=r'teacher old: model\.L is 6 .* 2 stag'
    ):
        losses.of(settings, model, compute, student.T)
