"""Writes chat.json: what transformers and TRL make of conversations.

    make golden        (in a virtual environment of its own: torch, transformers, trl)

Of each conversation it holds a digest of `apply_chat_template` with
`return_assistant_tokens_mask`, by the published template of the format, and of a few
of them the loss of TRL's SFTTrainer on a tiny GPT-2 of the weights of weights.py.
"""

import json
from pathlib import Path
import sys
import tempfile

import datasets
import numpy as np
import torch
import transformers
import trl

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden import chat_cases, folder, oracle

TEMPLATES = Path(trl.__file__).parent / 'chat_templates'


def published(name: str) -> str:
    return (TEMPLATES / f'{chat_cases.FORMATS[name][0]}.jinja').read_text('utf-8')


def tokenizer(
    name: str, path: Path, template: str
) -> transformers.PreTrainedTokenizerBase:
    """The format's tokenizer with a template, as transformers reads its folder."""
    path.mkdir(parents=True, exist_ok=True)
    for file, content in chat_cases.tokenizer_files(name, template).items():
        (path / file).write_bytes(content)
    return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)


def encode(theirs, messages: list, tools: list | None) -> tuple[list, list]:
    found = theirs.apply_chat_template(
        messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True
    )
    return list(found['input_ids']), list(found['assistant_masks'])


def sft(found: list[tuple[list, list]], path: Path) -> dict:
    """The mean loss of TRL's trainer on ids and masks in one batch, and the model."""
    model_class = transformers.GPT2LMHeadModel
    blank = model_class(transformers.GPT2Config(**chat_cases.CONFIG))
    blank.save_pretrained(path)
    names = {n: list(t.shape) for n, t in blank.state_dict().items()}
    config = json.loads((path / 'config.json').read_text())
    shapes = {n: s for n, s in names.items() if n != 'lm_head.weight'}
    folder.write(path, config, shapes, seed=0)
    model = oracle.load('GPT2LMHeadModel', path)
    columns = {
        'input_ids': [ids for ids, _ in found],
        'assistant_masks': [mask for _, mask in found],
    }
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(
            output_dir=str(path / 'out'),
            per_device_train_batch_size=len(found),
            max_length=None,
            report_to='none',
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
        ),
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=tokenizer(
            chat_cases.SFT, path / 'tokenizer', published(chat_cases.SFT)
        ),
    )
    (batch,) = trainer.get_train_dataloader()
    learned = int((batch['labels'][:, 1:] != -100).sum())
    assert learned == sum(sum(mask[1:]) for _, mask in found)
    with torch.no_grad():
        loss = float(trainer.compute_loss(model.eval(), batch))
    ids, masks = [one[0] for one in found], [one[1] for one in found]
    model = {'config': config, 'shapes': shapes}
    return {'ids': ids, 'masks': masks, 'loss': loss, **model}


def chosen(found: list[tuple[list, list]]) -> list[tuple[list, list]]:
    """The first conversations that fit into the context of the tiny model."""
    return [one for one in found if len(one[0]) <= chat_cases.T][:6]


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    stored: dict = {'digests': {}}
    with tempfile.TemporaryDirectory() as where:
        for name in chat_cases.FORMATS:
            theirs = tokenizer(name, Path(where) / name, published(name))
            found = [encode(theirs, *one) for one in chat_cases.conversations(name)]
            stored['digests'][name] = [chat_cases.digest(*one) for one in found]
            share = np.mean([np.mean(mask) for _, mask in found])
            print(f'{name:8} {len(found)} conversations, {share:.0%} learned')
            if name == chat_cases.SFT:
                stored['sft'] = sft(chosen(found), Path(where) / 'model')
    versions = [f'{m.__name__} {m.__version__}' for m in (torch, transformers, trl)]
    stored['versions'] = ', '.join(versions)
    path = Path(__file__).with_name('chat.json')
    path.write_text(json.dumps(stored) + '\n')
    print(path, path.stat().st_size, 'bytes, loss', stored['sft']['loss'], versions)


if __name__ == '__main__':
    main()
