"""PEFT's side of _post_peft.py: a batch whose rows go through different adapters.

    python _peer_peft.py FOLDER TURNS    asked.json, base/ and a folder an adapter

Prints JSON: the tokens of the rows, and the seconds of each turn.
"""

import json
from pathlib import Path
import sys
import time

import peft
import torch
import transformers


def main(folder: Path, turns: int) -> None:
    transformers.logging.set_verbosity_error()
    asked = json.loads((folder / 'asked.json').read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / 'base')
    names = sorted({name for name in asked['adapters'] if name != '__base__'})
    adapted = peft.PeftModel.from_pretrained(model, folder / names[0], names[0])
    for name in names[1:]:
        adapted.load_adapter(folder / name, name)
    prompts = torch.tensor(asked['prompts'])
    options = dict(
        input_ids=prompts,
        attention_mask=torch.ones_like(prompts),
        adapter_names=asked['adapters'],
        max_new_tokens=asked['tokens'],
        suppress_tokens=asked['unsaid'],
        do_sample=False,
        pad_token_id=0,
    )
    seconds = []
    with torch.no_grad():
        adapted.eval().generate(**options)
        for _ in range(turns):
            before = time.perf_counter()
            rows = adapted.generate(**options)
            seconds.append(time.perf_counter() - before)
    made = rows[:, prompts.shape[1] :].tolist()
    print(json.dumps({'tokens': made, 'seconds': seconds}))


if __name__ == '__main__':
    main(Path(sys.argv[1]), int(sys.argv[2]))
