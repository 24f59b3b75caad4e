"""What `transformers` makes of a case: outputs at real tokens, the loss, gradients."""

import json
from pathlib import Path
import re
from typing import Any, NamedTuple

from golden import cases, folder, weights
import numpy as np
import safetensors
import torch
from torch.nn import functional
import transformers


class Truth(NamedTuple):
    config: dict[str, Any]  # config.json
    shapes: dict[str, list[int]]  # of model.safetensors
    outputs: dict[str, np.ndarray]  # of cases.Case.outputs, and the loss
    gradients: dict[str, np.ndarray]  # by the file's names


def blank(case: cases.Case, path: Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """What `save_pretrained` writes for a case: config.json, and names with shapes."""
    model_class = getattr(transformers, case.model)
    model = model_class(model_class.config_class(**case.config))
    model.save_pretrained(path)
    config = json.loads((path / 'config.json').read_text())
    with safetensors.safe_open(path / 'model.safetensors', 'np') as file:
        names = [name for name in sorted(file.keys()) if not _sines(case.model, name)]
        shapes = {name: file.get_slice(name).get_shape() for name in names}
        assert {file.get_slice(name).get_dtype() for name in shapes} == {'F32'}
    return _legacy(config) if case.legacy else config, shapes


def _sines(model: str, name: str) -> bool:
    """Whether a tensor is the table that Marian's classes compute."""
    return model.startswith('Marian') and name.endswith('embed_positions.weight')


def _legacy(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration in the words of transformers 4."""
    old = {k: v for k, v in config.items() if k not in ('rope_parameters', 'dtype')}
    rope = dict(config['rope_parameters'])
    theta = rope.pop('rope_theta')
    if rope['rope_type'] == 'linear':
        rope['type'] = rope.pop('rope_type')
    old |= {'rope_theta': theta, 'rope_scaling': rope, 'torch_dtype': 'float32'}
    return old | {'transformers_version': '4.43.0'}


def load(model: str, path: Path, **options: Any) -> Any:
    """The model of a folder, which has neither more nor less tensors than it needs."""
    loaded, info = getattr(transformers, model).from_pretrained(
        path,
        attn_implementation='eager',
        dtype=torch.float32,
        output_loading_info=True,
        local_files_only=True,
        **options,
    )
    if isinstance(loaded, transformers.MarianModel):  # it makes its sines itself
        places = {f'{part}.embed_positions.weight' for part in ('encoder', 'decoder')}
        info['missing_keys'] -= places
    for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys', 'error_msgs'):
        assert not info[kind], (kind, info[kind])
    return loaded.eval()


def arguments(model: str, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Our batch as the arguments of a model's `forward`."""
    long = {name: torch.tensor(array).long() for name, array in batch.items()}
    whole = bool((batch['segments'] == 1).all())
    made = {'input_ids': long['tokens']}
    if 'source' in batch:
        made = {'input_ids': long['source'], 'decoder_input_ids': long['tokens']}
        if not whole:
            made['attention_mask'] = long['source_segments']
            made['decoder_attention_mask'] = long['segments']
        return made
    if not whole:
        made['attention_mask'] = long['segments']
        if not model.startswith(('Bert', 'Roberta')):
            made['position_ids'] = long['positions']
    if 'types' in batch:
        made['token_type_ids'] = long['types']
    return made


def run(
    model: str, loaded: Any, batch: dict[str, np.ndarray]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """(outputs at real tokens, the loss): see `ours.loss`, which is gptjax."""
    result = loaded(**arguments(model, batch))
    real = torch.tensor(batch['segments'] > 0)
    targets = torch.tensor(batch['targets']).long()[real]
    labels = torch.tensor(batch['labels']).long()
    outputs = {}
    loss = torch.zeros(())
    if model in cases.HEADLESS:
        outputs['hidden'] = result.last_hidden_state[real]
        probe = weights.tensor('probe.weight', outputs['hidden'].shape, 0)
        loss = loss + (outputs['hidden'] * torch.tensor(probe)).sum()
    elif model.endswith('Classification'):
        outputs['classes'] = result.logits
    elif model == 'BertForPreTraining':
        outputs['logits'] = result.prediction_logits[real]
        outputs['classes'] = result.seq_relationship_logits
    else:
        outputs['logits'] = result.logits[real]
    if 'logits' in outputs:
        loss = loss + functional.cross_entropy(outputs['logits'], targets)
    if 'classes' in outputs:
        loss = loss + functional.cross_entropy(outputs['classes'], labels)
    return outputs, loss


def _named(loaded: Any) -> dict[str, torch.Tensor]:
    return dict(loaded.named_parameters()) | dict(loaded.named_buffers())


def _part(named: dict[str, Any], name: str) -> tuple[torch.Tensor, Any]:
    """(the tensor in memory, the slice of it that the file holds under this name)."""
    if name in named:
        return named[name], slice(None)
    moe = re.fullmatch(
        r'(.*)\.block_sparse_moe\.(experts\.(\d+)\.w(\d)|gate)\..*', name
    )
    assert moe is not None, name
    if moe[2] == 'gate':
        return named[f'{moe[1]}.mlp.gate.weight'], slice(None)
    kind = 'down_proj' if moe[4] == '2' else 'gate_up_proj'
    stacked = named[f'{moe[1]}.mlp.experts.{kind}']
    F = stacked.shape[1] // 2
    half = {'1': slice(None, F), '2': slice(None), '3': slice(F, None)}[moe[4]]
    return stacked, (int(moe[3]), half)


def truth(name: str, seed: int, path: Path) -> Truth:
    """Runs a case on the weights of `seed`, by way of a folder at `path`."""
    case = cases.CASES[name]
    config, shapes = blank(case, path)
    tensors = folder.write(path, config, shapes, seed)
    loaded = load(case.model, path)
    named = _named(loaded)
    if 'final_logits_bias' in shapes:
        named['final_logits_bias'].requires_grad_(True)
    outputs, loss = run(case.model, loaded, cases.inputs(name, seed))
    loss.backward()
    gradients = {}
    for tensor_name, value in tensors.items():
        tensor, part = _part(named, tensor_name)
        np.testing.assert_array_equal(tensor[part].detach().numpy(), value)
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        gradients[tensor_name] = gradient[part].numpy()
    arrays = {key: value.detach().numpy() for key, value in outputs.items()}
    return Truth(config, shapes, arrays | {'loss': loss.detach().numpy()}, gradients)
