"""Every case of the golden files again, live, on other weights and inputs; exports."""

import os

from golden import cases, oracle, ours, weights
import numpy as np
import pytest

from gptjax.exchange import huggingface

SEED = int(os.environ.get('GPTJAX_PARITY_SEED', '1'))

# Of the ending of a class, the Auto class that loads it.
AUTO = {
    'LMHeadModel': 'AutoModelForCausalLM',
    'ForCausalLM': 'AutoModelForCausalLM',
    'ForMaskedLM': 'AutoModelForMaskedLM',
    'ForPreTraining': 'AutoModelForPreTraining',
    'ForSequenceClassification': 'AutoModelForSequenceClassification',
    'ForConditionalGeneration': 'AutoModelForSeq2SeqLM',
    'MTModel': 'AutoModelForSeq2SeqLM',
    **dict.fromkeys(cases.HEADLESS, 'AutoModel'),
}


def auto_class(model: str) -> str:
    return next(auto for ending, auto in AUTO.items() if model.endswith(ending))


@pytest.mark.parametrize('name', cases.CASES)
def test_parity_and_export(name, tmp_path, measured):
    case = cases.CASES[name]
    truth = oracle.truth(name, SEED, tmp_path / 'theirs')
    arch, params = huggingface.load(tmp_path / 'theirs')
    inputs = cases.inputs(name, SEED)
    outputs, gradients = ours.run(arch, params, inputs, case.outputs)
    distance = ours.distance(outputs, truth.outputs)
    summaries = {
        tensor: weights.summary(tensor, gradient)
        for tensor, gradient in truth.gradients.items()
    }
    gradient_distance, worst = ours.gradient_distance(
        ours.named(arch, gradients), summaries
    )
    measured(
        f'{name:20} logits {distance:.1e}  gradients {gradient_distance:.1e} ({worst})',
        logits=distance,
        gradients=gradient_distance,
    )
    assert distance <= 1e-4
    assert gradient_distance <= 1e-3, worst

    settings = {'pad_token_id': cases.PAD}
    huggingface.save(arch, params, tmp_path / 'exported', settings=settings)
    loaded = oracle.load(auto_class(case.model), tmp_path / 'exported')
    assert type(loaded).__name__ == case.model
    again, _ = oracle.run(case.model, loaded, inputs)
    for key, value in again.items():
        # The same weights in the same program: equal bit for bit.
        np.testing.assert_array_equal(value.detach().numpy(), truth.outputs[key])
